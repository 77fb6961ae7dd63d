"""Customers and subjects that are not known here yet: one subscription for all who ask, and a bounded wait."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import structlog

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.entries import CustomerEntry, SubjectEntry
from sidecar.view.memory import View
from sidecar.view.port import SecondTier, StoredState
from sidecar.view.states import BadState

_log = structlog.stdlib.get_logger(__name__)


class Subscriber(Protocol):
    """Asks the feed."""

    def subscribe(self, *, customer_id: str = "", subject_id: str = "") -> None:
        """Does not block. Unheard while the feed is away."""


class _Flight:
    """Those who wait for one customer or subject."""

    __slots__ = ("subscribed_on", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.subscribed_on = 0
        """The return of the feed on which it was subscribed; 0: on none. What is sent on one stream dies with it."""


class Cold:
    """Looks up what may have to be fetched. Thread-safe."""

    def __init__(
        self,
        *,
        view: View,
        subscriber: Subscriber,
        second_tier: SecondTier | None,
        monotonic: Callable[[], float],
        blocking: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`second_tier` None: there is none. `blocking()`: around waits for the network."""
        self._blocking = blocking
        self._view = view
        self._subscriber = subscriber
        self._second_tier = second_tier
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._flights: dict[tuple[bool, str], _Flight] = {}

    def customer(self, customer_id: str, deadline: float) -> CustomerEntry | None:
        """The customer, fetched if need be. None: not before `deadline` (monotonic seconds), or at once
        while the feed is away. A feed that is just being opened is waited for.
        """
        entry = self._view.customer(customer_id)
        if entry is not None:
            return entry
        self._fetch(customer_id, deadline, is_customer=True)
        return self._view.customer(customer_id)

    def subject(self, subject_id: str, deadline: float) -> SubjectEntry | None:
        """The same for a subject."""
        entry = self._view.subject(subject_id)
        if entry is not None:
            return entry
        self._fetch(subject_id, deadline, is_customer=False)
        return self._view.subject(subject_id)

    def _fetch(self, key: str, deadline: float, *, is_customer: bool) -> None:
        lookup = self._view.customer if is_customer else self._view.subject
        pulse = self._view.pulse
        if pulse.is_connecting:
            # Just started: whether there is a feed to ask will be known in a moment.
            with self._blocking():
                self._view.wait_for(lambda: not pulse.is_connecting, max(0.0, deadline - self._monotonic()))
        with self._lock:
            flight = self._flights.setdefault((is_customer, key), _Flight())
            flight.waiting += 1
            is_first = flight.waiting == 1
        try:
            if pulse.is_connected:
                if self._is_unheard(flight):
                    self._subscribe(key, is_customer=is_customer)
                with self._blocking():
                    self._view.wait_for(
                        lambda: lookup(key) is not None or not pulse.is_connected,
                        max(0.0, deadline - self._monotonic()),
                    )
            if lookup(key) is None and not pulse.is_connected and is_first:
                self._from_second_tier(key, is_customer=is_customer)
        finally:
            with self._lock:
                flight.waiting -= 1
                if not flight.waiting:
                    del self._flights[is_customer, key]

    def _is_unheard(self, flight: _Flight) -> bool:
        """Has nobody subscribed since the feed came last? Who asks is the one who does."""
        with self._lock:
            returns = self._view.pulse.returns
            was, flight.subscribed_on = flight.subscribed_on, returns
            return was != returns

    def _subscribe(self, key: str, *, is_customer: bool) -> None:
        if is_customer:
            self._subscriber.subscribe(customer_id=key)
        else:
            self._subscriber.subscribe(subject_id=key)

    def _from_second_tier(self, key: str, *, is_customer: bool) -> None:
        if self._second_tier is None:
            return
        stored = self._second_tier.customer(key) if is_customer else self._second_tier.subject(key)
        if stored is None or self._view.generation not in {0, stored.generation}:
            return
        try:
            self._take_over(stored)
        except BadState as error:
            _log.warning("a state in the second tier was not taken over", problem=str(error))

    def _take_over(self, stored: StoredState) -> None:
        state = stored.state
        if isinstance(state, feed.SubjectState):
            self._view.apply(
                revision=stored.revision, subjects=[state], chained=False, as_of=stored.as_of, advance=False
            )
            return
        needed = {item.catalog_revision for item in state.subscriptions}
        catalogs: tuple[feed.CatalogRevision, ...] = ()
        if self._second_tier is not None and needed - self._view.catalogs.keys():
            known = self._second_tier.catalogs()
            catalogs = () if known is None else known.catalogs
        self._view.apply(
            revision=stored.revision,
            catalogs=catalogs,
            customers=[state],
            chained=False,
            as_of=stored.as_of,
            advance=False,
        )
