"""ListEntitlements and WatchEntitlements: what somebody is entitled to, now and after each change."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.deciding.party import Parties, Party
from sidecar.deciding.standings import Standings
from sidecar.engine.catalog import ConfigValue
from sidecar.engine.decision import Amount, BalanceState, Freshness
from sidecar.engine.entitlement import BalanceSpec, Entitlements, FeatureEntitlement
from sidecar.engine.values import BalanceRef, Reason
from sidecar.runtime.clock import Clock
from sidecar.view.hints import Hint
from sidecar.view.memory import View

LOOK_EVERY_SECONDS: Final = 1.0
"""A watch looks again so often for what time alone changes, and for whether its caller is still there."""


class Held(NamedTuple):
    """An amount of one balance."""

    balance: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A right to one feature; fields as in `purser.v1.Entitlement`."""

    feature: str
    type: str
    value: ConfigValue
    sources: tuple[str, ...]
    balances: tuple[BalanceState, ...]


@dataclass(frozen=True, slots=True)
class Entitled:
    """What somebody is entitled to, by feature name."""

    entitlements: tuple[Entitlement, ...]
    freshness: Freshness
    reason: Reason


class Watch:
    """One caller's watch: an iterator of states that ends when it is closed."""

    def __init__(self, look: Callable[[], Entitled], is_active: Callable[[], bool]) -> None:
        """`look()`: the present state."""
        self._look = look
        self._is_active = is_active
        self._wake = threading.Event()
        self._closed = False

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        self._wake.set()

    def __iter__(self) -> Iterator[Entitled]:
        last: object = None
        while not self._closed and self._is_active():
            self._wake.clear()
            entitled = self._look()
            seen = (entitled.entitlements, entitled.reason, entitled.freshness.source)
            if seen != last:
                last = seen
                yield entitled
            self._wake.wait(LOOK_EVERY_SECONDS)


class Listing:
    """Both verbs. Thread-safe."""

    def __init__(self, *, parties: Parties, standings: Standings, view: View, clock: Clock) -> None:
        """Listens to the view from now on."""
        self._parties = parties
        self._standings = standings
        self._view = view
        self._clock = clock
        self._lock = threading.Lock()
        self._watches: dict[str, set[Watch]] = {}
        view.on_customers_changed(self._customers_changed)
        view.on_balances_changed(self._balances_changed)

    def list(self, customer_id: str, subject_id: str, *, deadline: float) -> Entitled:
        """The present state."""
        return self._entitled(self._parties.find(customer_id, subject_id, deadline=deadline))

    def watch(self, customer_id: str, subject_id: str, *, is_active: Callable[[], bool]) -> Watch:
        """A watch that the caller iterates; it looks at once, and after each change."""
        watch = Watch(
            lambda: self.list(customer_id, subject_id, deadline=self._clock.monotonic() + 1.0),
            is_active,
        )
        found = self._parties.find(customer_id, subject_id, deadline=self._clock.monotonic() + 1.0)
        with self._lock:
            self._watches.setdefault(found.customer_id, set()).add(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        """The watch has ended."""
        with self._lock:
            for customer_id in [key for key, watches in self._watches.items() if watch in watches]:
                self._watches[customer_id].discard(watch)
                if not self._watches[customer_id]:
                    del self._watches[customer_id]

    def close(self) -> None:
        """Ends all watches: the sidecar drains."""
        with self._lock:
            watches = [watch for of_customer in self._watches.values() for watch in of_customer]
        for watch in watches:
            watch.close()

    def is_watched(self, customer_id: str) -> bool:
        """Does anybody watch this customer? Then it must not be evicted."""
        return customer_id in self._watches

    def _customers_changed(self, customer_ids: frozenset[str]) -> None:
        with self._lock:
            watches = [
                watch for key in customer_ids.intersection(self._watches) for watch in self._watches[key]
            ]
        for watch in watches:
            watch.wake()

    def _balances_changed(self, hints: tuple[Hint, ...]) -> None:
        self._customers_changed(frozenset(hint.ref.customer_id for hint in hints))

    def _entitled(self, party: Party) -> Entitled:
        freshness = self._view.freshness(party.customer_id, party.subject_id, self._clock.monotonic())
        found = party.entitlements
        if found is None:
            return Entitled((), freshness, party.refusal)
        if found.standing is not Reason.OK:
            return Entitled((), freshness, found.standing)
        items = tuple(
            self._entitlement(found, feature, party.subject_id)
            for _, feature in sorted(found.features.items())
        )
        return Entitled(items, freshness, Reason.OK)

    def _entitlement(self, of: Entitlements, feature: FeatureEntitlement, subject_id: str) -> Entitlement:
        spends = feature.wallet is not None or feature.bills
        units = set() if feature.pricing is None or not spends else {feature.pricing.card.unit}
        specs = (*feature.balances, *(spec for spec in of.budgets if spec.unit in units))
        states = [self._state(of, spec, subject_id) for spec in specs]
        return Entitlement(
            feature=feature.name,
            type=feature.type.value,
            value=feature.value,
            sources=feature.sources,
            balances=tuple(state for state in states if state is not None),
        )

    def _state(self, of: Entitlements, spec: BalanceSpec, subject_id: str) -> BalanceState | None:
        ref: BalanceRef | None = spec.ref(of.customer_id, subject_id, of.parent_id)
        if ref is None:
            return None
        return self._standings.state(ref, spec, self._parties.now())
