"""The view in memory. One thread applies what the feed says; every other thread reads, without a lock."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.message import Message

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import Customer
from sidecar.engine.decision import Freshness, ViewSource
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceRef
from sidecar.view.customers import Customers, Noted
from sidecar.view.entries import Compiled, CustomerEntry, Room, SubjectEntry
from sidecar.view.hints import Hint, hint_of
from sidecar.view.pulse import Pulse
from sidecar.view.snapshot import StoredView
from sidecar.view.states import BadState, catalog_of, customer_of

CustomersChanged = Callable[[frozenset[str]], None]
BalancesChanged = Callable[[tuple[Hint, ...]], None]
Counted = Callable[[Iterable[Hint], int, bool], None]
"""Hints as they stand, which count this incarnation's records as far as they say; how far all others do that were
ever told (0: nothing is said of those); and whether they count all that earlier incarnations have written.
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a message did beside changing the view: entries that made room, to be unsubscribed."""

    evicted_customers: tuple[str, ...] = ()
    evicted_subjects: tuple[str, ...] = ()


class View:
    """What this sidecar knows of catalog and customers. The rules are in the room's README."""

    def __init__(
        self,
        *,
        bound: int,
        in_use_max: int,
        pulse: Pulse,
        now: Callable[[], datetime],
        pinned: Callable[[str], bool],
    ) -> None:
        """`bound`: the most customers, and the most subjects. `in_use_max`: customers that are ready to decide about.
        `now`: the control plane's clock as known.
        """
        self.pulse = pulse
        self._now = now
        self._changed = threading.Condition()
        self._stamps = itertools.count(1)
        self._generation = 0
        self._revision = 0
        self._catalogs: dict[int, Catalog] = {}
        self._catalog_states: dict[int, feed.CatalogRevision] = {}
        self._current = 0
        self._is_current_old = False
        self._customers = Customers(bound, in_use_max, pinned)
        self._hints = self._customers.hints
        self._subjects: Room[SubjectEntry] = Room(bound, lambda _subject_id: False)
        self.made_again = 0
        """How often a customer at rest was asked about since the start. Counted under the lock, read without."""
        self.changes = 0
        """Another number whenever a state, a hint or the current catalog has changed. Read without the lock."""
        self._on_customers: list[CustomersChanged] = []
        self._on_balances: list[BalancesChanged] = []
        self._on_counted: list[Counted] = []
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
        """None: not known here. One that does not exist is known with `exists` False."""
        return self._customers.get(customer_id)

    def subject(self, subject_id: str) -> SubjectEntry | None:
        """None: not known here."""
        return self._subjects.get(subject_id)

    def freshness(self, customer_id: str, subject_id: str, monotonic: float) -> Freshness:
        """How old what is known of these two is: as old as the view, but for what a second tier gave."""
        known = (self.customer(customer_id), self.subject(subject_id) if subject_id else None)
        loose = [entry for entry in known if entry is not None and not entry.chained]
        if not loose:
            return self.pulse.freshness(monotonic)
        revision = min(entry.revision for entry in loose)
        confirmed = [entry.as_of for entry in loose if entry.as_of is not None]
        if len(confirmed) < len(loose):
            return Freshness(revision, None, None, ViewSource.PERSISTED)
        as_of = min(confirmed)
        age = max(timedelta(0), self._now() - as_of)
        return Freshness(revision, as_of, age, ViewSource.PERSISTED)

    def hint(self, ref: BalanceRef) -> Hint | None:
        """How a balance stood last; None: not known here."""
        of_customer = self._hints.get(ref.customer_id)
        if of_customer is None:
            of_customer = self._hints_at_rest(ref.customer_id)
        return None if of_customer is None else of_customer.get(ref)

    def compiled(self, entry: CustomerEntry, at: datetime) -> Compiled:
        """Its entitlements as they are at `at`: resolved anew when time or the current catalog has changed them, or
        when it was at rest.
        """
        compiled = entry.compiled
        if compiled is not None and compiled.current_catalog == self._current:
            valid_until = compiled.entitlements.valid_until
            if valid_until is None or at < valid_until:
                return compiled
        # In this order: what is current was among the catalogs before it was.
        current = self._current
        catalogs = self._catalogs
        # Two readers may do this at once; both results are right, and one of them stays.
        fresh = self._compile(customer_of(entry.state()), catalogs, current, at)
        with self._changed:
            if compiled is None:
                self.made_again += 1
            self._customers.ready(entry, fresh)
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

    def on_counted(self, callback: Counted) -> None:
        """Calls back after the control plane has said how much it counts. It must be quick and not raise."""
        self._on_counted.append(callback)

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
        counted_through: int = 0,
        chained: bool = True,
        as_of: datetime | None = None,
        at_rest: bool = False,
        advance: bool,
    ) -> Applied:
        """Takes over states as of `revision`, all or none; `advance`: the view stands there afterwards. `as_of`: when
        states that are not chained were confirmed. `at_rest`: nobody has asked for these customers.

        Raises BadState, and then nothing has changed.
        """
        catalogs = tuple(catalogs)
        known, states, current = self._with_catalogs(catalogs)
        newer = [state for state in customers if self._is_newer(state, revision)]
        entries = [self._entry(state, revision, known, current, chained=chained) for state in newer]
        for entry in entries:
            entry.as_of = as_of
        hints = [hint_of(hint, counted_through) for state in newer for hint in state.hints]
        with self._changed:
            catalog_changed = current != self._current or known.get(current) is not self._catalogs.get(
                current
            )
            self._is_current_old = self._is_current_old and not any(state.current for state in catalogs)
            self._catalogs, self._catalog_states, self._current = known, states, current
            gone_customers: list[str] = []
            gone_subjects: list[str] = []
            for entry in entries:
                gone_customers += self._customers.take_over(entry, rests=at_rest)
            for subject in subjects:
                held = self._subjects.peek(subject.subject_id)
                if held is None or held.revision <= revision:
                    fresh = SubjectEntry(
                        subject.subject_id, subject.customer_id, revision, chained, as_of=as_of
                    )
                    gone_subjects += self._subjects.put(subject.subject_id, fresh)
            if advance:
                self._revision = revision
            noted = self._customers.note(hints, in_order=True)
            self.changes += 1
            self._changed.notify_all()
        if advance:
            self.pulse.reached(revision)
        changed = frozenset(entry.customer_id for entry in entries)
        if catalog_changed:
            changed = frozenset(customer_id for customer_id, _ in self._customers.snapshot())
        self._tell(changed, noted)
        return Applied(tuple(gone_customers), tuple(gone_subjects))

    def apply_hints(
        self,
        hints: Iterable[session.BalanceHint],
        *,
        counted_through: int,
        complete: bool = False,
        earlier: bool = False,
        in_order: bool = False,
    ) -> None:
        """Takes over what is newer than what is held. Raises BadState, and then nothing has changed.

        `complete`: what is not in here stands as it was told last, and counts as much; `earlier`: and all that earlier
        incarnations have written. `in_order`: they came on the feed, where what comes later was read later; an answer
        may have been overtaken by the feed.
        """
        typed = [hint_of(hint, counted_through) for hint in hints]
        with self._changed:
            noted = self._customers.note(typed, in_order=in_order)
            self.changes += 1
            self._changed.notify_all()
        self._tell(frozenset(), noted, counted_through if complete else 0, earlier=complete and earlier)

    def start_over(self, generation: int) -> None:
        """The control plane was restored, or history is gone: states stay for answers until newer ones come,
        as unconfirmed.
        """
        with self._changed:
            self._generation = generation
            self._revision = 0
            self._is_current_old = True
            for _, customer in self._customers.snapshot():
                customer.revision = 0
            for _, subject in self._subjects.snapshot():
                subject.revision = 0
            self._customers.forget_hints()
            self.changes += 1
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
            at_rest=True,
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
        for _, customer in self._customers.snapshot():
            if customer.chained:
                yield self._stored(customer)
        for subject_id, subject in self._subjects.snapshot():
            if subject.chained:
                yield feed.SubjectState(subject_id=subject_id, customer_id=subject.customer_id)

    def states_of(
        self, customer_ids: Iterable[str], subject_ids: Iterable[str]
    ) -> tuple[list[feed.CustomerState], list[feed.SubjectState]]:
        """The chained ones among these, as the feed would carry them."""
        customers, subjects = [], []
        for customer_id in customer_ids:
            customer = self._customers.peek(customer_id)
            if customer is not None and customer.chained:
                customers.append(self._stored(customer))
        for subject_id in subject_ids:
            subject = self._subjects.peek(subject_id)
            if subject is not None and subject.chained:
                subjects.append(feed.SubjectState(subject_id=subject_id, customer_id=subject.customer_id))
        return customers, subjects

    def catalog_states(self) -> tuple[feed.CatalogRevision, ...]:
        """All catalogs, as the feed carried them."""
        return tuple(self._catalog_states.values())

    def counts(self) -> tuple[int, int]:
        """How many customers and subjects are held."""
        return len(self._customers), len(self._subjects)

    @property
    def in_use(self) -> int:
        """How many customers are in use."""
        return len(self._hints)

    # Inside

    def _stored(self, entry: CustomerEntry) -> feed.CustomerState:
        state = entry.state()
        with self._changed:
            if self._customers.peek(entry.customer_id) is not None:
                state.hints.extend(self._customers.hint_messages(entry.customer_id))
        return state

    def _hints_at_rest(self, customer_id: str) -> dict[BalanceRef, Hint] | None:
        """Of a customer that is not in use: it is at rest, or not held, or was in use a moment ago."""
        if self._customers.peek(customer_id) is None:
            return self._customers.others.get(customer_id)
        with self._changed:
            return self._customers.woken_hints(customer_id)

    def _with_catalogs(
        self, fresh: Iterable[feed.CatalogRevision]
    ) -> tuple[dict[int, Catalog], dict[int, feed.CatalogRevision], int]:
        """What is known with these, and which is in force: the newest one told since the view started over."""
        known, states, current = self._catalogs, self._catalog_states, self._current
        least = 0 if self._is_current_old else current
        for state in fresh:
            told = states.get(state.revision)
            if told is None or told.document != state.document:
                known = {**known, state.revision: catalog_of(state)}
            states = {**states, state.revision: state}
            if state.current and state.revision >= least:
                current = least = state.revision
        if current < self._current:
            # Whoever starts from what is stored must not take the former one for the one in force.
            states = {revision: _not_in_force(one, than=current) for revision, one in states.items()}
        return known, states, current

    def _is_newer(self, state: feed.CustomerState, revision: int) -> bool:
        held = self._customers.peek(state.customer_id)
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
        return CustomerEntry(
            customer.customer_id,
            bare.SerializeToString(),
            revision,
            customer.exists,
            chained,
            self._compile(customer, catalogs, current, self._now()),
        )

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

    def _tell(
        self, changed: frozenset[str], noted: Noted, all_through: int = 0, *, earlier: bool = False
    ) -> None:
        if noted.news:
            for on_balances in self._on_balances:
                on_balances(noted.news)
        if changed:
            for on_customers in self._on_customers:
                on_customers(changed)
        for on_counted in self._on_counted:
            on_counted(noted.standing, all_through, earlier)


def _not_in_force(state: feed.CatalogRevision, *, than: int) -> feed.CatalogRevision:
    """The state, and if it is of a later revision than this one, not as the one in force."""
    if not state.current or state.revision <= than:
        return state
    told = feed.CatalogRevision()
    told.CopyFrom(state)
    told.current = False
    return told
