"""Bounded thread pools, one per kind of call, so that no kind starves another.

Reads are short and need few threads; a durable write waits for the group commit, so many of them wait together; a cold
customer waits for the network; a stream lasts for hours.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows how many calls it has taken on and not finished. Refusing is up to who asks `is_full`."""

    def __init__(self, name: str, *, threads: int, bound: int) -> None:
        """`bound`: calls running and queued together, at least `threads`."""
        super().__init__(max_workers=threads, thread_name_prefix=f"purser-{name}")
        self.name = name
        self.bound = max(bound, threads)
        self._taken = 0
        self._lock = threading.Lock()

    def is_full(self) -> bool:
        """Has it reached its bound? Read without the lock: one call more or less does not matter."""
        return self._taken >= self.bound

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """As in the standard library, and counted."""
        future = super().submit(fn, *args, **kwargs)
        with self._lock:
            self._taken += 1
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _future: "Future[Any]") -> None:
        with self._lock:
            self._taken -= 1


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools of one server."""

    reads: BoundedPool
    writes: BoundedPool
    waits: BoundedPool
    streams: BoundedPool
    refusals: BoundedPool

    def everything(self) -> tuple[BoundedPool, ...]:
        """For shutting down and for metrics."""
        return (self.reads, self.writes, self.waits, self.streams, self.refusals)


def make_pools(*, read_threads: int, write_threads: int, wait_threads: int, stream_threads: int) -> Pools:
    """Pools whose queues are bounded to what can be answered within about a second."""
    return Pools(
        reads=BoundedPool("reads", threads=read_threads, bound=2_000),
        writes=BoundedPool("writes", threads=write_threads, bound=2_000),
        waits=BoundedPool("waits", threads=wait_threads, bound=500),
        streams=BoundedPool("streams", threads=stream_threads, bound=stream_threads),
        refusals=BoundedPool("refusals", threads=1, bound=2_000),
    )
