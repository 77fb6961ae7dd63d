"""Clocks, waiting, loops, and outcomes that become known later."""

import io
import json
import logging
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.runtime.backoff import Backoff
from sidecar.runtime.boot import boot_id
from sidecar.runtime.clock import ManualClock, SystemClock, from_microseconds, microseconds
from sidecar.runtime.lifecycle import Loop
from sidecar.runtime.listening import CanNotListen, listening
from sidecar.runtime.logs import set_up_logs
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import Resolution


def test_instants_survive_being_stored() -> None:
    """To the microsecond, and before 1970 too."""
    for at in (datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC)):
        assert from_microseconds(microseconds(at)) == at


def test_the_system_clock_is_aware_and_counts_up() -> None:
    """UTC, and never back."""
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()


def test_setting_the_wall_clock_does_not_move_the_counting_one() -> None:
    """What is counted does not depend on what people set."""
    clock = ManualClock()
    before = clock.monotonic()
    clock.shift_wall(-3600)
    assert clock.monotonic() == before


def test_waiting_doubles_up_to_its_bound_and_starts_over() -> None:
    """Full jitter: between nothing and a bound that doubles."""
    backoff = Backoff(Random(1), first_seconds=0.1, longest_seconds=1.0)
    waits = [backoff.failed() for _ in range(200)]
    assert all(wait <= min(1.0, 0.1 * 2**n) for n, wait in enumerate(waits))
    assert max(waits[10:]) > 0.9
    assert min(waits[10:]) < 0.1
    backoff.worked()
    assert backoff.failed() <= 0.1


def test_a_resolution_is_told_once_to_everyone() -> None:
    """Those who ask before and after hear the same; a second outcome does not count."""
    resolution = Resolution()
    heard: list[bool] = []
    resolution.then(heard.append)
    assert heard == []
    resolution.resolve(applied=True)
    resolution.resolve(applied=False)
    resolution.then(heard.append)
    assert heard == [True, True]


def test_a_loop_goes_on_after_an_error_and_stops_when_told() -> None:
    """A kick ends the rest, also the one after a failed step."""
    steps: list[int] = []
    twice = threading.Event()

    def step() -> float:
        steps.append(1)
        if len(steps) == 1:
            raise ValueError("a bug")
        twice.set()
        return 60.0

    loop = Loop("test", step)
    loop.start()
    loop.kick()
    assert twice.wait(10)
    assert loop.stop(10)


def test_metrics_are_declared_once_per_registry() -> None:
    """Each with a help text; a second declaration in one registry is an error."""
    registry = CollectorRegistry()
    Metrics(registry)
    text = generate_latest(registry).decode()
    assert "purser_outbox_healthy 1.0" in text
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_logs_are_json_lines_for_structlog_and_the_standard_library() -> None:
    """One object a line, with level, time and service."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logs(stream=stream, service="test")
        structlog.stdlib.get_logger("a").warning("it happened", number=1)
        logging.getLogger("b").error("so did %s", "that")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["it happened", "so did that"]
    assert [line["level"] for line in lines] == ["warning", "error"]
    assert {line["service"] for line in lines} == {"test"}
    assert lines[0]["number"] == 1


def test_a_machine_without_a_boot_id_has_none(tmp_path: Path) -> None:
    """Empty, which the outbox takes for another boot."""
    assert boot_id(tmp_path / "missing") == ""
    (tmp_path / "id").write_text("abc\n")
    assert boot_id(tmp_path / "id") == "abc"


def test_an_address_is_refused_when_nothing_of_it_can_be_had() -> None:
    """It is not even tried then; what is free is, and so is a path, whose library's own word is passed on."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with (
            pytest.raises(CanNotListen, match=f"grpc 127.0.0.1:{port}: port {port} is taken"),
            listening("grpc", f"127.0.0.1:{port}"),
        ):
            raise AssertionError("not tried")
    for address in (f"127.0.0.1:{port}", "127.0.0.1:0", "unix:/nowhere"):
        with listening("grpc", address):
            pass
    with (
        pytest.raises(CanNotListen, match=r"unix:/nowhere: .*\(no such folder\)"),
        listening("grpc", "unix:/nowhere"),
    ):
        raise OSError("no such folder")
