"""What this sidecar has charged and the control plane's hints do not count yet: for shown balances only."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.engine.values import BalanceRef

LINES_MAX: Final = 1_000
"""Of one balance. After more, as in a long outage, the last ones are told apart no more: they are shown until all are
counted.
"""


class Unreported:
    """Sums per balance of what was written and is in no hint yet. Thread-safe; `of` takes no lock.

    The control plane says with every hint how many of this incarnation's records it counts: a line is shown until
    then and not a moment longer, so that what is used neither falls back nor is counted twice.
    """

    def __init__(self) -> None:
        """Nothing is outstanding."""
        self._lock = threading.Lock()
        self._lines: dict[BalanceRef, deque[tuple[int, int]]] = {}
        self._sums: dict[BalanceRef, int] = {}
        self._all_through = 0
        self._inherited: dict[BalanceRef, int] = {}
        self.changes = 0
        """Another number whenever something is outstanding that was not, or is no more. Read without the lock."""

    def inherit(self, amounts: Mapping[BalanceRef, int]) -> None:
        """What earlier processes have charged and not reported: at the start, before anything is charged."""
        with self._lock:
            self._inherited = dict(amounts)
            for ref, amount in amounts.items():
                self._add(ref, amount)

    def inherited_counted(self) -> None:
        """Hints now count all of that."""
        with self._lock:
            gone, self._inherited = self._inherited, {}
            for ref, amount in gone.items():
                self._add(ref, -amount)

    def charged(self, seq: int, amounts: Iterable[tuple[BalanceRef, int]]) -> None:
        """The record `seq` of this incarnation adds these to what is used."""
        with self._lock:
            if seq <= self._all_through:
                return  # it was uploaded, booked and told before its thread came by here
            for ref, amount in amounts:
                if amount:
                    self._add(ref, amount)
                    lines = self._lines.setdefault(ref, deque())
                    if len(lines) == LINES_MAX:
                        amount += lines.pop()[1]  # noqa: PLW2901
                    lines.append((seq, amount))

    def counted(self, by_balance: Mapping[BalanceRef, int], all_through: int) -> None:
        """Hints now count the records up to these numbers; those of every balance count up to `all_through`.

        Lines may be a little out of order; a late one goes with the next.
        """
        with self._lock:
            if all_through > self._all_through:
                self._all_through = all_through
                for ref in list(self._lines):
                    self._drop(ref, all_through)
            for ref, through in by_balance.items():
                self._drop(ref, through)

    def of(self, ref: BalanceRef) -> int:
        """What is outstanding of one balance, at its scale; below 0: it frees more than it adds."""
        return self._sums.get(ref, 0)

    def _drop(self, ref: BalanceRef, through: int) -> None:
        lines = self._lines.get(ref)
        if lines is None:
            return
        while lines and lines[0][0] <= through:
            self._add(ref, -lines.popleft()[1])
        if not lines:
            del self._lines[ref]

    def _add(self, ref: BalanceRef, amount: int) -> None:
        left = self._sums.get(ref, 0) + amount
        if left:
            self._sums[ref] = left
        else:
            self._sums.pop(ref, None)
        self.changes += 1
