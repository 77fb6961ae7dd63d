"""What stands on the disk of a sidecar that does not run, read without its code: for what is known when it is lost."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from purser.sync.v1 import usage_pb2 as usage

_FILE: Final = "outbox.sqlite3"
_ACKNOWLEDGED: Final = """
SELECT body FROM records JOIN incarnations ON id >> 40 = no WHERE id & ((1 << 40) - 1) <= cursor
"""


@dataclass(frozen=True, slots=True)
class Disk:
    """Its outbox."""

    incarnations: frozenset[str] = frozenset()
    acknowledged: frozenset[str] = frozenset()
    """Keys of what the control plane has confirmed."""


def read_disk(data: Path) -> Disk:
    """Of this data folder; what a process had not begun yet is empty."""
    with tempfile.TemporaryDirectory() as folder:
        # A copy: who opens the log of SQLite writes beside it, and this disk may be full.
        for file in data.glob(f"{_FILE}*"):
            if file.name in {_FILE, f"{_FILE}-wal"}:
                shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / _FILE)) as outbox:
            if not outbox.execute("SELECT 1 FROM sqlite_master WHERE name = 'incarnations'").fetchone():
                return Disk()
            names = outbox.execute("SELECT incarnation_id FROM incarnations").fetchall()
            bodies = outbox.execute(_ACKNOWLEDGED).fetchall()
    records = [usage.Record.FromString(body) for (body,) in bodies]
    keys = {record.usage.event.idempotency_key for record in records if record.HasField("usage")}
    return Disk(frozenset(name for (name,) in names), frozenset(keys))
