"""What the callers of the demo were told. Kept apart from what the books say, so that the two can be compared."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

EventId = tuple[str, str]
"""Customer and idempotency key."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An event that somebody was told is recorded, as it was sent."""

    customer_id: str
    key: str
    measures: Mapping[str, str]
    model: str
    decided: bool
    included: Decimal = Decimal(0)
    """Tokens charged to what the plan includes, as the answer said; 0: it said nothing of that."""
    beyond: Decimal = Decimal(0)
    """The part of them that lies beyond it."""

    @property
    def event_id(self) -> EventId:
        """Names it among all events."""
        return (self.customer_id, self.key)


class Heard:
    """Counts answers. Safe to share between threads; read it freely while they run."""

    def __init__(self) -> None:
        """Has heard nothing."""
        self._lock = threading.Lock()
        self.events: dict[EventId, Acknowledged] = {}
        self.allowed: Counter[str] = Counter()
        self.refused: dict[str, Counter[str]] = defaultdict(Counter)
        self.tokens: Counter[str] = Counter()
        self.fact_overage: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.microseconds: dict[str, list[int]] = defaultdict(list)
        self.chunks = 0
        self.checks = 0
        self.repeated = 0

    def took(self, rpc: str, microseconds: int) -> None:
        """A call was answered, this long after its last try began."""
        with self._lock:
            self.microseconds[rpc].append(microseconds)
            self.checks += rpc == "CheckAccess"

    def unknown(self) -> None:
        """A call had no answer, and is made again with the same key."""
        with self._lock:
            self.repeated += 1

    def decided(self, customer_id: str, *, allowed: bool, reason: str) -> None:
        """A reserve, a consume or a report was answered."""
        with self._lock:
            if allowed:
                self.allowed[customer_id] += 1
            else:
                self.refused[customer_id][reason] += 1

    def settled(self, chunk_of: str, overage: Mapping[str, Decimal], *, final: bool) -> None:
        """A settle was answered; `overage` is what it charged as a fact, by balance."""
        with self._lock:
            self.chunks += 1
            for balance, amount in overage.items() if final else ():
                self.fact_overage[chunk_of, balance] += amount

    def acknowledged(self, event: Acknowledged) -> None:
        """An event is recorded."""
        with self._lock:
            if event.event_id not in self.events:
                self.tokens[event.customer_id] += sum(
                    int(event.measures.get(name, 0)) for name in ("input_tokens", "output_tokens")
                )
            self.events[event.event_id] = event

    @property
    def requests(self) -> int:
        """How many asked to use something."""
        with self._lock:
            return self.allowed.total() + sum(map(Counter.total, self.refused.values()))

    @property
    def refusals(self) -> Counter[str]:
        """By reason, of all customers."""
        with self._lock:
            return sum(self.refused.values(), start=Counter())

    def of_customer(self, customer_id: str) -> list[Acknowledged]:
        """What was acknowledged for one customer."""
        with self._lock:
            return [event for event in self.events.values() if event.customer_id == customer_id]

    def latency(self) -> dict[str, dict[str, int]]:
        """Microseconds from call to answer, as the callers waited for it, by rpc."""
        with self._lock:
            measured = {rpc: sorted(values) for rpc, values in sorted(self.microseconds.items())}
        return {
            rpc: {"p50_us": percentile(values, 50), "p99_us": percentile(values, 99)}
            for rpc, values in measured.items()
        }


def percentile(ascending: list[int], percent: int) -> int:
    """The smallest value that so many percent do not exceed."""
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(rank, 1) - 1]
