"""Fleets of real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    """A control plane, once on SQLite and once on PostgreSQL, with the catalog of these tests published."""
    fleet = Fleet(tmp_path, database_url)
    try:
        fleet.publish()
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def small_fleet(tmp_path: Path, sqlite_url: str) -> Iterator[Fleet]:
    """The same on SQLite alone, where the database makes no difference."""
    fleet = Fleet(tmp_path, sqlite_url)
    try:
        fleet.publish()
        yield fleet
    finally:
        fleet.close()
