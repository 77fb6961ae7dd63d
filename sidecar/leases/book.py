"""The book of leases: what this incarnation may spend, and nothing else. A state machine without I/O or a clock of its own."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sidecar.engine.values import BalanceRef
from sidecar.leases.terms import Draw, Taken


class Funds(Protocol):
    """What may be spent of one balance now: the engine's `Fund`."""

    @property
    def within(self) -> int: ...

    @property
    def beyond(self) -> int: ...


class Spending(Protocol):
    """The half of the book that decisions use. `now` is the clock's monotonic seconds.

    The caller holds `lock` around funds, deciding and taking, and around every other call here. Nothing blocks.
    """

    lock: threading.Lock

    def funds(
        self, refs: Iterable[BalanceRef], feature: str, now: float, finish_until: float | None = None
    ) -> Mapping[BalanceRef, Funds]:
        """What `feature` may spend of each balance; a balance without leases has nothing.

        `finish_until` (monotonic) is given while cut off under `finish_lease`: until then slices are spent beyond their lease's end.
        """

    def take(self, draws: Sequence[Draw], now: float, finish_until: float | None = None) -> tuple[Taken, ...]:
        """Takes `within + beyond` of every draw, from all or none. Raises NotCovered and has taken nothing."""

    def give_back(self, taken: Iterable[Taken], now: float) -> None:
        """Undoes a take whose write did not happen."""

    def hold(self, taken: Iterable[Taken]) -> None:
        """What was taken is now held by a reservation instead of charged. Rates are passed over."""

    def charge_held(self, lease_id: str, amount: int) -> None:
        """A settle charges this much of what is held."""

    def release_held(self, lease_id: str, amount: int) -> None:
        """A hold ends without charge: free again here, or given back if its lease has ended."""

    def held(self, ref: BalanceRef) -> int:
        """What open reservations hold of a balance, earlier incarnations' leases included."""
