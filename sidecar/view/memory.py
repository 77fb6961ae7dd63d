"""The view in memory. One thread applies what the feed says; every other thread reads, without a lock."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf

from google.protobuf.message import Message

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import Customer
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceRef
from sidecar.view.entries import Compiled, CustomerEntry, Room, SubjectEntry
from sidecar.view.hints import Hint, hint_of
from sidecar.view.pulse import Pulse
from sidecar.view.snapshot import StoredView
from sidecar.view.states import BadState, catalog_of, customer_of

CustomersChanged = Callable[[frozenset[str]], None]
BalancesChanged = Callable[[tuple[Hint, ...], float], None]
"""Hints, and until when what the books had acknowledged is surely counted in them, in monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a message did beside changing the view: entries that made room, to be unsubscribed."""

    evicted_customers: tuple[str, ...] = ()
    evicted_subjects: tuple[str, ...] = ()


class View:
    """What this sidecar knows of catalog and customers. The rules are in the room's README."""

    def __init__(
        self, *, bound: int, pulse: Pulse, now: Callable[[], datetime], pinned: Callable[[str], bool]
    ) -> None:
        """`bound`: the most customers, and the most subjects. `now`: the control plane's clock as known."""
        self.pulse = pulse
        self._now = now
        self._bound = bound
        self._changed = threading.Condition()
        self._stamps = itertools.count(1)
        self._generation = 0
        self._revision = 0
        self._catalogs: dict[int, Catalog] = {}
        self._catalog_states: dict[int, feed.CatalogRevision] = {}
        self._current = 0
        self._customers: Room[CustomerEntry] = Room(bound, pinned)
        self._subjects: Room[SubjectEntry] = Room(bound, lambda _subject_id: False)
        self._hints: dict[str, dict[BalanceRef, Hint]] = {}
        self._on_customers: list[CustomersChanged] = []
        self._on_balances: list[BalancesChanged] = []
        self._on_generation: list[Callable[[int], None]] = []

    # Reading

    @property
    def revision(self) -> int:
        """The revision that the view stands at; 0: none."""
        return self._revision

    @property
    def generation(self) -> int:
        """The generation that the view is of; 0: none."""
        return self._generation

    @property
    def current_catalog(self) -> tuple[int, Catalog] | None:
        """The newest catalog in force and its revision; None: none is known."""
        catalog = self._catalogs.get(self._current)
        return None if catalog is None else (self._current, catalog)

    @property
    def catalogs(self) -> Mapping[int, Catalog]:
        """All catalogs that are known, by revision."""
        return self._catalogs

    def customer(self, customer_id: str) -> CustomerEntry | None:
        """None: not known here. One that does not exist is known with `customer.exists` False."""
        return self._customers.get(customer_id)

    def subject(self, subject_id: str) -> SubjectEntry | None:
        """None: not known here."""
        return self._subjects.get(subject_id)

    def hint(self, ref: BalanceRef) -> Hint | None:
        """How a balance stood last; None: not known here."""
        of_customer = self._hints.get(ref.customer_id)
        return None if of_customer is None else of_customer.get(ref)

    def compiled(self, entry: CustomerEntry, at: datetime) -> Compiled:
        """Its entitlements as they are at `at`: resolved anew when time or the current catalog has changed them."""
        compiled = entry.compiled
        valid_until = compiled.entitlements.valid_until
        if compiled.current_catalog == self._current and (valid_until is None or at < valid_until):
            return compiled
        # Two readers may do this at once; both results are right, and one of them stays.
        fresh = self._compile(entry.customer, self._catalogs, self._current, at)
        entry.compiled = fresh
        return fresh

    def is_current(self, customer_id: str, compiled: Compiled) -> bool:
        """Are these still the customer's entitlements, but for what time alone changes? Takes no lock."""
        entry = self._customers.get(customer_id)
        return entry is not None and entry.compiled is compiled and compiled.current_catalog == self._current

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Blocks until the condition holds after some change, at most so long. True: it holds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_seconds)

    def wake(self) -> None:
        """Lets those who wait look again: the feed came or went."""
        with self._changed:
            self._changed.notify_all()

    # Listening

    def on_customers_changed(self, callback: CustomersChanged) -> None:
        """Calls back after each change with the customers whose state or catalog changed. It must be quick
        and not raise.
        """
        self._on_customers.append(callback)

    def on_balances_changed(self, callback: BalancesChanged) -> None:
        """Calls back after hints came that say something new. It must be quick and not raise."""
        self._on_balances.append(callback)

    def on_generation(self, callback: Callable[[int], None]) -> None:
        """Calls back when the view starts over, with the generation from now on. It must be quick and not raise."""
        self._on_generation.append(callback)

    # Writing: the follower's thread, and once at start

    def apply(
        self,
        *,
        revision: int,
        catalogs: Iterable[feed.CatalogRevision] = (),
        customers: Iterable[feed.CustomerState] = (),
        subjects: Iterable[feed.SubjectState] = (),
        chained: bool = True,
        advance: bool,
    ) -> Applied:
        """Takes over states as of `revision`, all or none; `advance`: the view stands there afterwards.

        Raises BadState, and then nothing has changed.
        """
        known, states, current = self._with_catalogs(catalogs)
        newer = [state for state in customers if self._is_newer(state, revision)]
        entries = [self._entry(state, revision, known, current, chained=chained) for state in newer]
        hints = [hint_of(hint) for state in newer for hint in state.hints]
        with self._changed:
            catalog_changed = current != self._current
            self._catalogs, self._catalog_states, self._current = known, states, current
            gone_customers: list[str] = []
            gone_subjects: list[str] = []
            for entry in entries:
                gone_customers += self._customers.put(entry.customer.customer_id, entry)
            for subject in subjects:
                held = self._subjects.get(subject.subject_id)
                if held is None or held.revision <= revision:
                    fresh = SubjectEntry(subject.subject_id, subject.customer_id, revision, chained)
                    gone_subjects += self._subjects.put(subject.subject_id, fresh)
            for customer_id in gone_customers:
                self._hints.pop(customer_id, None)
            if advance:
                self._revision = revision
            # A state is newer than the hints that came before it, also where a limit changed and no balance did.
            news = self._note(hints, even_if_same_version=True)
            self._changed.notify_all()
        if advance:
            self.pulse.reached(revision)
        changed = frozenset(entry.customer.customer_id for entry in entries)
        if catalog_changed:
            changed = frozenset(customer_id for customer_id, _ in self._customers.snapshot())
        self._tell(changed, news)
        return Applied(tuple(gone_customers), tuple(gone_subjects))

    def apply_hints(self, hints: Iterable[session.BalanceHint], *, asked_at: float | None = None) -> None:
        """Takes over what is newer than what is held. Raises BadState, and then nothing has changed.

        `asked_at` None: they came on the feed, in order: the later one of a version counts more of what leases
        have spent. Else they came beside it, in an answer to what was asked then (monotonic seconds): only a
        later version is surely newer.
        """
        typed = [hint_of(hint) for hint in hints]
        with self._changed:
            news = self._note(typed, even_if_same_version=asked_at is None)
            self._changed.notify_all()
        self._tell(frozenset(), news, inf if asked_at is None else asked_at)

    def start_over(self, generation: int) -> None:
        """The control plane was restored, or history is gone: states stay for answers until newer ones come,
        as unconfirmed.
        """
        with self._changed:
            self._generation = generation
            self._revision = 0
            for _, customer in self._customers.snapshot():
                customer.revision = 0
            for _, subject in self._subjects.snapshot():
                subject.revision = 0
            self._hints = {}
        self.pulse.started_over()
        for callback in self._on_generation:
            callback(generation)

    def restore(self, stored: StoredView) -> None:
        """Takes over a view that was stored, into an empty one. Raises BadState."""
        self._generation = stored.generation
        self.apply(
            revision=stored.revision,
            catalogs=stored.catalogs,
            customers=stored.customers,
            subjects=stored.subjects,
            advance=True,
        )

    # For the follower and the snapshot

    def held(self) -> tuple[dict[str, bool], dict[str, bool], tuple[int, ...]]:
        """Customers and subjects, each with whether it is chained, and the catalog revisions."""
        customers = {key: entry.chained for key, entry in self._customers.snapshot()}
        subjects = {key: entry.chained for key, entry in self._subjects.snapshot()}
        return customers, subjects, tuple(self._catalogs)

    def states(self) -> Iterator[Message]:
        """Everything chained, as the feed would carry it, one at a time; what changes meanwhile may come in
        its new form.
        """
        yield from list(self._catalog_states.values())
        for customer_id, customer in self._customers.snapshot():
            if customer.chained:
                yield self._stored(customer_id, customer)
        for subject_id, subject in self._subjects.snapshot():
            if subject.chained:
                yield feed.SubjectState(subject_id=subject_id, customer_id=subject.customer_id)

    def counts(self) -> tuple[int, int]:
        """How many customers and subjects are held."""
        return len(self._customers), len(self._subjects)

    # Inside

    def _stored(self, customer_id: str, entry: CustomerEntry) -> feed.CustomerState:
        state = feed.CustomerState.FromString(entry.raw)
        for hint in list(self._hints.get(customer_id, {}).values()):
            state.hints.append(hint.as_message())
        return state

    def _with_catalogs(
        self, fresh: Iterable[feed.CatalogRevision]
    ) -> tuple[dict[int, Catalog], dict[int, feed.CatalogRevision], int]:
        known, states, current = self._catalogs, self._catalog_states, self._current
        for state in fresh:
            typed = known.get(state.revision)
            known = {**known, state.revision: catalog_of(state) if typed is None else typed}
            states = {**states, state.revision: state}
            if state.current and state.revision >= current:
                current = state.revision
        return known, states, current

    def _is_newer(self, state: feed.CustomerState, revision: int) -> bool:
        held = self._customers.get(state.customer_id)
        return held is None or held.revision <= revision

    def _entry(
        self,
        state: feed.CustomerState,
        revision: int,
        catalogs: Mapping[int, Catalog],
        current: int,
        *,
        chained: bool,
    ) -> CustomerEntry:
        customer = customer_of(state)
        missing = {item.catalog_revision for item in customer.subscriptions} - catalogs.keys()
        if missing:
            raise BadState(
                f"customer {customer.customer_id!r} refers to catalog revisions {sorted(missing)}, which are not known"
            )
        bare = feed.CustomerState()
        bare.CopyFrom(state)
        bare.ClearField("hints")
        compiled = self._compile(customer, catalogs, current, self._now())
        return CustomerEntry(customer, bare.SerializeToString(), revision, compiled, chained)

    def _compile(
        self, customer: Customer, catalogs: Mapping[int, Catalog], current: int, at: datetime
    ) -> Compiled:
        if current not in catalogs:
            # Before anything was published.
            catalogs = {**catalogs, current: Catalog()}
        try:
            entitlements: Entitlements = resolve(customer, catalogs, current, at)
        except (LookupError, ValueError) as error:
            raise BadState(f"customer {customer.customer_id!r} can not be resolved: {error}") from error
        return Compiled(entitlements, current, next(self._stamps))

    def _note(self, hints: Iterable[Hint], *, even_if_same_version: bool) -> tuple[Hint, ...]:
        news: list[Hint] = []
        for hint in hints:
            of_customer = self._hints.setdefault(hint.ref.customer_id, {})
            held = of_customer.get(hint.ref)
            if held is None or (held.version < hint.version + even_if_same_version and held != hint):
                of_customer[hint.ref] = hint
                news.append(hint)
        # Parents are hinted at without being held; twice the bound leaves room for them.
        while len(self._hints) > 2 * self._bound:
            del self._hints[next(iter(self._hints))]
        return tuple(news)

    def _tell(self, changed: frozenset[str], news: tuple[Hint, ...], as_of: float = inf) -> None:
        if news:
            for on_balances in self._on_balances:
                on_balances(news, as_of)
        if changed:
            for on_customers in self._on_customers:
                on_customers(changed)
