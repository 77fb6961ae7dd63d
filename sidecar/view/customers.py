"""The customers of a view: ready to decide about while they are in use, bytes while they are at rest.

A customer is in use from when it is asked about until more others than there is room for were asked about since. In
use, its entitlements are compiled and its hints are typed; at rest, it is its state and its hints as the feed carries
them, a tenth of that. Whoever asks about one at rest makes its entitlements again.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.view.entries import SECOND_CHANCES_MAX, Compiled, CustomerEntry, Room
from sidecar.view.hints import Hint, messages, packed, supersedes, unpacked


class Noted(NamedTuple):
    """What came of hints: those that say something new, and for each how its balance stands now."""

    news: tuple[Hint, ...]
    standing: tuple[Hint, ...]


class Customers(Room[CustomerEntry]):
    """At most `bound` of them, at most `in_use_max` in use. `get` and `peek` take no lock, nor does looking into
    `hints` and `others`; everything else is called under the view's.
    """

    def __init__(self, bound: int, in_use_max: int, pinned: Callable[[str], bool]) -> None:
        """Nobody is known yet."""
        super().__init__(bound, pinned)
        self._in_use_max = in_use_max
        self._in_use: OrderedDict[str, None] = OrderedDict()
        self.hints: dict[str, dict[BalanceRef, Hint]] = {}
        """Of those in use, and only of those."""
        self.others: dict[str, dict[BalanceRef, Hint]] = {}
        """Of customers that are not held: parents are hinted at all the same."""

    def get(self, key: str) -> CustomerEntry | None:
        """The entry, marked as used."""
        entry = self._entries.get(key)
        if entry is not None and not (entry.used and entry.asked):
            entry.used = entry.asked = True
        return entry

    def take_over(self, entry: CustomerEntry, *, rests: bool) -> list[str]:
        """Stores a new state, and returns the ids that made room for it. One that was not held is in use from now on,
        unless it `rests`: somebody has asked for it.
        """
        key = entry.customer_id
        before = self._entries.get(key)
        if before is None:
            entry.hints = packed(self.others.pop(key, {}).values())
        else:
            entry.hints, entry.asked = before.hints, before.asked
        is_woken = before is None and not rests
        if not is_woken and key not in self.hints:
            entry.compiled = None
        evicted = self.put(key, entry)
        for gone in evicted:
            self.hints.pop(gone, None)
            self._in_use.pop(gone, None)
        if is_woken:
            self._wake(entry)
        return evicted

    def ready(self, entry: CustomerEntry, compiled: Compiled) -> None:
        """It is in use, with these entitlements."""
        entry.compiled = compiled
        if self._entries.get(entry.customer_id) is entry:
            self._wake(entry)

    def woken_hints(self, key: str) -> dict[BalanceRef, Hint] | None:
        """Of one that may be at rest, and is in use from now on; None: nothing is known of it."""
        entry = self._entries.get(key)
        return self.others.get(key) if entry is None else self._wake(entry)

    def hint_messages(self, key: str) -> Iterator[session.BalanceHint]:
        """How the balances of one that is held stand, as the feed carries it. It stays at rest if it is."""
        as_bytes = self._entries[key].hints
        if as_bytes is not None:
            return messages(key, as_bytes)
        return iter([hint.as_message() for hint in self.hints[key].values()])

    def note(self, hints: Iterable[Hint], *, in_order: bool) -> Noted:
        """Takes over those that are later than what is known. Who is at rest stays so."""
        news: list[Hint] = []
        standing: list[Hint] = []
        at_rest: dict[str, dict[BalanceRef, Hint]] = {}
        changed: set[str] = set()
        for hint in hints:
            key = hint.ref.customer_id
            known = self._known(key, at_rest)
            held = known.get(hint.ref)
            if held is None or supersedes(hint, held, in_order=in_order):
                known[hint.ref] = hint
                changed.add(key)
                if hint != held:
                    news.append(hint)
            standing.append(known[hint.ref])
        for key in changed:
            entry = self._entries.get(key)
            if entry is not None:
                entry.hints = packed(at_rest[key].values()) if key in at_rest else None
        while len(self.others) > self._bound:
            del self.others[next(iter(self.others))]
        return Noted(tuple(news), tuple(standing))

    def forget_hints(self) -> None:
        """Of everybody."""
        self.others.clear()
        for known in self.hints.values():
            known.clear()
        for entry in self._entries.values():
            entry.hints = ()

    def _known(self, key: str, at_rest: dict[str, dict[BalanceRef, Hint]]) -> dict[BalanceRef, Hint]:
        known = self.hints.get(key)
        if known is not None:
            return known
        entry = self._entries.get(key)
        if entry is None:
            return self.others.setdefault(key, {})
        if key not in at_rest:
            at_rest[key] = unpacked(key, entry.hints or ())
        return at_rest[key]

    def _wake(self, entry: CustomerEntry) -> dict[BalanceRef, Hint]:
        """Its hints; if it was at rest, it is in use from now on, and somebody else may come to rest."""
        key = entry.customer_id
        known = self.hints.get(key)
        if known is None:
            known = self.hints[key] = unpacked(key, entry.hints or ())
            # It is the last one to rest anyway: only being asked about again keeps it from that.
            entry.asked = False
            self._in_use[key] = None
            self._lay_to_rest(key)
        return known

    def _lay_to_rest(self, newest: str) -> None:
        looked_at = 0
        while len(self._in_use) > self._in_use_max:
            key, _ = self._in_use.popitem(last=False)
            entry = self._entries[key]
            looked_at += 1
            if key == newest or (entry.asked and looked_at <= SECOND_CHANCES_MAX):
                entry.asked = False
                self._in_use[key] = None
                continue
            # A reader who does not find its hints looks again under the lock.
            known = self.hints.pop(key)
            if entry.hints is None:
                entry.hints = packed(known.values())
            entry.compiled = None
