"""Connections that fail when a test says so."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sidecar.outbox.file import connect


def error(code: int, message: str) -> sqlite3.OperationalError:
    """As SQLite raises it."""
    made = sqlite3.OperationalError(message)
    made.sqlite_errorcode = code
    return made


@dataclass
class Faults:
    """What to do to every connection that is opened through `connect`."""

    before: Callable[[str], None] = lambda _sql: None
    """Called with each statement before it runs; may raise."""
    after_commit: Callable[[], None] = lambda: None
    """Called when a COMMIT has happened; what it raises, the writer sees."""
    can_open: bool = True

    def connect(self, path: Path, *, creates: bool = True) -> sqlite3.Connection:
        """A connection under these faults."""
        if not self.can_open:
            raise error(sqlite3.SQLITE_CANTOPEN, "unable to open database file")
        return cast("sqlite3.Connection", _Faulty(connect(path, creates=creates), self))

    def heal(self) -> None:
        """All is well again."""
        self.before = lambda _sql: None
        self.after_commit = lambda: None
        self.can_open = True


class _Faulty:
    def __init__(self, real: sqlite3.Connection, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._faults.before(sql)
        cursor = self._real.execute(sql, *args)
        if sql == "COMMIT":
            self._faults.after_commit()
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
