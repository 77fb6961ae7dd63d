"""The second guard: who won an idempotency key."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, select

from control_plane.db.bulk import append, read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.usage.records import Item
from control_plane.usage.tables import event_keys

_KEY: Final = (event_keys.c.customer_id, event_keys.c.idempotency_key)
_WINNERS: Final = select(*_KEY, event_keys.c.event_uid, event_keys.c.content_hash)


class Standing(Enum):
    """What a record is to its key."""

    FIRST = "first"
    SAME = "same"
    """The very record that won it, again."""
    DUPLICATE = "duplicate"
    """Another record with the same content."""
    CONFLICT = "conflict"
    """Another record with other content."""


class Winner(NamedTuple):
    """Who has a key."""

    event_uid: str
    content_hash: bytes


class Keys:
    """The keys of one batch: looked up together, won in order, written together."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow
        self._winners: dict[tuple[str, str], Winner] = {}
        self._new: list[dict[str, Any]] = []

    async def load(self, items: Iterable[Item]) -> None:
        """Reads who has these keys."""
        keys = sorted({item.key for item in items})
        rows = await read_by_keys(self._uow.connection, _WINNERS, _KEY, keys)
        for customer_id, key, event_uid, content_hash in rows:
            self._winners[customer_id, key] = Winner(event_uid, bytes(content_hash))

    def standing(self, item: Item) -> Standing:
        """What the record is to its key."""
        winner = self._winners.get(item.key)
        if winner is None:
            return Standing.FIRST
        if winner.event_uid == item.name:
            return Standing.SAME
        same = winner.content_hash == item.usage.content_hash
        return Standing.DUPLICATE if same else Standing.CONFLICT

    def winner(self, item: Item) -> str | None:
        """The uid of the event that has the record's key."""
        winner = self._winners.get(item.key)
        return winner.event_uid if winner else None

    def win(self, item: Item) -> None:
        """The record has its key from now on."""
        self._winners[item.key] = Winner(item.name, item.usage.content_hash)
        self._new.append(
            {
                "customer_id": item.key[0],
                "idempotency_key": item.key[1],
                "event_uid": item.name,
                "content_hash": item.usage.content_hash,
                "recorded_at": self._uow.now,
            }
        )

    async def save(self) -> None:
        """Writes what was won. A key that somebody else won meanwhile fails the statement, and the batch is
        tried again.
        """
        rows: Sequence[dict[str, Any]] = sorted(
            self._new, key=lambda row: (row["customer_id"], row["idempotency_key"])
        )
        await append(self._uow.connection, event_keys, rows)


async def forget_keys(uow: UnitOfWork, *, days: int) -> None:
    """Deletes keys that are older than any repeat that is judged by them."""
    await uow.connection.execute(
        delete(event_keys).where(event_keys.c.recorded_at < uow.now - timedelta(days=days))
    )
