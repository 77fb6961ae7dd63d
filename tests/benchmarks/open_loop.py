"""Open-loop load: calls begin when they are due, whether or not earlier ones have been answered.

Latency counts from the instant at which a call was due. A server that stands still for a moment so pays for everyone
who would have called meanwhile, and a generator that is late does not hide it. Calls are due at random (Poisson, from
a seed), as those of many independent callers are; two servers that are compared get the same instants.
"""

import ctypes
import gc
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.benchmarks.load import BodyMaker, Connection, Sample, connect

MOST_OPEN = 1_000  # calls under way; whoever is due beyond that waits here, and the wait counts
GIVEN_UP_AFTER = 1.5  # times the length of the step
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class Paced:
    """What one step brought."""

    sample: Sample  # its latencies are from the intended instants
    late_us: list[float]  # when calls were sent, from when they were due
    not_sent: int

    @property
    def not_answered(self) -> int:
        return self.sample.failures + self.not_sent


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Instants from 0 to `seconds`, `rate` of them a second on average."""
    random = Random(seed)
    at, found = random.expovariate(rate), list[float]()
    while at < seconds:
        found.append(at)
        at += random.expovariate(rate)
    return found


class OpenLoop:
    """Calls to the server at 127.0.0.1:`port`, spread over `connections`."""

    def __init__(self, port: int, *, connections: int = 4) -> None:
        self._port = port
        self._connections = connections

    def run(self, method: str, body: BodyMaker, due: Sequence[float]) -> Paced:
        """Calls `method` at these instants, in seconds from now, and waits for the last answer.

        Raises:
            LoadFailed: the server broke off.
        """
        _be_punctual()
        sample, late_us = Sample(0.0, [], [], 0, 0.0), list[float]()
        connections = [connect(self._port, method) for _ in range(self._connections)]
        collecting = gc.isenabled()
        gc.disable()
        try:
            began, busy_before = time.perf_counter(), time.process_time()
            not_sent = _drive(connections, body, due, began, sample, late_us)
            sample.seconds = time.perf_counter() - began
            sample.generator_busy = (time.process_time() - busy_before) / sample.seconds
        finally:
            if collecting:
                gc.enable()
            for connection in connections:
                connection.socket.close()
        return Paced(sample, late_us, not_sent)


def _drive(
    connections: Sequence[Connection],
    body: BodyMaker,
    due: Sequence[float],
    began: float,
    sample: Sample,
    late_us: list[float],
) -> int:
    by_socket = {connection.socket: connection for connection in connections}
    begun, open_calls, count = 0, 0, len(due)
    given_up_at = began + (due[-1] if due else 0.0) * GIVEN_UP_AFTER + 1
    while begun < count or open_calls:
        now = time.perf_counter()
        if now > given_up_at:
            return count - begun
        while begun < count and began + due[begun] <= now and open_calls < MOST_OPEN:
            intended = began + due[begun]
            connection = connections[begun % len(connections)]
            connection.socket.sendall(connection.call(body(begun), intended))
            late_us.append((time.perf_counter() - intended) * 1e6)
            begun, open_calls = begun + 1, open_calls + 1
        is_full = begun == count or open_calls >= MOST_OPEN
        patience = given_up_at - now if is_full else began + due[begun] - time.perf_counter()
        readable, _, _ = select.select(by_socket, (), (), max(0.0, patience))
        for made in readable:
            ended, out = by_socket[made].receive(sample)
            open_calls -= ended
            if out:
                made.sendall(out)
    return 0


def _be_punctual() -> None:
    """Timers of this thread ring when they should, and not up to 50 µs later to save power."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
