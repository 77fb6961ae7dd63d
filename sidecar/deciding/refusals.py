"""What is remembered of refusals: counts per minute, and the last explanations per customer, in a channel
that may lose them.
"""

import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from cachetools import LRUCache

from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import decision_pb2 as answers
from sidecar.engine.values import Reason

SAMPLES_PER_CUSTOMER: Final = 100
CUSTOMERS_MAX: Final = 1_000
COUNTS_MAX: Final = 10_000


class Channel(Protocol):
    """Where they go: the outbox."""

    def count_refusals(self, counts: list[bytes], samples: list[bytes]) -> None:
        """Lossy: never raises, never waits for the disk."""


class Refusals:
    """Collects, and hands over when flushed. Thread-safe; noting is cheap, and encodes nothing."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """`now`: the control plane's clock as known."""
        self._now = now
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, Reason, datetime], int] = {}
        self._samples: LRUCache[str, deque[tuple[str, datetime, bytes]]] = LRUCache(CUSTOMERS_MAX)

    def note(self, *, customer_id: str, feature: str, reason: Reason, decision: bytes) -> None:
        """One refusal; `decision` is the encoded answer."""
        at = self._now()
        minute = at.replace(second=0, microsecond=0)
        key = (customer_id, feature, reason, minute)
        with self._lock:
            if key in self._counts or len(self._counts) < COUNTS_MAX:
                self._counts[key] = self._counts.get(key, 0) + 1
            samples = self._samples.get(customer_id)
            if samples is None:
                samples = self._samples[customer_id] = deque(maxlen=SAMPLES_PER_CUSTOMER)
            samples.append((feature, at, decision))

    def flush(self, channel: Channel) -> None:
        """Hands over what was collected since the last flush."""
        with self._lock:
            counts, self._counts = self._counts, {}
            samples, self._samples = self._samples, LRUCache(CUSTOMERS_MAX)
        if not counts:
            return
        channel.count_refusals(
            [_count(key, number) for key, number in counts.items()],
            [
                _sample(customer_id, feature, at, decision)
                for customer_id, of_customer in samples.items()
                for feature, at, decision in of_customer
            ],
        )


def _count(key: tuple[str, str, Reason, datetime], number: int) -> bytes:
    customer_id, feature, reason, minute = key
    message = sync.RefusalCount(
        customer_id=customer_id,
        feature=feature,
        reason=int(reason),  # type: ignore[arg-type]  # the numbers are the proto's
        count=number,
    )
    message.minute.FromDatetime(minute)
    return message.SerializeToString()


def _sample(customer_id: str, feature: str, at: datetime, decision: bytes) -> bytes:
    message = sync.RefusalSample(
        customer_id=customer_id, feature=feature, decision=answers.Decision.FromString(decision)
    )
    message.at.FromDatetime(at)
    return message.SerializeToString()
