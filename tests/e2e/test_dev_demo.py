"""`purser dev`: the demo as users run it, on real processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.fleet import eventually

pytestmark = pytest.mark.timeout(600)
"""They wait for each other."""

PURSER = [sys.executable, "-m", "clients.cli", "dev"]


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One `purser dev` of these tests at a time, in all workers: each looks for the same ports first."""
    with (tmp_path_factory.getbasetemp().parent / "purser-dev.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


DEMO_SECONDS = 280


def run(*arguments: str, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [*PURSER, *arguments, "--data", str(folder)],
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def small_trace(folder: Path, lines: int) -> Path:
    trace = folder / "trace.csv"
    rows = [f"2023-11-16 18:17:{n % 60:02d}.0,{900 + 37 * n % 5000},{3 + 11 * n % 200}" for n in range(lines)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return trace


@pytest.mark.timeout(300)  # a minute on an idle machine
def test_the_whole_story_holds(tmp_path: Path) -> None:
    """The demo ends with status 0 and one JSON object in which nothing is lost, doubled, oversold or a digit off."""
    trace = small_trace(tmp_path, 400)
    status, out, err = run(
        "--demo", "--exit", "--json", "--seed", "5", "--trace", str(trace), folder=tmp_path / "data"
    )
    assert out, err
    told: dict[str, Any] = json.loads(out)
    assert "the last checks" in err or "checks" in err
    assert [each for each in told["checks"] if not each["held"]] == [], err
    assert status == 0, err
    assert "\x1b" not in out
    assert told["requests"] > 400
    assert told["allowed"] + sum(told["refused"].values()) == told["requests"]
    assert told["events_acknowledged"] == told["events_in_ledger"] > 0
    assert told["oversold"] == 0
    assert told["cost_mismatch"] == 0
    assert told["seed"] == 5
    for rpc in ("CheckAccess", "ConsumeUsage", "ReportUsage", "ReserveUsage", "SettleReservation"):
        assert 0 < told["latency"][rpc]["p50_us"] <= told["latency"][rpc]["p99_us"]
    prepaid = [each for each in told["customers"] if each["plan"] == "prepaid"]
    assert all(each["refused"].get("INSUFFICIENT_CREDITS", 0) > 0 for each in prepaid)
    assert all(each["allowed"] > 0 for each in told["customers"])


def test_a_trace_that_can_not_be_read(tmp_path: Path) -> None:
    """It is refused at once, with its line, before any server starts."""
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,ten,1\n")
    status, _, err = run("--demo", "--exit", "--trace", str(trace), folder=tmp_path / "data")
    assert status == 1
    assert "line 2: ContextTokens" in err
    assert not (tmp_path / "data" / "control-plane.log").exists()


def test_flags_of_the_demo_need_the_demo(tmp_path: Path) -> None:
    """`--exit` alone is a mistake, and said to be one."""
    status, _, err = run("--exit", folder=tmp_path / "data")
    assert status == 1
    assert "--demo" in err


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Who runs the tests in the background has SIGINT ignored, and so has all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    """However `purser dev` ends, its servers end too."""
    dev = subprocess.Popen(
        [*PURSER, "--data", str(tmp_path), "--free-ports"], stdout=subprocess.PIPE, text=True
    )
    assert dev.stdout is not None
    lines: list[str] = []
    while not lines or "Ctrl-C" not in lines[-1]:
        line = dev.stdout.readline()
        assert line, f"it ended: {lines}"
        lines.append(line)
    urls = [line.rpartition("HTTP ")[2].split()[0] for line in lines if "HTTP " in line]
    assert [httpx.get(f"{url}/readyz").status_code for url in urls] == [200, 200]
    children = _children(dev.pid)
    assert len(children) == 2
    dev.send_signal(how)
    dev.stdout.close()
    assert dev.wait(30) == (0 if how is not signal.SIGKILL else -signal.SIGKILL)
    eventually(lambda: not any(map(_runs, children)), seconds=10, what="the servers ended")


def _children(parent: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in found.stdout.split()]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
