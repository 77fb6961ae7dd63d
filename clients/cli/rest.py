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
        "--control-plane",
        envvar="PURSER_CONTROL_PLANE_HTTP",
        help="URL of the control plane's REST API, or host:port.",
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
    url = control_plane if "://" in control_plane else f"http://{control_plane}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if content is not None:
        headers["Content-Type"] = "application/yaml"
    try:
        response = httpx.request(
            method,
            f"{url}/v1{path}",
            params=params,
            content=content,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mend = "start one with `purser dev`, or name another with --control-plane URL"
        raise output.fail(
            RestError(f"no control plane answers at {control_plane} ({error}); {mend}")
        ) from error
    try:
        answer = response.json()
    except ValueError as error:
        who = f"{control_plane} is no control plane's REST API (its answer is no JSON, status {response.status_code})"
        raise output.fail(RestError(f"{who}; by default that is {CONTROL_PLANE}")) from error
    if response.is_success:
        return answer
    raise output.fail(RestError(in_words(answer)))


def in_words(problem: dict[str, Any]) -> str:
    """What a problem says: title and detail, or the title and a line for each field at fault."""
    title, wrong = problem.get("title", problem.get("status", "no")), problem.get("errors", ())
    if not wrong:
        return f"{title}: {problem.get('detail', '')}"
    return "\n".join([str(title), *map(_wrong, wrong)])


def _wrong(error: dict[str, Any]) -> str:
    """One field at fault: where it stands, what is wrong, the mend, as far as they are said."""
    place = f"line {error['line']}, column {error['column']}: " if "line" in error else ""
    field = f"{error['field']}: " if error.get("field") else ""
    mend = f" — {error['mend']}" if error.get("mend") else ""
    return f"  {place}{field}{error.get('problem', '')}{mend}"
