"""ReserveUsage, SettleReservation, ExtendReservation, ReleaseReservation, and what happens when time runs out."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.answers import Answers, Takes
from sidecar.deciding.asked import Asked
from sidecar.deciding.consume import near, shown
from sidecar.deciding.errors import (
    Malformed,
    ReservationConflict,
    ReservationEnded,
    ReservationUnknown,
    Violation,
)
from sidecar.deciding.holding import (
    ExtendAnswer,
    ReserveAnswer,
    SettleAnswer,
    Standing,
    as_taken,
    holds_of,
    lease_changes_at_end,
    merged_units,
    require_complete,
    set_measures,
    shown_lines,
    standing_of,
    stored,
    units_of,
    with_replaced,
)
from sidecar.deciding.judging import Judge
from sidecar.deciding.party import Parties
from sidecar.deciding.records import decided, fact, filled, lease_changes
from sidecar.deciding.refusals import Refusals
from sidecar.deciding.report import key_scope
from sidecar.deciding.reserved import Reserved, decode
from sidecar.deciding.settling import Settlement, Settling, held_lines, lines
from sidecar.deciding.spending import Spent, Till
from sidecar.deciding.unreported import Unreported
from sidecar.engine import reservation as machine
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.reservation import ReservationState
from sidecar.leases.book import LeaseBook
from sidecar.leases.terms import Taken
from sidecar.outbox.port import (
    KeyEntry,
    KeyTaken,
    Outbox,
    ReservationMoved,
    Write,
    Written,
)
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown

TTL: Final = timedelta(minutes=5)
SETTLE_LEASE_SECONDS: Final = 1.0
"""How long a settle above its hold waits for a lease: its caller has the answer already."""

_log = structlog.stdlib.get_logger(__name__)


class Reserve:
    """All verbs of reservations. Thread-safe; calls of one reservation go one after the other."""

    def __init__(
        self,
        *,
        parties: Parties,
        judge: Judge,
        till: Till,
        answers: Answers,
        outbox: Outbox,
        book: LeaseBook,
        refusals: Refusals,
        unreported: Unreported,
    ) -> None:
        """Knows no reservation until `restore`."""
        self._parties = parties
        self._judge = judge
        self._till = till
        self._answers = answers
        self._outbox = outbox
        self._book = book
        self._refusals = refusals
        self._unreported = unreported
        self._settling = Settling(judge, till)
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Reserved, Entitlements | None]] = {}
        self._per_customer: dict[str, int] = {}

    # Life

    def restore(self) -> int:
        """At the start: holds of earlier incarnations go on. Returns how many."""
        for row in self._outbox.open_reservations():
            reserved = decode(row.state, row.version)
            with self._book.lock:
                for hold in reserved.holds:
                    self._book.restore_hold(hold.ref, hold.lease_id, hold.amount)
            self._remember(reserved, None)
        return len(self._open)

    def is_pinned(self, customer_id: str) -> bool:
        """Has this customer an open reservation?"""
        return customer_id in self._per_customer

    def expire_due(self) -> int:
        """Ends what has run out; what fails is tried again next time. Returns how many."""
        now = self._parties.now()
        due = [key for key, (reserved, _) in list(self._open.items()) if reserved.expires_at <= now]
        ended = 0
        for reservation_id in due:
            try:
                with self._alone(reservation_id):
                    found = self._find(reservation_id)
                    if found is not None and found.is_open and found.expires_at <= now:
                        self._end(found, ReservationState.EXPIRED)
                        ended += 1
            except (NotWritten, OutcomeUnknown) as error:
                _log.warning(
                    "a reservation could not be ended yet", reservation_id=reservation_id, cause=str(error)
                )
        return ended

    # Verbs

    def reserve(
        self,
        reservation_id: str,
        asked: Asked,
        *,
        feature: str,
        ttl: timedelta | None,
        min_revision: int,
        explain: bool,
        deadline: float,
    ) -> ReserveAnswer:
        """Raises Malformed, ReservationConflict, NotWritten and OutcomeUnknown."""
        with self._alone(reservation_id):
            known = self._find(reservation_id)
            if known is not None:
                return self._repeated(known, asked)
            now = self._parties.now()
            occurred_at = near(asked, now)
            message = asked.message
            party = self._parties.find(
                message.customer_id, message.subject_id, min_revision=min_revision, deadline=deadline
            )
            judged = self._judge.event(
                party, asked.event(party, occurred_at), feature=feature, explain=explain
            )
            spent = self._judge.spend(judged, deadline)
            decision_id = self._answers.new_id()
            answer = self._answers.encoded(
                judged, spent, decision_id=decision_id, at=now, takes=Takes.RESERVES
            )
            if not spent.outcome.allowed:
                self._refusals.note(
                    customer_id=party.customer_id,
                    feature=feature,
                    reason=spent.outcome.reason,
                    decision=answer,
                )
                return ReserveAnswer(answer, None)
            reserved = Reserved(
                reservation_id=reservation_id,
                version=1,
                state=ReservationState.OPEN,
                customer_id=party.customer_id,
                subject_id=party.subject_id,
                feature=feature,
                event=message.SerializeToString(),
                content_hash=asked.content_hash,
                decision=answer,
                decision_id=decision_id,
                view_revision=judged.freshness.revision,
                reserved_at=occurred_at,
                expires_at=now + (ttl or TTL),
                holds=holds_of(spent.taken),
                units=tuple(lines((draw.spec, 1) for draw in spent.outcome.draws)),
                is_fact=judged.is_fact,
            )
            self._commit_new(reserved, spent, judged.entitlements)
            return ReserveAnswer(answer, standing_of(reserved))

    def settle(
        self, reservation_id: str, event: usage.UsageEvent | None, *, final: bool, deadline: float
    ) -> SettleAnswer:
        """Raises Malformed, ReservationEnded, NotWritten and OutcomeUnknown."""
        with self._alone(reservation_id):
            reserved = self._find(reservation_id)
            if reserved is None:
                return self._settle_unknown(reservation_id, event)
            measures = {} if event is None else {name: Decimal(text) for name, text in event.measures.items()}
            try:
                step = machine.settle(reserved.machine(), measures, {}, final=final)
            except machine.MeasureFell as error:
                text = f"{error}; measures are cumulative"
                raise Malformed([Violation(f'event.measures["{error.measure}"]', text)]) from error
            except machine.AlreadyEnded as error:
                raise ReservationEnded(reservation_id, error.state.name) from error
            if not reserved.is_open:
                return self._late(reserved, step)
            reserved = replace(
                reserved, event=with_replaced(reserved, event), totals=step.reservation.settled
            )
            if final:
                wait_until = min(deadline, self._till.clock.monotonic() + SETTLE_LEASE_SECONDS)
                return self._answer(self._end(reserved, ReservationState.SETTLED, deadline=wait_until))
            return self._answer(self._settle_more(reserved, deadline))

    def extend(
        self,
        reservation_id: str,
        event: usage.UsageEvent | None,
        *,
        ttl: timedelta | None,
        deadline: float,
    ) -> ExtendAnswer:
        """Raises Malformed, ReservationUnknown, ReservationEnded, NotWritten and OutcomeUnknown."""
        with self._alone(reservation_id):
            reserved = self._find(reservation_id)
            if reserved is None or reserved.is_unknown:
                raise ReservationUnknown(reservation_id)
            if not reserved.is_open:
                raise ReservationEnded(reservation_id, reserved.state.name)
            expires_at = reserved.expires_at if ttl is None else self._parties.now() + ttl
            if event is None:
                return ExtendAnswer(None, standing_of(self._prolonged(reserved, expires_at)))
            return self._enlarge(reserved, event, expires_at, deadline)

    def release(self, reservation_id: str) -> Standing:
        """Raises NotWritten and OutcomeUnknown. Of an unknown reservation: a standing that says so."""
        with self._alone(reservation_id):
            reserved = self._find(reservation_id)
            if reserved is None:
                return Standing(reservation_id, ReservationState.UNSPECIFIED, None, ())
            if reserved.is_open:
                reserved = self._end(reserved, ReservationState.RELEASED)
            return standing_of(reserved)

    # Inside: the beginning

    def _repeated(self, known: Reserved, asked: Asked) -> ReserveAnswer:
        if known.is_unknown or known.content_hash != asked.content_hash:
            raise ReservationConflict(known.reservation_id)
        return ReserveAnswer(known.decision, standing_of(known))

    def _commit_new(self, reserved: Reserved, spent: Spent, entitlements: Entitlements | None) -> None:
        write = Write(reservation=stored(reserved), leases=lease_changes(spent.taken, held=True))

        def applied() -> None:
            with self._book.lock:
                self._book.hold(spent.taken)
            self._remember(reserved, entitlements)

        result = self._commit(write, applied, lambda: self._till.give_back(spent))
        if isinstance(result, ReservationMoved):
            self._till.give_back(spent)
            raise ReservationConflict(reserved.reservation_id)

    def _commit(
        self, write: Write, applied: Callable[[], None], undone: Callable[[], None]
    ) -> Written | KeyTaken | ReservationMoved:
        """Commits; `applied` is called once it is durable, also when that is only known later."""
        try:
            result = self._outbox.commit(write)
        except NotWritten:
            undone()
            raise
        except OutcomeUnknown as error:
            error.resolution.then(lambda known: applied() if known else undone())
            raise
        if isinstance(result, Written):
            applied()
        return result

    # Inside: more of it

    def _settle_more(self, reserved: Reserved, deadline: float) -> Reserved:
        """Writes new totals, and holds more where they are above what is held."""
        entitlements = self._entitlements(reserved)
        settlement = None
        after = replace(reserved, version=reserved.version + 1)
        if entitlements is not None:
            wait_until = min(deadline, self._till.clock.monotonic() + SETTLE_LEASE_SECONDS)
            found = self._settling.bill(reserved, entitlements, reserved.totals)
            settlement = self._settling.settle(reserved, found, deadline=wait_until)
            after = replace(
                after,
                holds=(*reserved.holds, *holds_of(settlement.taken)),
                charged=settlement.charged(),
                overage=settlement.overage(),
                units=units_of(reserved, settlement),
            )
        taken = () if settlement is None else settlement.taken
        self._commit_held(after, taken)
        return after

    def _enlarge(
        self, reserved: Reserved, event: usage.UsageEvent, expires_at: datetime, deadline: float
    ) -> ExtendAnswer:
        """Holds what a larger estimate needs beyond what is held, or changes nothing."""
        message = reserved.message
        message.MergeFrom(event)
        now = self._parties.now()
        asked = Asked(message, reserved.content_hash, None)
        party = self._parties.find(reserved.customer_id, reserved.subject_id, deadline=deadline)
        judged = self._judge.event(
            party, asked.event(party, reserved.reserved_at), feature=reserved.feature, explain=False
        )
        spent = self._till.spend_beyond(judged.bill, reserved.holds, deadline)
        answer = self._answers.encoded(judged, spent, decision_id=self._answers.new_id(), at=now)
        if not spent.outcome.allowed:
            return ExtendAnswer(answer, standing_of(reserved))
        after = replace(
            reserved,
            version=reserved.version + 1,
            event=message.SerializeToString(),
            expires_at=expires_at,
            holds=(*reserved.holds, *holds_of(spent.taken)),
            units=merged_units(reserved.units, lines((draw.spec, 1) for draw in spent.outcome.draws)),
        )
        self._commit_held(after, spent.taken)
        return ExtendAnswer(answer, standing_of(after))

    def _prolonged(self, reserved: Reserved, expires_at: datetime) -> Reserved:
        after = replace(reserved, version=reserved.version + 1, expires_at=expires_at)
        self._commit_held(after, ())
        return after

    def _commit_held(self, after: Reserved, taken: tuple[Taken, ...]) -> None:
        """Writes a reservation that stays open and holds `taken` as well."""
        entitlements = self._known_entitlements(after.reservation_id)

        def applied() -> None:
            with self._book.lock:
                self._book.hold(taken)
            self._remember(after, entitlements)

        def undone() -> None:
            with self._book.lock:
                self._book.give_back(taken, self._till.clock.monotonic())

        write = Write(reservation=stored(after), leases=lease_changes(taken, held=True))
        if isinstance(self._commit(write, applied, undone), ReservationMoved):
            undone()
            raise ReservationEnded(after.reservation_id, "changed meanwhile")

    # Inside: the end

    def _end(self, reserved: Reserved, state: ReservationState, *, deadline: float | None = None) -> Reserved:
        """Makes its one event, if there is one, and gives the rest back; all in one commit."""
        ended = replace(reserved, version=reserved.version + 1, state=state, holds=())
        makes_event = bool(reserved.totals) or state is ReservationState.SETTLED
        if not makes_event:
            ended = replace(ended, returned=held_lines(reserved.holds, reserved.units))
            self._commit_end(reserved, ended, b"", None, None)
            return ended
        entitlements = None if reserved.is_fact else self._entitlements(reserved)
        event = filled(
            reserved.message,
            customer_id=reserved.customer_id,
            subject_id=reserved.subject_id,
            occurred_at=reserved.reserved_at,
            key=reserved.reservation_id,
        )
        set_measures(event, reserved.totals)
        scope = key_scope(reserved.customer_id, reserved.subject_id)
        entry = KeyEntry(scope, reserved.reservation_id, reserved.content_hash, reserved.decision)
        if entitlements is None:
            usage_bytes = fact(event, content_hash=reserved.content_hash, accepted_at=self._parties.now())
            ended = replace(ended, returned=held_lines(reserved.holds, reserved.units))
            self._commit_end(reserved, ended, usage_bytes, entry, None)
            return ended
        found = self._settling.bill(reserved, entitlements, reserved.totals)
        settlement = self._settling.settle(reserved, found, deadline=deadline)
        covered = (*as_taken(settlement.allotted.paid), *settlement.taken)
        usage_bytes = decided(
            event,
            content_hash=reserved.content_hash,
            decision_id=reserved.decision_id,
            decided_at=reserved.reserved_at,
            view_revision=reserved.view_revision,
            draws=settlement.outcome.draws,
            costs=settlement.outcome.costs,
            covered=covered,
        )
        units = units_of(reserved, settlement)
        ended = replace(
            ended,
            charged=settlement.charged(),
            overage=settlement.overage(),
            returned=held_lines(settlement.allotted.left, units),
            units=units,
        )
        self._commit_end(reserved, ended, usage_bytes, entry, settlement)
        return ended

    def _commit_end(
        self,
        before: Reserved,
        ended: Reserved,
        usage_bytes: bytes,
        entry: KeyEntry | None,
        settlement: Settlement | None,
    ) -> None:
        paid = () if settlement is None else settlement.allotted.paid
        left = before.holds if settlement is None else settlement.allotted.left
        taken = () if settlement is None else settlement.taken
        changes = lease_changes_at_end(before.holds, paid, taken)

        def applied() -> None:
            with self._book.lock:
                for hold in paid:
                    self._book.charge_held(hold.lease_id, hold.amount)
                for hold in left:
                    self._book.release_held(hold.lease_id, hold.amount)
            self._forget(ended)

        def undone() -> None:
            with self._book.lock:
                self._book.give_back(taken, self._till.clock.monotonic())

        write = Write(usage=usage_bytes, key=entry, reservation=stored(ended), leases=changes)
        result = self._commit(write, applied, undone)
        if isinstance(result, Written) and settlement is not None:
            spent = Spent(settlement.outcome, taken)
            self._till.settled(spent)
            self._unreported.charged(result.seq, shown(spent))
        if isinstance(result, KeyTaken):
            # The same event was recorded otherwise: the reservation ends without one of its own, and holds nothing.
            undone()
            freed = replace(ended, charged=(), overage=(), returned=held_lines(before.holds, before.units))
            self._commit_end(before, freed, b"", None, None)
        elif isinstance(result, ReservationMoved):
            undone()
            raise ReservationEnded(before.reservation_id, "changed meanwhile")

    # Inside: too late, or unknown

    def _late(self, reserved: Reserved, step: machine.Step) -> SettleAnswer:
        if step.event is None:
            return self._answer(reserved)
        # The first is `<id>#late`; should more come, each has a key of its own.
        key = f"{reserved.reservation_id}#late" + (f"-{reserved.late + 1}" if reserved.late else "")
        event = filled(
            reserved.message,
            customer_id=reserved.customer_id,
            subject_id=reserved.subject_id,
            occurred_at=reserved.reserved_at,
            key=key,
        )
        set_measures(event, step.event.measures)
        after = replace(
            reserved,
            version=reserved.version + 1,
            totals=step.reservation.settled,
            recorded_as=key,
            late=reserved.late + 1,
        )
        return self._record_fact(after, event)

    def _settle_unknown(self, reservation_id: str, event: usage.UsageEvent | None) -> SettleAnswer:
        """All of it is a fact, under the reservation's id; it is remembered as ended, so that later totals
        count only beyond.
        """
        require_complete(event)
        assert event is not None, "it was found complete"
        now = self._parties.now()
        party = self._parties.find(
            event.customer_id, event.subject_id, deadline=self._till.clock.monotonic() + SETTLE_LEASE_SECONDS
        )
        reserved = Reserved(
            reservation_id=reservation_id,
            version=1,
            state=ReservationState.EXPIRED,
            customer_id=party.customer_id,
            subject_id=party.subject_id,
            feature="",
            event=event.SerializeToString(),
            content_hash=b"",
            decision=b"",
            decision_id="",
            view_revision=0,
            reserved_at=now,
            expires_at=now,
            totals={name: Decimal(text) for name, text in event.measures.items()},
            recorded_as=reservation_id,
        )
        recorded = filled(
            event,
            customer_id=party.customer_id,
            subject_id=party.subject_id,
            occurred_at=now,
            key=reservation_id,
        )
        return self._record_fact(reserved, recorded)

    def _record_fact(self, after: Reserved, event: usage.UsageEvent) -> SettleAnswer:
        bare = usage.UsageEvent()
        bare.CopyFrom(event)
        bare.ClearField("occurred_at")
        content_hash = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
        entry = KeyEntry(
            key_scope(after.customer_id, after.subject_id), event.idempotency_key, content_hash, b""
        )
        usage_bytes = fact(event, content_hash=content_hash, accepted_at=self._parties.now())
        result = self._outbox.commit(Write(usage=usage_bytes, key=entry, reservation=stored(after)))
        if isinstance(result, KeyTaken) and result.entry.content_hash != content_hash:
            raise ReservationConflict(after.reservation_id)
        return self._answer(after)

    # Inside: small things

    @contextlib.contextmanager
    def _alone(self, reservation_id: str) -> Iterator[None]:
        """Calls of one reservation go one after the other; those of others do not wait for them."""
        with self._lock:
            lock, users = self._busy.get(reservation_id, (None, 0))
            lock = lock or threading.Lock()
            self._busy[reservation_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                _, users = self._busy[reservation_id]
                if users == 1:
                    del self._busy[reservation_id]
                else:
                    self._busy[reservation_id] = (lock, users - 1)

    def _find(self, reservation_id: str) -> Reserved | None:
        found = self._open.get(reservation_id)
        if found is not None:
            return found[0]
        stored = self._outbox.reservation(reservation_id)
        return None if stored is None else decode(stored.state, stored.version)

    def _known_entitlements(self, reservation_id: str) -> Entitlements | None:
        found = self._open.get(reservation_id)
        return None if found is None else found[1]

    def _entitlements(self, reserved: Reserved) -> Entitlements | None:
        """Those that it was decided by; after a restart the present ones. None: not known, so that its event
        is a fact.
        """
        known = self._known_entitlements(reserved.reservation_id)
        if known is not None:
            return known
        entry = self._till.view.customer(reserved.customer_id)
        if entry is None or not entry.customer.exists:
            return None
        return self._till.view.compiled(entry, self._parties.now()).entitlements

    def _remember(self, reserved: Reserved, entitlements: Entitlements | None) -> None:
        with self._lock:
            if reserved.reservation_id not in self._open:
                count = self._per_customer.get(reserved.customer_id, 0)
                self._per_customer[reserved.customer_id] = count + 1
            self._open[reserved.reservation_id] = (reserved, entitlements)

    def _forget(self, reserved: Reserved) -> None:
        with self._lock:
            if self._open.pop(reserved.reservation_id, None) is not None:
                left = self._per_customer[reserved.customer_id] - 1
                if left:
                    self._per_customer[reserved.customer_id] = left
                else:
                    del self._per_customer[reserved.customer_id]

    def _answer(self, reserved: Reserved) -> SettleAnswer:
        return SettleAnswer(
            standing=standing_of(reserved),
            charged=shown_lines(reserved.charged),
            returned=shown_lines(reserved.returned),
            overage=shown_lines(reserved.overage),
            recorded_as=reserved.recorded_as,
        )
