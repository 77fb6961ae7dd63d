"""What went wrong with one thing among many, and was set apart so that the others could go on."""

from collections import Counter

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError


class Faults:
    """Counted by what was being done. One per process and database: `uow.kept(Faults)`."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def set_apart(self, doing: str, **what: str) -> None:
        """Counts and logs the exception that is being handled; `what` names the thing at fault."""
        self.counted[doing] += 1
        structlog.get_logger("control_plane.faults").exception("set_apart", doing=doing, **what)


def is_database_fault(error: Exception) -> bool:
    """Is it the database's doing, and no record's: a lost connection, a deadlock, a full disk?"""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return is_connection_lost(error)


def is_connection_lost(error: Exception) -> bool:
    """Is there no transaction any more to go on in?"""
    return isinstance(error, DBAPIError) and error.connection_invalidated
