"""What the view holds of one customer or subject, and the bounded room it is held in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Final, Generic, TypeVar

from cachetools import LRUCache

from sidecar.engine.customer import Customer
from sidecar.engine.entitlement import Entitlements

SECOND_CHANCES_MAX: Final = 64
"""How many entries one eviction looks at before it stops being choosy: it runs under the view's lock."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Resolved entitlements. `stamp` is never the same twice: what was derived from one may be kept by it."""

    entitlements: Entitlements
    current_catalog: int
    stamp: int


@dataclass(slots=True)
class CustomerEntry:
    """One customer. Only `compiled`, `used` and `chained` change; a new state is a new entry."""

    customer: Customer
    raw: bytes
    """The serialized state without hints, for the snapshot."""
    revision: int
    """The state is as of this revision."""
    compiled: Compiled
    chained: bool
    """Changes of it reach this view; False for one that a second tier gave, until it is subscribed."""
    used: bool = True
    as_of: datetime | None = None
    """Of one that is not chained: when it was confirmed last, by the control plane's clock; None: nobody knows."""


@dataclass(slots=True)
class SubjectEntry:
    """One subject; `customer_id` is empty for one that does not exist."""

    subject_id: str
    customer_id: str
    revision: int
    chained: bool
    used: bool = True
    as_of: datetime | None = None


Entry = TypeVar("Entry", CustomerEntry, SubjectEntry)


class Room(Generic[Entry]):
    """At most `bound` entries, by id. `get` takes no lock; everything else is called under the view's."""

    def __init__(self, bound: int, pinned: Callable[[str], bool]) -> None:
        """`pinned(id)`: this one must not be evicted now. With more pinned ones than `bound` the room grows."""
        self._bound = bound
        self._pinned = pinned
        self._entries: dict[str, Entry] = {}
        # Knows the order only: it is told of use when it would evict, so that readers need no lock.
        self._order: LRUCache[str, None] = LRUCache(maxsize=inf)

    def get(self, key: str) -> Entry | None:
        """The entry, marked as used."""
        entry = self._entries.get(key)
        if entry is not None and not entry.used:
            entry.used = True
        return entry

    def put(self, key: str, entry: Entry) -> list[str]:
        """Stores it and returns the ids that made room for it."""
        self._entries[key] = entry
        self._order[key] = None
        evicted: list[str] = []
        looked_at = 0
        # The first round unmarks, the second finds; with everything pinned it ends all the same.
        while len(self._entries) > self._bound and looked_at < 2 * len(self._entries):
            oldest, _ = self._order.popitem()
            looked_at += 1
            choosy = looked_at <= SECOND_CHANCES_MAX
            if self._pinned(oldest) or oldest == key or (choosy and self._entries[oldest].used):
                self._entries[oldest].used = False
                self._order[oldest] = None
                continue
            del self._entries[oldest]
            evicted.append(oldest)
        return evicted

    def snapshot(self) -> Iterator[tuple[str, Entry]]:
        """All entries as they are now."""
        return iter(list(self._entries.items()))

    def __len__(self) -> int:
        return len(self._entries)
