"""What this sidecar has charged and the control plane's hints do not count yet: for shown balances only."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.engine.values import BalanceRef


@dataclass(frozen=True, slots=True)
class _Line:
    seq: int
    ref: BalanceRef
    amount: int


class Unreported:
    """Sums per balance of what was written and not yet acknowledged. Thread-safe; `of` takes no lock."""

    def __init__(self) -> None:
        """Nothing is outstanding."""
        self._lock = threading.Lock()
        self._lines: deque[_Line] = deque()
        self._sums: dict[BalanceRef, int] = {}
        self._cursor = 0

    def charged(self, seq: int, amounts: Mapping[BalanceRef, int] | Iterable[tuple[BalanceRef, int]]) -> None:
        """The record `seq` of this incarnation charges these."""
        pairs = amounts.items() if isinstance(amounts, Mapping) else amounts
        with self._lock:
            if seq <= self._cursor:
                return
            for ref, amount in pairs:
                self._lines.append(_Line(seq, ref, amount))
                self._sums[ref] = self._sums.get(ref, 0) + amount

    def acknowledged(self, cursor: int) -> None:
        """Everything up to `cursor` is in the books. Commits may be noted a little out of order; what is late is dropped next time."""
        with self._lock:
            self._cursor = max(self._cursor, cursor)
            while self._lines and self._lines[0].seq <= self._cursor:
                line = self._lines.popleft()
                left = self._sums[line.ref] - line.amount
                if left:
                    self._sums[line.ref] = left
                else:
                    del self._sums[line.ref]

    def of(self, ref: BalanceRef) -> int:
        """What is outstanding of one balance, at its scale."""
        return self._sums.get(ref, 0)
