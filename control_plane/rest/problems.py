"""THE table from error to HTTP status, as RFC 9457 problems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from control_plane import errors
from control_plane.catalog.text import BadText
from control_plane.ledger.grants import GrantConflict, GrantRefused, GrantUnknown
from sidecar.engine.values import AmountOutOfRange, NotANumber
from sidecar.runtime import wording

TYPES: Final = "https://purser.dev/problems/"
MEDIA_TYPE: Final = "application/problem+json"

FieldErrors = Sequence[Mapping[str, Any]]


class KeyReused(ValueError):
    """The Idempotency-Key was used before, for another request."""


class Unauthenticated(Exception):
    """The bearer token is missing or wrong."""


class Misread(ValueError):
    """The request is not of the form that its path takes: pydantic's `errors`, and the fields `known` in its body."""

    def __init__(self, errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> None:
        super().__init__()
        self.errors = errors
        self.known = known


class TooLarge(ValueError):
    """The body is larger than what is taken."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered. `shown`: its text may leave the house."""

    status: HTTPStatus
    name: str
    title: str
    fields: Callable[[Any], FieldErrors] = lambda _error: ()
    headers: Mapping[str, str] | None = None
    shown: bool = True


def _invalid(error: errors.Invalid) -> FieldErrors:
    return [{"field": one.field, "problem": one.problem} for one in error.problems]


def _bad_text(error: BadText) -> FieldErrors:
    return [
        {
            "line": one.at.line,
            "column": one.at.column,
            "field": one.path,
            "problem": one.what,
            "mend": one.mend,
        }
        for one in error.problems
    ]


def _misread(error: Misread) -> FieldErrors:
    return [_said_of(one, error.known) for one in error.errors]


def _said_of(one: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, str]:
    match one["type"], one["loc"]:
        case "model_attributes_type" | "model_type" | "missing", ("body",):
            return {"field": "body", "problem": "a JSON object, sent with Content-Type: application/json"}
        case "json_invalid", (_, place):
            return {"field": "body", "problem": not_json(place, one["ctx"]["error"])}
        case "extra_forbidden", (_, _) as location:
            return {"field": _field(location), "problem": f"is no field here; known are {', '.join(known)}"}
        case _, location:
            return {"field": _field(location), "problem": wording.problem(one)}


def not_json(place: int, why: str) -> str:
    """Said of a body. `place`: so many characters are before what can not be read."""
    return f"is not JSON (at character {place}: {why})"


def _field(location: Sequence[str | int]) -> str:
    """`add_ons[0]`: without the `body`, `query` or `path` that it stands in."""
    name = ""
    for step in location[1:]:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name or str(location[0])


_UNPROCESSABLE = HTTPStatus.UNPROCESSABLE_ENTITY
_AGAIN: Final = {"Retry-After": "1"}

TABLE: Final[Mapping[type[Exception], Row]] = {
    errors.Invalid: Row(_UNPROCESSABLE, "invalid", "The request is not valid", _invalid),
    Misread: Row(_UNPROCESSABLE, "invalid", "The request is not valid", _misread, shown=False),
    BadText: Row(_UNPROCESSABLE, "bad-catalog", "The catalog has problems; nothing was changed", _bad_text),
    NotANumber: Row(_UNPROCESSABLE, "invalid", "The request is not valid"),
    AmountOutOfRange: Row(_UNPROCESSABLE, "invalid", "The request is not valid"),
    GrantRefused: Row(_UNPROCESSABLE, "invalid", "The grant is not valid"),
    errors.NotFound: Row(HTTPStatus.NOT_FOUND, "not-found", "There is no such thing"),
    GrantUnknown: Row(HTTPStatus.NOT_FOUND, "not-found", "There is no such grant"),
    errors.AlreadyExists: Row(HTTPStatus.CONFLICT, "already-exists", "The id is taken"),
    errors.WrongState: Row(HTTPStatus.CONFLICT, "wrong-state", "Its state does not allow this"),
    GrantConflict: Row(HTTPStatus.CONFLICT, "already-exists", "The id is taken"),
    KeyReused: Row(HTTPStatus.CONFLICT, "idempotency-key-reused", "The Idempotency-Key was used before"),
    errors.VersionConflict: Row(HTTPStatus.PRECONDITION_FAILED, "version-conflict", "It has changed"),
    Unauthenticated: Row(
        HTTPStatus.UNAUTHORIZED, "unauthenticated", "Say who you are", headers={"WWW-Authenticate": "Bearer"}
    ),
    TooLarge: Row(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "The body is too large"),
    DataError: Row(_UNPROCESSABLE, "invalid", "The request is not valid", shown=False),
    DBAPIError: Row(
        HTTPStatus.SERVICE_UNAVAILABLE, "database", "The database is away", headers=_AGAIN, shown=False
    ),
    PoolTimeout: Row(
        HTTPStatus.SERVICE_UNAVAILABLE, "database", "The database is away", headers=_AGAIN, shown=False
    ),
}

UNFORESEEN: Final = Row(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Something went wrong", shown=False)


def row_for(error: Exception) -> Row:
    """The row of the error's type or of the nearest type above it."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), UNFORESEEN)


def answer(error: Exception) -> JSONResponse:
    """The problem that an error is answered with."""
    row = row_for(error)
    detail = (str(error) or type(error).__doc__ or "") if row.shown else ""
    return problem(
        row.status, row.name, row.title, detail=detail, fields=row.fields(error), headers=row.headers
    )


def problem(
    status: int,
    name: str,
    title: str,
    *,
    detail: str = "",
    fields: FieldErrors = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An RFC 9457 problem; `errors` lists the fields at fault."""
    body: dict[str, Any] = {"type": TYPES + name, "title": title, "status": int(status)}
    fields = [
        {key: _writable(said) if isinstance(said, str) else said for key, said in one.items()}
        for one in fields
    ]
    if not detail and fields:
        detail = "; ".join(f"{one['field']}: {one['problem']}" for one in fields)
    if detail:
        body["detail"] = _writable(detail[:4000])
    if fields:
        body["errors"] = fields
    return JSONResponse(body, int(status), headers=headers, media_type=MEDIA_TYPE)


def _writable(text: str) -> str:
    """A caller's words may hold what UTF-8 can not: half of a surrogate pair is written out as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _known_fields(request: Request) -> Sequence[str]:
    body = getattr(request.scope.get("route"), "body_field", None)
    form = None if body is None else body.field_info.annotation
    return list(form.model_fields) if isinstance(form, type) and issubclass(form, BaseModel) else []


def _methods(app: FastAPI, path: str, found: str) -> set[str]:
    """What a path takes: `found`, which is what its first route takes, and what the others take that are documented."""
    methods = {name.strip() for name in found.split(",") if name.strip()}
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].fullmatch(path):
            methods |= {name.upper() for name in operations}
    return methods


def install(app: FastAPI) -> None:
    """Every error that leaves the app is a problem."""

    async def known(_request: Request, error: Exception) -> JSONResponse:
        if row_for(error) is UNFORESEEN:
            structlog.get_logger("control_plane.rest").exception("request_failed", exc_info=error)
        return answer(error)

    async def misread(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(Misread(error.errors(), _known_fields(request)))

    async def by_the_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        title = HTTPStatus(error.status_code).phrase
        name = title.lower().replace(" ", "-")
        detail, headers = "", dict(error.headers or {})
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "there is no such path; /docs lists all"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_methods(app, request.url.path, headers.get("Allow", ""))))
            detail = f"this path takes {headers['Allow']}; /docs lists all"
        return problem(error.status_code, name, title, detail=detail, headers=headers)

    app.add_exception_handler(RequestValidationError, misread)
    for kind in TABLE:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, by_the_framework)
    app.add_exception_handler(Exception, known)
