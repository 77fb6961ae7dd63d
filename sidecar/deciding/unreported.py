"""What this sidecar has charged and the control plane's hints do not count yet: for shown balances only."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from sidecar.engine.values import BalanceRef

HINT_SECONDS: Final = 2.0
"""Hints come at most a second after the books: what was acknowledged before that is counted by them."""


class Unreported:
    """Sums per balance of what was written and is not in a hint yet. Thread-safe; `of` takes no lock.

    A line counts until the record is acknowledged and then a hint of its balance has come, or time enough for
    one has passed:
    what is shown as used does not fall back in between.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Nothing is outstanding."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._written: deque[tuple[int, BalanceRef, int]] = deque()
        self._acknowledged: deque[tuple[float, BalanceRef, int]] = deque()
        self._sums: dict[BalanceRef, int] = {}
        self._cursor = 0

    def charged(self, seq: int, amounts: Iterable[tuple[BalanceRef, int]]) -> None:
        """The record `seq` of this incarnation charges these."""
        with self._lock:
            for ref, amount in amounts:
                if amount:
                    self._written.append((seq, ref, amount))
                    self._sums[ref] = self._sums.get(ref, 0) + amount

    def acknowledged(self, cursor: int) -> None:
        """Everything up to `cursor` is in the books. Lines may be a little out of order; a late one goes
        with the next.
        """
        now = self._monotonic()
        with self._lock:
            self._cursor = max(self._cursor, cursor)
            while self._written and self._written[0][0] <= self._cursor:
                _, ref, amount = self._written.popleft()
                self._acknowledged.append((now + HINT_SECONDS, ref, amount))
            self._drop_before(now)

    def hinted(self, refs: Iterable[BalanceRef], *, as_of: float = inf) -> None:
        """Hints came of these balances: what was acknowledged of them before `as_of` is counted there."""
        wanted = set(refs)
        with self._lock:
            if not wanted & self._sums.keys():
                return
            kept: deque[tuple[float, BalanceRef, int]] = deque()
            for until, ref, amount in self._acknowledged:
                if ref in wanted and until - HINT_SECONDS <= as_of:
                    self._less(ref, amount)
                else:
                    kept.append((until, ref, amount))
            self._acknowledged = kept

    def of(self, ref: BalanceRef) -> int:
        """What is outstanding of one balance, at its scale."""
        if self._acknowledged and self._acknowledged[0][0] <= self._monotonic():
            with self._lock:
                self._drop_before(self._monotonic())
        return self._sums.get(ref, 0)

    def _drop_before(self, now: float) -> None:
        while self._acknowledged and self._acknowledged[0][0] <= now:
            _, ref, amount = self._acknowledged.popleft()
            self._less(ref, amount)

    def _less(self, ref: BalanceRef, amount: int) -> None:
        left = self._sums[ref] - amount
        if left:
            self._sums[ref] = left
        else:
            del self._sums[ref]
