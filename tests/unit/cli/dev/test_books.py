"""The demo's reading of REST: pages, amounts, problems."""

from __future__ import annotations

from decimal import Decimal

import httpx
import pytest

from clients.cli.dev.books import Booked, Books, BooksRefused

EVENTS = {
    "": {
        "items": [
            {
                "idempotency_key": "a",
                "decided": True,
                "cost": {"unit": "usd", "value": "0.014232"},
                "costs": [{"billed": "0.004"}],
            }
        ]
    },
    "2": {"items": [{"idempotency_key": "b", "decided": False, "cost": None}]},
}
AMOUNTS = {
    "available": "1",
    "leased": "0.5",
    "quarantined": "0.25",
    "spent": "2",
    "presumed": "0",
    "ended": "0",
}


def answer(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/events":
        assert request.url.params["customer_id"] == "ada"
        cursor = request.url.params.get("cursor", "")
        return httpx.Response(200, json=EVENTS[cursor] | {"next_cursor": None if cursor else "2"})
    if request.url.path == "/v1/customers/ada/balances":
        item = {"balance": "wallet:usd", "unit": "usd", "granted": "3.75", "overage": "0", **AMOUNTS}
        return httpx.Response(200, json={"items": [item], "next_cursor": None})
    return httpx.Response(409, json={"title": "Conflict", "detail": "customer ada is there already"})


@pytest.fixture
def books() -> Books:
    """Of a control plane that answers from above."""
    return Books("http://books", transport=httpx.MockTransport(answer))


def test_events_of_all_pages(books: Books) -> None:
    """Pages are followed to the end; costs are exact, and absent where there is none."""
    assert books.events("ada") == [
        Booked("ada", "a", Decimal("0.014232"), decided=True, billed=Decimal("0.004")),
        Booked("ada", "b", None, decided=False),
    ]


def test_what_is_left_of_a_balance(books: Books) -> None:
    """Nobody has spent what is available, leased or quarantined."""
    assert books.balances("ada")["wallet:usd"].left == Decimal("1.75")


def test_a_refusal_says_what_was_asked_and_why(books: Books) -> None:
    """The problem's own words reach the terminal."""
    with pytest.raises(BooksRefused, match=r"POST /customers: 409 .*there already"):
        books.customer("ada", "free")
