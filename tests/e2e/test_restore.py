"""A control plane is put back to an earlier point under two sidecars that go on: with real processes, on SQLite."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import make_url

import purser
from control_plane.db.engine import create_engine
from control_plane.db.unit_of_work import Database
from control_plane.ledger.audit import audit, oversold
from tests.e2e.fleet import Fleet, Sidecar, eventually

AMOUNT: Final = 300
TTL: Final = timedelta(seconds=2)
GRACE: Final = timedelta(seconds=5)
PAUSE: Final = TTL * 1.01 + GRACE
"""Longer than a sidecar waits before it connects again, so that both are back before anything is leased."""


@pytest.fixture
def fleet(tmp_path: Path, sqlite_url: str) -> Iterator[Fleet]:
    """A control plane with short leases, and the catalog of these tests."""
    fleet = Fleet(tmp_path, sqlite_url, "--set", "lease_ttl=PT2S", "--set", "grace=PT5S")
    try:
        fleet.publish()
        yield fleet
    finally:
        fleet.close()


def test_a_restore_loses_nothing_and_grants_nothing_twice(
    fleet: Fleet, tmp_path: Path, sqlite_url: str
) -> None:
    """What was acknowledged after the backup is sent again and booked once; nothing is leased during the pause but what
    holders present; afterwards the balance is spent to the last and not beyond.
    """
    one, two = fleet.sidecar(), fleet.sidecar()
    fleet.customer("acme", "prepaid", amount=str(AMOUNT))
    fleet.customer("bert", "prepaid", amount="10")
    database = Path(make_url(sqlite_url).database or "")
    acknowledged: set[str] = set()
    for number in range(20):
        acknowledged |= consume(one, f"before-{number}") | consume(two, f"before-two-{number}")
    assert len(acknowledged) == 40
    eventually(lambda: keys(fleet) == acknowledged, seconds=20, what="all is in the books")
    assert fleet.control_plane.terminate() == 0
    backup = tmp_path / "backup.sqlite3"
    shutil.copy(database, backup)

    fleet.control_plane.start()
    eventually(lambda: consume(one, "after") != set(), seconds=20, what="leasing goes on")
    acknowledged.add("after")
    for number in range(30):
        acknowledged |= consume(one, f"after-{number}")
    two.kill()
    two.start()  # the backup knows its earlier incarnation only, and as open
    eventually(lambda: consume(two, "after-two") != set(), seconds=20, what="leasing goes on")
    acknowledged.add("after-two")
    for number in range(30):
        acknowledged |= consume(two, f"after-two-{number}")
    eventually(lambda: keys(fleet) == acknowledged, seconds=20, what="all is in the books")
    assert fleet.control_plane.terminate() == 0
    alone: set[str] = set()
    for number in range(5):
        alone |= consume(one, f"alone-{number}") | consume(two, f"alone-two-{number}")
    assert alone, "what is leased is spent meanwhile"
    acknowledged |= alone
    known = lease_ids(database)
    for leftover in database.parent.glob(f"{database.name}*"):
        leftover.unlink()
    shutil.copy(backup, database)
    migrate = [sys.executable, "-m", "clients.cli", "migrate", "--restored", "--database", sqlite_url]
    assert b"restored: generation" in subprocess.run(migrate, check=True, capture_output=True).stdout

    fleet.control_plane.start()
    refused = one.client.consume(**job("bert-1", "bert"))
    began = time.monotonic()
    while not refused.allowed and time.monotonic() - began < 3 * PAUSE.total_seconds():
        assert refused.reason != purser.Reason.CUSTOMER_NOT_FOUND
        time.sleep(0.2)
        refused = one.client.consume(**job("bert-1", "bert"))
    assert refused.allowed, refused.message
    eventually(lambda: keys(fleet) >= acknowledged, seconds=30, what="everything was sent again")
    resumed_at, made = restored_books(database)
    assert set(made) & known - lease_ids(backup), "leases that the backup had not seen were presented"
    early = {lease_id for lease_id, at in made.items() if at < resumed_at + PAUSE / timedelta(microseconds=1)}
    assert early <= known, "nothing is leased for one lease time"
    assert set(made) - known, "then leasing works again"

    acknowledged |= spend_the_rest("both", one, two)
    assert two.terminate() == 0  # the last crumbs are no longer shared
    acknowledged |= spend_the_rest("last", one)
    eventually(lambda: keys(fleet) == acknowledged, seconds=30, what="the books are what was acknowledged")
    assert len(fleet.events("acme")) == len(acknowledged) == AMOUNT
    assert one.terminate() == 0
    eventually(
        lambda: fleet.balance("acme", "wallet:credit")["spent"] == AMOUNT, seconds=30, what="all is spent"
    )
    assert fleet.balance("acme", "wallet:credit")["overage"] == 0
    assert asyncio.run(violations(sqlite_url)) == ([], 0)


def spend_the_rest(name: str, *sidecars: Sidecar) -> set[str]:
    """Consumes until nothing comes for a while: the keys. Through one alone for longer than it remembers a refusal."""
    spent: set[str] = set()
    deadline = time.monotonic() + 60
    number = empty = 0
    while empty < (4 if len(sidecars) > 1 else 24):
        assert time.monotonic() < deadline, "the balance never ends"
        number += 1
        got = consume(sidecars[number % len(sidecars)], f"{name}-{number}")
        spent |= got
        empty = 0 if got else empty + 1
        if not got:
            time.sleep(0.5)  # what the other one holds comes back when its lease ends
    return spent


def consume(sidecar: Sidecar, key: str) -> set[str]:
    """One credit: its key, if it was acknowledged."""
    return {key} if sidecar.client.consume(**job(key)).allowed else set()


def job(key: str, customer_id: str = "acme") -> purser.types.EventFields:
    """One credit's worth."""
    return {
        "idempotency_key": key,
        "customer_id": customer_id,
        "event_name": "job",
        "measures": {"points": 1},
    }


def keys(fleet: Fleet) -> set[str]:
    """Acme's events in the books, each once."""
    events = [event["idempotency_key"] for event in fleet.events("acme")]
    assert len(events) == len(set(events))
    return set(events)


def lease_ids(database: Path) -> set[str]:
    """Every lease in the file."""
    with closing(sqlite3.connect(database)) as connection:
        return {lease_id for (lease_id,) in connection.execute("SELECT id FROM leases")}


def restored_books(database: Path) -> tuple[int, dict[str, int]]:
    """When the first sidecar was back, and leases that were written since, with when (microseconds)."""
    with closing(sqlite3.connect(database)) as connection:
        (resumed_at,) = connection.execute("SELECT resumed_at FROM revisions").fetchone()
        rows = connection.execute("SELECT id, created_at FROM leases WHERE created_at >= ?", (resumed_at,))
        return resumed_at, dict(rows.fetchall())


async def violations(url: str) -> tuple[list[str], int]:
    """Equations of the books that do not hold, and what was oversold."""
    database = Database(create_engine(url))
    try:
        async with database.read() as uow:
            return await audit(uow), await oversold(uow)
    finally:
        await database.close()
