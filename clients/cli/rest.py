"""Talks to the control plane's REST API from a shell."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import typer

from clients.cli import output

CONTROL_PLANE = "http://127.0.0.1:7081"
ControlPlane = Annotated[
    str,
    typer.Option(
        "--control-plane", envvar="PURSER_CONTROL_PLANE_HTTP", help="URL of the control plane's REST API."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token", envvar="PURSER_ADMIN_TOKEN", help="Bearer token, where the control plane asks for one."
    ),
]
TIMEOUT_SECONDS = 30.0


class RestError(Exception):
    """The control plane said no, or did not answer."""


def call(
    control_plane: str,
    token: str,
    method: str,
    path: str,
    *,
    params: Any = None,
    content: bytes | None = None,
) -> Any:
    """One call under /v1; its JSON.

    Raises:
        typer.Exit: it failed; the problem, with every field that it names, is on standard error.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if content is not None:
        headers["Content-Type"] = "application/yaml"
    try:
        response = httpx.request(
            method,
            f"{control_plane}/v1{path}",
            params=params,
            content=content,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
        )
    except httpx.HTTPError as error:
        raise output.fail(RestError(f"{control_plane} does not answer: {error}")) from error
    if response.is_success:
        return response.json()
    raise output.fail(RestError(_problem(response)))


def _problem(response: httpx.Response) -> str:
    try:
        problem = response.json()
    except ValueError:
        return f"{response.status_code} {response.text[:500]}"
    lines = [f"{problem.get('title', response.status_code)}: {problem.get('detail', '')}"]
    lines += [
        "  " + "  ".join(f"{name} {value}" for name, value in error.items())
        for error in problem.get("errors", ())
    ]
    return "\n".join(lines)
