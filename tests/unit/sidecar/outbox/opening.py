"""How tests open an outbox: as a process does, but that nothing is left to chance."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from sidecar.outbox.port import Durability
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.runtime.clock import ManualClock
from sidecar.runtime.metrics import Metrics


def opened_outbox(folder: Path, numbers: Iterator[int] | None = None, **other: Any) -> SqliteOutbox:
    """That of this folder, at a clock that stands, in the caller's thread: every commit is a step. `numbers`: of its
    ids, for openings that follow each other. `other`: what is not as usual, by the names of `SqliteOutbox`.
    """
    ids = numbers or itertools.count(1)
    usual: dict[str, Any] = {
        "durability": Durability.PROCESS_CRASH,
        "clock": ManualClock(),
        "make_id": lambda: f"id{next(ids)}",
        "boot_id": "boot",
        "metrics": Metrics(CollectorRegistry()),
        "min_free_bytes": 0,
        "is_threaded": False,
    }
    return SqliteOutbox(folder / "outbox.sqlite3", **(usual | other))
