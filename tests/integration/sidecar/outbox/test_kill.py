"""kill -9 of a process that writes: what it answered is there."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import Durability
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.metrics import Metrics

ANSWERED_BEFORE_KILL = 400


def write_until_killed(path: Path, durability: Durability, start: int) -> list[str]:
    """The keys that a process had answered when it was killed in the middle of its work."""
    command = [
        sys.executable,
        "-m",
        "tests.integration.sidecar.outbox.writing",
        str(path),
        durability,
        str(start),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answered = list(itertools.islice(process.stdout, ANSWERED_BEFORE_KILL))
        process.kill()
        answered += list(process.stdout)
    # The last line may have been cut off; what was answered and not printed may be there or not.
    return [line.strip() for line in answered if line.endswith("\n")]


@pytest.mark.parametrize("durability", [Durability.POWER_LOSS, Durability.PROCESS_CRASH])
def test_what_was_answered_is_there_after_kill(tmp_path: Path, durability: Durability) -> None:
    """Two processes in a row are killed; a third finds every answered key, its record once and its hold,
    without gaps.
    """
    path = tmp_path / "outbox.sqlite3"
    answered = write_until_killed(path, durability, 0) + write_until_killed(path, durability, 1_000_000)
    numbers = itertools.count()
    outbox = SqliteOutbox(
        path,
        durability=durability,
        clock=SystemClock(),
        make_id=lambda: f"third{next(numbers)}",
        boot_id="boot",
        metrics=Metrics(CollectorRegistry()),
        min_free_bytes=0,
    )
    try:
        incarnations = outbox.incarnations()
        assert len(incarnations) == 3
        uploaded = []
        for incarnation in incarnations:
            batch = outbox.read_batch(incarnation.incarnation_id, max_records=1 << 30, max_bytes=1 << 40)
            if batch is not None:
                request = usage.ReportBatchRequest.FromString(batch.payload)
                assert request.last_seq == incarnation.last_seq == len(request.records)
                assert all(r.WhichOneof("body") for r in request.records)
                uploaded += [r.usage.decision_id for r in request.records]
        assert len(answered) >= 2 * ANSWERED_BEFORE_KILL
        assert set(answered) <= set(uploaded)
        assert len(set(uploaded)) == len(uploaded)
        assert {r.reservation_id for r in outbox.open_reservations()} == set(uploaded)
        assert all(outbox.key("acme", key) is not None for key in answered[::50])
    finally:
        outbox.close()
