"""Open reservations whose rows the disk has lost: a set-aside copies what can be read."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.reserving.ending import Ending
from sidecar.deciding.reserving.expiry import Expiry
from sidecar.engine.reservation import ReservationState
from sidecar.leases.book import LeaseBook
from tests.unit.sidecar.outbox.opening import opened_outbox

AT = datetime(2026, 1, 1, tzinfo=UTC)
LASTS = timedelta(minutes=5)


class Office:
    """Reservations over a real outbox; nothing is settled, so nothing is decided."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "outbox.sqlite3"
        self.outbox = opened_outbox(folder)
        nobody = cast("Any", None)
        book = LeaseBook()
        self.now = AT
        self.desk = Desk(outbox=self.outbox, book=book, parties=nobody)
        self.commits = Commits(self.outbox, book, nobody, self.desk, nobody)
        self.ending = Ending(self.desk, nobody, self.commits, lambda: self.now)
        self.expire = Expiry(self.desk, self.ending, lambda: self.now)

    def reserve(self, *names: str) -> None:
        for name in names:
            assert self.commits.hold(_reserved(name), None, None)

    def lose(self, name: str) -> None:
        """The row is gone, as after a set-aside that could not read it."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute("DELETE FROM reservations WHERE reservation_id = ?", (name,))


def _reserved(name: str) -> Reserved:
    return Reserved(
        reservation_id=name,
        version=1,
        state=ReservationState.OPEN,
        customer_id="acme",
        subject_id="",
        feature="chat",
        event=b"",
        content_hash=b"h",
        decision=b"",
        decision_id="d",
        view_revision=1,
        reserved_at=AT,
        expires_at=AT + LASTS,
    )


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Without threads."""
    found = Office(tmp_path)
    yield found
    found.outbox.close()


def test_one_that_the_disk_has_lost_expires_and_so_do_those_behind_it(office: Office) -> None:
    """What is remembered is the truth: it ends like the others, and its row is there again."""
    office.reserve("r0", "r1", "r2")
    office.lose("r1")
    office.now += 2 * LASTS
    assert office.expire() == 3
    assert not office.desk.is_busy
    for name in ("r0", "r1", "r2"):
        row = office.outbox.reservation(name)
        assert row is not None, name
        assert not row.is_open


def test_one_that_the_disk_has_lost_is_released_when_it_is_asked_for(office: Office) -> None:
    """Its caller hears that it ended, and not that somebody else had changed it."""
    office.reserve("r1")
    office.lose("r1")
    found = office.desk.find("r1")
    assert found is not None
    ended = office.ending(found, ReservationState.RELEASED)
    assert ended.state is ReservationState.RELEASED
    assert office.desk.find("r1") == ended


def test_one_whose_row_is_spoiled_ends_after_the_file_was_set_aside(office: Office) -> None:
    """Who meets the spoiled row has the file set aside, which copies the others; then all of them end."""
    office.reserve("r0", "r1", "r2")
    with closing(sqlite3.connect(office.file)) as connection, connection:
        connection.execute("UPDATE reservations SET checksum = checksum + 1 WHERE reservation_id = 'r1'")
    office.now += 2 * LASTS
    assert office.expire() == 1, (
        "r0; the row of r1 is met, and nothing is written before the file is set aside"
    )
    office.outbox._writer.step(timeout_seconds=0)
    assert office.expire() == 2
    assert not office.desk.is_busy
