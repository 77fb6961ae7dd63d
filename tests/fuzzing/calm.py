"""What must not happen while odd things come in: a traceback in the log, or memory without end."""

import logging
import resource
import sys
import tracemalloc
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

from structlog.testing import capture_logs

MIB: Final = 1 << 20


class _Heard(logging.Handler):
    """Everything that libraries say with a traceback, or as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it in words."""
        self.heard.append(logging.Formatter().format(record))


@contextmanager
def without_traceback() -> Iterator[list[MutableMapping[str, Any]]]:
    """Fails at its end if anything inside was logged with a traceback, or by a library as an error. Gives what our own
    code logged so far.
    """
    handler = _Heard()
    logging.getLogger().addHandler(handler)
    try:
        with capture_logs() as entries:
            yield entries
    finally:
        logging.getLogger().removeHandler(handler)
    assert not handler.heard, handler.heard
    assert not [entry for entry in entries if entry.get("exc_info")], entries


@contextmanager
def within_memory(*, mib: int) -> Iterator[None]:
    """Fails at its end if Python ever held so much more than at the beginning. Slows down what runs inside."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < mib * MIB, f"{(peak - before) / MIB:.0f} MiB"


def peak_mib() -> float:
    """The most memory that this process ever had, with all that is not Python's."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)
