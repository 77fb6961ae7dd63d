"""Up to a thousand sidecars whose control plane is gone for a while all come back, and do not take it down again."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest

from tests.e2e.fleet import Fleet
from tests.e2e.herd.names import CUSTOMERS, customer_of

SIDECARS: Final = int(os.environ.get("PURSER_HERD", min(1000, 150 * (os.cpu_count() or 1))))
"""A core carries so many, with a control plane to serve them, and others beside; `PURSER_HERD` asks for more."""
PER_PROCESS: Final = 100
PAUSE_SECONDS: Final = 20.0
WATCHED_SECONDS: Final = 45.0
"""Longer than any backoff: who comes again comes within this time."""
BACK_SECONDS: Final = 60.0
SLOWEST_SECONDS: Final = 5.0


class Herd:
    """All processes with sidecars."""

    def __init__(self, control_plane: str, folder: Path, sidecars: int) -> None:
        self._processes = [
            self._process(control_plane, folder, first, min(PER_PROCESS, sidecars - first))
            for first in range(0, sidecars, PER_PROCESS)
        ]

    @staticmethod
    def _process(control_plane: str, folder: Path, first: int, count: int) -> "subprocess.Popen[str]":
        options = {"--control-plane": control_plane, "--data": folder, "--first": first}
        options |= {"--sidecars": count, "--pause": PAUSE_SECONDS}
        command = [sys.executable, "-m", "tests.e2e.herd.flock"]
        command += [str(part) for option in options.items() for part in option]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def look(self, line: str = "look") -> Counter[str]:
        """How all of them are, summed up."""
        found: Counter[str] = Counter()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            assert answer, f"a process of sidecars ended with {process.wait()}"
            found.update(json.loads(answer))
        return found

    def wait_until(self, holds: Callable[[Counter[str]], bool], *, seconds: float, what: str) -> float:
        """Looks once a second, as looking is work for all of them: how many seconds it took."""
        began = time.monotonic()
        while not holds(self.look()):
            passed = time.monotonic() - began
            assert passed < seconds, f"after {passed:.0f} s it does not hold that {what}: {self.look()}"
            threading.Event().wait(1.0)
        return time.monotonic() - began

    def kill(self) -> None:
        """All of them."""
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def herd_of(fleet: Fleet, folder: Path, sidecars: int) -> Iterator[Herd]:
    """Ends with the block."""
    herd = Herd(fleet.sync_address, folder, sidecars)
    try:
        yield herd
    finally:
        herd.kill()


def all_live(now: Counter[str]) -> bool:
    """Every one of them hears the control plane."""
    return now["live"] == SIDECARS


class Asking:
    """Asks the control plane for something all the time, in a thread of its own, as others do."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._failure: httpx.HTTPError | None = None
        self.asked, self.slowest_seconds = 0, 0.0
        self._thread = threading.Thread(target=self._ask, name="asking")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def stop(self) -> None:
        """Raises what went wrong."""
        self.__exit__()
        if self._failure is not None:
            raise self._failure

    def _ask(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._client.get("/customers/customer-0/balances").raise_for_status()
            except httpx.HTTPError as error:
                self._failure = error
                return
            self.asked += 1
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)


@pytest.mark.soak
def test_a_herd_comes_back_and_does_no_harm(tmp_path: Path, postgres_url: str) -> None:
    """All are back within a minute, the control plane answers others meanwhile, no stream breaks again, and the books
    have everything.
    """
    fleet = Fleet(tmp_path, postgres_url)
    try:
        fleet.publish()
        for number in range(CUSTOMERS):
            fleet.customer(customer_of(number), "prepaid", amount="1000000")
        with herd_of(fleet, tmp_path, SIDECARS) as herd:
            herd.wait_until(all_live, seconds=600, what="all sidecars are connected")
            herd.wait_until(lambda now: now["accepted"] >= SIDECARS, seconds=120, what="all are used")
            before = herd.look()
            fleet.control_plane.kill()
            herd.wait_until(lambda now: not now["live"], seconds=60, what="all have noticed")
            fleet.control_plane.start()
            with Asking(fleet.rest) as others:
                took = herd.wait_until(all_live, seconds=BACK_SECONDS, what="all are back")
                back, slowest_meanwhile = herd.look(), others.slowest_seconds
                threading.Event().wait(WATCHED_SECONDS)
                others.stop()
            after = herd.look()
            report: dict[str, Any] = {
                "sidecars": SIDECARS,
                "all_back_seconds": took,
                "answers": others.asked,
                "slowest_while_they_come_seconds": slowest_meanwhile,
                "slowest_answer_seconds": others.slowest_seconds,
                **after,
            }
            print(f"\nherd: {json.dumps(report)}")
            assert others.slowest_seconds < SLOWEST_SECONDS
            assert after["live"] == SIDECARS
            assert after["returns"] == back["returns"], "no stream broke again"
            assert back["returns"] - before["returns"] < 2 * SIDECARS
            told = herd.look("stop")
            herd.wait_until(lambda now: not now["unsent"], seconds=60, what="everything is in the books")
            booked = sum(len(fleet.events(customer_of(number))) for number in range(CUSTOMERS))
            assert booked == told["accepted"]
    finally:
        fleet.close()
