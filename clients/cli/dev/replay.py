"""Requests that reserve an estimate, stream their output in chunks and settle what they used, on a pool of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Final, Self

from clients.cli.dev.callers import Callers
from clients.cli.dev.people import PlannedCall

WORKERS: Final = 16
LOOK_SECONDS: Final = 0.1


def stream(callers: Callers, call: PlannedCall) -> bool:
    """One request from reserve to its final settle: whether it was allowed.

    Raises:
        NobodyAnswers: its sidecar stayed away.
    """
    if not callers.reserve(call.sidecar, call.customer_id, call.reservation_id, call.estimate):
        return False
    *under_way, last = call.generated_tokens
    for tokens in under_way:
        callers.settle(
            call.sidecar, call.customer_id, call.reservation_id, call.measures(tokens), final=False
        )
    callers.settle(call.sidecar, call.customer_id, call.reservation_id, call.measures(last), final=True)
    return True


class Replay:
    """Runs planned calls in their order, as many at a time as there are workers.

    Leaving it waits for those under way and gives up those not begun.
    """

    def __init__(self, callers: Callers, calls: Sequence[PlannedCall], *, workers: int = WORKERS) -> None:
        """Begins at once."""
        self.total, self.done = len(calls), 0
        self._lock = threading.Lock()
        self._callers = callers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="caller")
        self._futures: list[Future[None]] = [self._pool.submit(self._one, call) for call in calls]

    def _one(self, call: PlannedCall) -> None:
        stream(self._callers, call)
        with self._lock:
            self.done += 1

    def wait(
        self,
        until: Callable[[], bool],
        on_progress: Callable[[int], None],
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Waits until `until()` or the end, and says how many are done as it goes. Raises what a call raised."""
        pending = set(self._futures)
        while pending and not until():
            finished, pending = wait(pending, look_seconds, FIRST_EXCEPTION)
            for future in finished:
                future.result()
            on_progress(self.done)
        on_progress(self.done)

    def finish(self, on_progress: Callable[[int], None]) -> None:
        """Waits for all of them."""
        self.wait(lambda: False, on_progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
