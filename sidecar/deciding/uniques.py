"""Values that meters of unique values have counted here: each costs once per period."""

import threading
from typing import Final

from cachetools import LRUCache

from sidecar.engine.values import BalanceRef

VALUES_MAX: Final = 200_000


class Uniques:
    """Remembers what was counted, bounded: what is forgotten is counted again here, and given back at the
    books. Thread-safe.
    """

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._lock = threading.Lock()
        self._counted: LRUCache[tuple[BalanceRef, int, str], None] = LRUCache(VALUES_MAX)

    def is_new(self, ref: BalanceRef, period_start_micros: int, value: str) -> bool:
        """Was it not counted in this period yet?"""
        with self._lock:
            return (ref, period_start_micros, value) not in self._counted

    def counted(self, ref: BalanceRef, period_start_micros: int, value: str) -> None:
        """It is counted now."""
        with self._lock:
            self._counted[ref, period_start_micros, value] = None
