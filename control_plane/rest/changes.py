"""A change over REST: one transaction, once per Idempotency-Key, answered with its revision."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from starlette.responses import Response

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.errors import FieldProblem, Invalid
from control_plane.rest.problems import KeyReused
from control_plane.rest.tables import idempotent_answers

KEY_BYTES = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """What a change is answered with; `revision` is added to `body`. `version` becomes the ETag."""

    body: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    version: int | None = None


Work = Callable[[UnitOfWork], Awaitable[Answer]]


def database_of(request: Request) -> Database:
    """The database that this app was made for."""
    database = request.app.state.database
    assert isinstance(database, Database)
    return database


class Changes:
    """Runs the change of one request."""

    def __init__(self, request: Request, key: str | None) -> None:
        self._request = request
        self._key = key

    async def run(self, work: Work) -> Response:
        """Does the work in a transaction and answers it; or, when its key was answered before, answers that again."""
        digest = await self._digest()

        async def once(uow: UnitOfWork) -> Response:
            if self._key is not None:
                stored = await _claim(uow, self._key, digest)
                if stored is not None:
                    return stored
            done = await work(uow)
            await uow.seal()
            response = respond(
                {**done.body, "revision": await uow.read_revision()}, done.status, done.version
            )
            if self._key is not None:
                await _store(uow, self._key, response)
            return response

        return await database_of(self._request).transact(once)

    async def _digest(self) -> bytes:
        request = self._request
        head = f"{request.method} {request.url.path}?{request.url.query}\n{request.headers.get('if-match', '')}\n"
        return hashlib.sha256(head.encode() + await request.body()).digest()


async def changes_of(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(max_length=KEY_BYTES, description="Names this request: it is done once.")
    ] = None,
) -> Changes:
    return Changes(request, idempotency_key or None)


Changing = Annotated[Changes, Depends(changes_of)]


async def version_of(
    if_match: Annotated[
        str | None, Header(description="An ETag: change it only if it is still that version.")
    ] = None,
) -> int | None:
    """The version in If-Match; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit()):
        raise Invalid(FieldProblem("If-Match", 'an ETag as it was answered, such as "3"'))
    return int(text)


IfMatch = Annotated[int | None, Depends(version_of)]


def respond(body: Any, status: int = 200, version: int | None = None) -> Response:
    """JSON, with the version as ETag."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


async def forget_answers(uow: UnitOfWork, *, before: datetime) -> int:
    """Deletes answers stored before that instant; returns how many."""
    old = delete(idempotent_answers).where(idempotent_answers.c.created_at < before)
    return (await uow.connection.execute(old)).rowcount


async def _claim(uow: UnitOfWork, key: str, digest: bytes) -> Response | None:
    """Takes the key for this transaction; whoever else has it now is waited for. The stored answer if it is taken."""
    insert = sqlite.insert if uow.connection.dialect.name == "sqlite" else postgresql.insert
    claim = insert(idempotent_answers).values(key=key, request_hash=digest, created_at=uow.now)
    taken = await uow.connection.execute(claim.on_conflict_do_nothing().returning(idempotent_answers.c.key))
    if taken.one_or_none() is not None:
        return None
    rows = await uow.connection.execute(select(idempotent_answers).where(idempotent_answers.c.key == key))
    stored = rows.one()
    if stored.request_hash != digest:
        raise KeyReused(f"{key!r} named another request before; a new request needs a key of its own")
    return Response(stored.body, stored.status, stored.headers, media_type="application/json")


async def _store(uow: UnitOfWork, key: str, response: Response) -> None:
    kept = {name: value for name, value in response.headers.items() if name == "etag"}
    await uow.connection.execute(
        update(idempotent_answers)
        .where(idempotent_answers.c.key == key)
        .values(status=response.status_code, headers=kept, body=bytes(response.body))
    )
