"""What trouble policies have let through during the present outage, so that `allow_up_to: N` stays within N."""

import threading
from collections.abc import Callable


class Waivers:
    """Tallies per customer and feature, for as long as one outage lasts. Thread-safe."""

    def __init__(self, outage: Callable[[], int]) -> None:
        """`outage()`: a number that changes when the control plane has come back."""
        self._outage = outage
        self._lock = threading.Lock()
        self._of_outage = outage()
        self._waived: dict[tuple[str, str], int] = {}

    def take(self, customer_id: str, feature: str, amount: int, cap: int) -> bool:
        """Counts `amount` if the tally stays within `cap`; both in one balance's scale."""
        with self._lock:
            self._forget_earlier_outage()
            key = (customer_id, feature)
            total = self._waived.get(key, 0) + amount
            if total > cap:
                return False
            self._waived[key] = total
            return True

    def left(self, customer_id: str, feature: str, cap: int) -> int:
        """What could still be waived."""
        with self._lock:
            self._forget_earlier_outage()
            return max(0, cap - self._waived.get((customer_id, feature), 0))

    def give_back(self, customer_id: str, feature: str, amount: int) -> None:
        """What was counted did not happen."""
        with self._lock:
            key = (customer_id, feature)
            if key in self._waived:
                self._waived[key] = max(0, self._waived[key] - amount)

    def _forget_earlier_outage(self) -> None:
        outage = self._outage()
        if outage != self._of_outage:
            self._of_outage = outage
            self._waived.clear()
