"""What a sidecar's disk had is read from it, whatever state a killed process has left it in."""

from __future__ import annotations

import itertools
from pathlib import Path

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import Write
from sidecar.outbox.sqlite import SqliteOutbox
from tests.e2e.histories.disk import Disk, read_disk
from tests.unit.sidecar.outbox.opening import opened_outbox


def _use(outbox: SqliteOutbox, key: str) -> None:
    body = usage.Usage()
    body.event.idempotency_key = key
    outbox.commit(Write(body.SerializeToString()))


def test_what_was_confirmed_and_who_wrote(tmp_path: Path) -> None:
    """Of each process up to its own cursor; also of one that has all of it in its log."""
    ids = itertools.count(1)
    earlier = opened_outbox(tmp_path, ids)
    for key in ("a", "b"):
        _use(earlier, key)
    who = [earlier.identity.incarnation_id]
    earlier.acknowledge(who[0], 1)
    earlier.close()
    outbox = opened_outbox(tmp_path, ids)
    for key in ("c", "d", "e"):
        _use(outbox, key)
    who.append(outbox.identity.incarnation_id)
    outbox.acknowledge(who[1], 2)
    assert read_disk(tmp_path) == Disk(frozenset(who), frozenset({"a", "c", "d"}))
    outbox.close()


def test_a_disk_on_which_nothing_was_written(tmp_path: Path) -> None:
    """A process that was killed at its start leaves no file, or an empty one."""
    assert read_disk(tmp_path) == Disk()
    (tmp_path / "outbox.sqlite3").touch()
    assert read_disk(tmp_path) == Disk()
