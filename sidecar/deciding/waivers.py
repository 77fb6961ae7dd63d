"""What trouble policies have let through during the present outage, so that `allow_up_to: N` stays within N."""

import threading
from collections.abc import Callable
from typing import NamedTuple


class Waived(NamedTuple):
    """What was counted, in the balance's scale; below 0: a holder gave back. `holder_id`: it counts for one holder."""

    outage: int
    customer_id: str
    feature: str
    amount: int
    holder_id: str | None = None


class Waivers:
    """Tallies per customer and feature, for as long as one outage lasts. Thread-safe."""

    def __init__(self, outage: Callable[[], int]) -> None:
        """`outage()`: a number that changes when the control plane has come back."""
        self._outage = outage
        self._lock = threading.Lock()
        self._of_outage = outage()
        self._waived: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str, str], int] = {}

    def take(self, customer_id: str, feature: str, amount: int, cap: int) -> Waived | None:
        """Counts `amount` if the tally stays within `cap`; None: it does not. Both in one balance's scale."""
        with self._lock:
            self._forget_earlier_outage()
            return self._count(Waived(self._of_outage, customer_id, feature, amount), cap)

    def hold(
        self, customer_id: str, feature: str, holder_id: str, quantity: int, cap: int, *, adds: bool
    ) -> Waived | None:
        """Counts what one holder holds (`adds`: at least that much), where what is counted already counts once.

        A peak is one holder that only adds. What lowers the tally is always counted.
        """
        with self._lock:
            self._forget_earlier_outage()
            before = self._held.get((customer_id, feature, holder_id), 0)
            after = max(before, quantity) if adds else quantity
            waived = Waived(self._of_outage, customer_id, feature, after - before, holder_id)
            return self._count(waived, cap)

    def left(self, customer_id: str, feature: str, cap: int) -> int:
        """What could still be waived."""
        with self._lock:
            self._forget_earlier_outage()
            return max(0, cap - self._waived.get((customer_id, feature), 0))

    def give_back(self, waived: Waived) -> None:
        """What was counted did not happen. After its outage it is forgotten already."""
        with self._lock:
            self._forget_earlier_outage()
            if waived.outage == self._of_outage:
                self._add(waived._replace(amount=-waived.amount))

    def trial(self) -> "Waivers":
        """As they stand, to try on: what is counted there counts nowhere."""
        with self._lock:
            self._forget_earlier_outage()
            copy = Waivers(self._outage)
            copy._waived, copy._held = dict(self._waived), dict(self._held)
            return copy

    def _count(self, waived: Waived, cap: int) -> Waived | None:
        if waived.amount > 0 and self._waived.get(waived[1:3], 0) + waived.amount > cap:
            return None
        self._add(waived)
        return waived

    def _add(self, waived: Waived) -> None:
        key = (waived.customer_id, waived.feature)
        self._waived[key] = self._waived.get(key, 0) + waived.amount
        if waived.holder_id is not None:
            held = (*key, waived.holder_id)
            self._held[held] = self._held.get(held, 0) + waived.amount

    def _forget_earlier_outage(self) -> None:
        outage = self._outage()
        if outage != self._of_outage:
            self._of_outage = outage
            self._waived.clear()
            self._held.clear()
