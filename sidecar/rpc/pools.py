"""Bounded thread pools, one per kind of call, so that no kind starves another.

Reads are short and need few threads; a durable write waits for the group commit, so many of them wait together; a
stream lasts for hours. A call that has to wait for the network (a cold customer, a lease) says so with `blocking`:
another thread takes its place meanwhile, so that what need not wait does not.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import structlog

from sidecar.runtime.scheduling import wait_for_your_turn
from sidecar.runtime.trouble import Overloaded

_log = structlog.stdlib.get_logger(__name__)

WAITING_MAX: Final = 500
"""Calls of one pool that may wait for the network at a time, unless a pool says otherwise."""


class Job:
    """One call on its way. It stands in for a future, of which gRPC wants to hear only that it is done: that
    is cheaper.
    """

    __slots__ = ("_args", "_callbacks", "_done", "_fn", "_kwargs")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Not run yet."""
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._done = False
        self._callbacks: list[Callable[[Any], Any]] = []

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """Calls back once it is done, at once if it is."""
        self._callbacks.append(fn)
        if self._done:
            self._call_back()

    def run(self) -> None:
        """Runs it. gRPC's own functions do not raise."""
        try:
            self._fn(*self._args, **self._kwargs)
        finally:
            self._done = True
            self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                # `pop` is atomic: each callback is called by whichever thread gets it, once.
                callback = self._callbacks.pop()
            except IndexError:  # the other thread got it
                return
            callback(self)


class Pool(ThreadPoolExecutor):
    """A pool of daemon threads that knows how many calls it has taken on. gRPC insists on the class, not on
    its inside.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        bound: int,
        in_turn: bool = False,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        """`bound`: calls running and queued together, at least `threads`. `in_turn`: its threads hand work to
        others and are woken by them, time and again (`wait_for_your_turn`). `waiting_max`: calls that may wait for
        the network at a time.
        """
        super().__init__(max_workers=1)
        self._in_turn = in_turn
        self._waiting_max = waiting_max
        self.name = name
        self.bound = max(bound, threads)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting = 0
        self._surplus = 0
        self._alive = 0
        for _ in range(threads):
            self._start_thread()

    @property
    def in_flight(self) -> int:
        """Calls running and queued."""
        return self._taken

    def is_full(self) -> bool:
        """Has it reached its bound? Read without the lock: one call more or less does not matter."""
        return self._taken >= self.bound

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Queues a call. Whether there is room was asked before."""
        job = Job(fn, args, kwargs)
        with self._lock:
            self._taken += 1
        self._jobs.put(job)
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads once they have done what is queued. Does not wait for them: they are daemons."""
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        with self._lock:
            alive = self._alive
        for _ in range(alive):
            self._jobs.put(None)

    @contextlib.contextmanager
    def blocking(self) -> Iterator[None]:
        """Around a wait for the network: another thread stands in. Raises Overloaded when too many wait already."""
        with self._lock:
            if self._waiting >= self._waiting_max:
                raise Overloaded(self.name)
            self._waiting += 1
            # One that stood in before and has not ended yet does it again: a batch waits for many customers in turn.
            is_there = self._surplus > 0
            if is_there:
                self._surplus -= 1
        try:
            is_there = is_there or self._stand_in()
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._surplus += is_there

    def _stand_in(self) -> bool:
        """False: the machine has no thread for it. Who waits then waits in the place of another call."""
        try:
            self._start_thread()
        except RuntimeError as error:
            _log.warning("nobody stands in for a call that waits", pool=self.name, cause=str(error))
            return False
        return True

    def _start_thread(self) -> None:
        """Raises RuntimeError where the machine has none."""
        with self._lock:
            self._alive += 1
            number = self._alive
        try:
            threading.Thread(target=self._work, name=f"purser-{self.name}-{number}", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._alive -= 1
            raise

    def _work(self) -> None:
        _here.pool = self
        if self._in_turn:
            wait_for_your_turn()
        while (job := self._jobs.get()) is not None:
            try:
                job.run()
            except Exception:  # noqa: BLE001
                # A pool that loses threads to errors stops serving without a word.
                _log.exception("a call ended in an error outside of its handler", pool=self.name)
            if self._is_one_too_many():
                break
        with self._lock:
            self._alive -= 1

    def _is_one_too_many(self) -> bool:
        """After a call: should the thread that answered it end?"""
        with self._lock:
            self._taken -= 1
            if not self._surplus:
                return False
            self._surplus -= 1
            return True


_here: Final = threading.local()
"""`pool`: whose thread it is. Not a class of our own: a compiled heir of `local` has one value for all threads."""


def blocking() -> contextlib.AbstractContextManager[None]:
    """`Pool.blocking` of the pool that runs the present thread; nothing elsewhere."""
    pool: Pool | None = getattr(_here, "pool", None)
    return contextlib.nullcontext() if pool is None else pool.blocking()


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools of one server."""

    reads: Pool
    writes: Pool
    streams: Pool
    refusals: Pool
    calls_max: int
    """Calls in flight in all of them, but for refusals."""

    def are_full(self) -> bool:
        """Are as many calls in flight as this sidecar takes on?"""
        return self.reads.in_flight + self.writes.in_flight + self.streams.in_flight >= self.calls_max

    def everything(self) -> tuple[Pool, ...]:
        """For shutting down and for metrics."""
        return (self.reads, self.writes, self.streams, self.refusals)


def make_pools(*, read_threads: int, write_threads: int, stream_threads: int, calls_max: int) -> Pools:
    """Pools whose queues are bounded to what can be answered within about a second."""
    return Pools(
        reads=Pool("reads", threads=read_threads, bound=2_000),
        writes=Pool("writes", threads=write_threads, bound=2_000, in_turn=True),
        streams=Pool("streams", threads=stream_threads, bound=stream_threads),
        refusals=Pool("refusals", threads=1, bound=10_000),
        calls_max=calls_max,
    )
