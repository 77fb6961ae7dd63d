"""Asking over REST, and what an answer must be like."""

from typing import Any

import httpx

CALL = {"idempotency_key": "k1", "customer_id": "acme", "event_name": "call", "properties": {"size": 3}}


async def ok(answer: Any) -> Any:
    response = await answer
    assert response.is_success, response.text
    return response.json()


def problem(response: httpx.Response, status: int) -> Any:
    """The problem in an answer, which must have this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"].startswith("https://purser.dev/problems/")
    assert body["title"]
    return body
