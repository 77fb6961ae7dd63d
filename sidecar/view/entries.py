"""What the view holds of one customer or subject, and the bounded room it is held in."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from purser.sync.v1 import feed_pb2 as feed
from sidecar.engine.entitlement import Entitlements
from sidecar.view.hints import Packed

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
    """One customer; a new state is a new entry. All but its state is for those that are in use: at rest it is bytes."""

    customer_id: str
    raw: bytes
    """The serialized state without hints."""
    revision: int
    """The state is as of this revision."""
    exists: bool
    chained: bool
    """Changes of it reach this view; False for one that a second tier gave, until it is subscribed."""
    compiled: Compiled | None = None
    """None: at rest, or nobody has asked for them yet."""
    hints: Packed | None = ()
    """How its balances stand, as bytes; None: in use, and they have changed since."""
    as_of: datetime | None = None
    """Of one that is not chained: when it was confirmed last, by the control plane's clock; None: nobody knows."""
    used: bool = True
    asked: bool = True
    """Used, since somebody was last looked for who could rest."""

    def state(self) -> feed.CustomerState:
        """Its state, without hints."""
        return feed.CustomerState.FromString(self.raw)


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
    """At most `bound` entries, by id. `get` and `peek` take no lock; everything else is called under the view's."""

    def __init__(self, bound: int, pinned: Callable[[str], bool]) -> None:
        """`pinned(id)`: this one must not be evicted now. With more pinned ones than `bound` the room grows."""
        self._bound = bound
        self._pinned = pinned
        self._entries: dict[str, Entry] = {}
        # Who was passed over goes to its end: readers need no lock to say that they have used an entry.
        self._order: deque[str] = deque()

    def get(self, key: str) -> Entry | None:
        """The entry, marked as used."""
        entry = self._entries.get(key)
        if entry is not None and not entry.used:
            entry.used = True
        return entry

    def peek(self, key: str) -> Entry | None:
        """The entry, when nobody uses it who counts. Takes no lock either."""
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> list[str]:
        """Stores it and returns the ids that made room for it."""
        if key not in self._entries:
            self._order.append(key)
        self._entries[key] = entry
        evicted: list[str] = []
        looked_at = 0
        # The first round unmarks, the second finds; with everything pinned it ends all the same.
        while len(self._entries) > self._bound and looked_at < 2 * len(self._entries):
            oldest = self._order.popleft()
            looked_at += 1
            choosy = looked_at <= SECOND_CHANCES_MAX
            if self._pinned(oldest) or oldest == key or (choosy and self._entries[oldest].used):
                self._entries[oldest].used = False
                self._order.append(oldest)
                continue
            del self._entries[oldest]
            evicted.append(oldest)
        return evicted

    def snapshot(self) -> Iterator[tuple[str, Entry]]:
        """All entries as they are now."""
        return iter(list(self._entries.items()))

    def __len__(self) -> int:
        return len(self._entries)
