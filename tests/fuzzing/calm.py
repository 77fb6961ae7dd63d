"""What must not happen while odd things come in: a traceback in the log, or memory without end."""

import logging
import resource
import sys
import tracemalloc
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from structlog.testing import capture_logs

MIB: Final = 1 << 20
MARK: Final = Path("/proc/self/clear_refs")
"""Where Linux is told to begin the high-water mark anew."""


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


@contextmanager
def within_process_memory(*, mib: int) -> Iterator[None]:
    """Fails at its end if this process ever had so much more memory than at the beginning, with all that is not
    Python's. Not inside of itself: each begins the high-water mark anew.

    Only Linux can do that. Elsewhere the mark is that of the process's whole life, and what stays below it goes unseen.
    """
    if MARK.exists():
        MARK.write_text("5")
    before = _peak_mib()
    yield
    grown = _peak_mib() - before
    assert grown < mib, f"{grown:.0f} MiB"


def _peak_mib() -> float:
    if MARK.exists():
        status = Path("/proc/self/status").read_text()
        (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(kib) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)
