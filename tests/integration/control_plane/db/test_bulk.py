"""Many rows at once are what they are one by one, whichever way the database takes them."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, StatementError

from control_plane.db.bulk import COPIED, append, read_by_keys, update_rows
from control_plane.db.types import INT64_MAX, AmountOutOfRange
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.leases.tables import sessions
from control_plane.usage.tables import event_charges, event_keys

ODD = 'tab\t, "quoted", back\\slash, line\nbreak, \\N, {}, é, 漢'
MANY = 3 * COPIED
KEY = (event_keys.c.customer_id, event_keys.c.idempotency_key)


def keys(uow: UnitOfWork, count: int) -> list[dict[str, Any]]:
    return [
        {
            "customer_id": ODD,
            "idempotency_key": f"{ODD}{number:04}",
            "event_uid": "",
            "content_hash": bytes([0, 92, 255, number % 256]),
            "recorded_at": uow.now,
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, COPIED - 1, COPIED, MANY])
async def test_rows_are_read_back_as_they_were(database: Database, count: int) -> None:
    """Few or many: odd texts, bytes, instants and empty texts come back exactly."""
    async with database.begin() as uow:
        await append(uow.connection, event_keys, keys(uow, count))
    async with database.read() as uow:
        found = (await uow.connection.execute(select(event_keys).order_by(KEY[1]))).mappings()
        assert [dict(row) for row in found] == keys(uow, count)


async def test_no_rows_are_no_statement(database: Database) -> None:
    """Nothing to write is nothing written."""
    async with database.begin() as uow:
        await append(uow.connection, event_keys, [])
        await update_rows(uow.connection, event_keys, "idempotency_key", [])


@pytest.mark.parametrize("count", [1, 2, MANY])
async def test_rows_become_what_was_given(database: Database, count: int) -> None:
    """Each its own values, of every type that changes, `None` among them; no other row and no other column."""
    async with database.begin() as uow:
        before = [_session(uow, number) for number in range(count + 2)]
        await append(uow.connection, sessions, before)
        given = [
            {
                "outbox_id": row["outbox_id"],
                "cursor": INT64_MAX - number,
                "label": ODD,
                "declared_dead_at": uow.now if number % 2 else None,
            }
            for number, row in enumerate(before[:count])
        ]
        await update_rows(uow.connection, sessions, "outbox_id", given)
    async with database.read() as uow:
        found = (await uow.connection.execute(select(sessions).order_by(sessions.c.outbox_id))).mappings()
        wanted = [row | changed for row, changed in zip(before, given, strict=False)]
        assert [dict(row) for row in found] == wanted + before[count:]


def _session(uow: UnitOfWork, number: int) -> dict[str, Any]:
    return {
        "outbox_id": f"{ODD}{number:04}",
        "incarnation_id": "inc",
        "epoch": 1,
        "cursor": 0,
        "highest_seq": number,
        "label": "",
        "state": "open",
        "opened_at": uow.now,
        "seen_at": uow.now,
        "declared_dead_at": uow.now,
    }


@pytest.mark.parametrize("count", [2, MANY])
async def test_a_key_that_is_taken_fails_as_an_insert_does(database: Database, count: int) -> None:
    """The error is SQLAlchemy's own, and a savepoint around it leaves the transaction whole."""
    async with database.begin() as uow:
        rows = keys(uow, count)
        await append(uow.connection, event_keys, rows[:1])
        with pytest.raises(IntegrityError):
            async with uow.connection.begin_nested():
                await append(uow.connection, event_keys, rows)
        await append(uow.connection, event_keys, rows[1:])
    async with database.read() as uow:
        assert len((await uow.connection.execute(select(event_keys))).all()) == count


@pytest.mark.parametrize("count", [2, MANY])
async def test_an_amount_that_does_not_fit_is_named(database: Database, count: int) -> None:
    """It is found before the database sees it, and says what is the matter."""
    charges = [
        {
            "event_uid": "e",
            "line": number,
            "balance_id": "b",
            "feature": "f",
            "covered": INT64_MAX + (number == count - 1),
            "uncovered": 0,
            "exact": "0",
        }
        for number in range(count)
    ]
    with pytest.raises((AmountOutOfRange, StatementError), match="does not fit 64 bits"):
        async with database.begin() as uow:
            await append(uow.connection, event_charges, charges)


@pytest.mark.parametrize("count", [0, 1, 600])
async def test_pairs_are_found_by_both_parts(database: Database, count: int) -> None:
    """Those that are there, each once; not one whose parts belong to two others."""
    async with database.begin() as uow:
        await append(uow.connection, event_keys, keys(uow, 100))
    asked = [(ODD, f"{ODD}{number:04}") for number in range(count)] + [
        (ODD, "other"),
        ("other", f"{ODD}0000"),
    ]
    async with database.read() as uow:
        found = [tuple(row) for row in await read_by_keys(uow.connection, select(*KEY), KEY, asked)]
    assert sorted(found) == asked[: min(count, 100)]
