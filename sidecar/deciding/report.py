"""ReportUsage: what has happened already is judged once, recorded, and never refused for lack of balance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.asked import Asked
from sidecar.deciding.errors import Malformed, Violation
from sidecar.deciding.judging import billed, blamed
from sidecar.deciding.party import Parties, Party
from sidecar.deciding.records import fact, filled
from sidecar.deciding.unreported import Unreported
from sidecar.engine.bill import bill
from sidecar.engine.catalog import Catalog
from sidecar.engine.evaluate import Charge
from sidecar.engine.metering import quantity
from sidecar.engine.rating import PartExceedsWhole, rate
from sidecar.engine.values import AmountOutOfRange, BalanceKind, BalanceRef, Event, Reason
from sidecar.outbox.port import KeyEntry, KeyTaken, Outbox, Write, Written
from sidecar.runtime.clock import EPOCH, Clock
from sidecar.view.memory import View

AHEAD_MAX: Final = timedelta(minutes=5)
SUBJECT_WAIT_SECONDS: Final = 1.0


class UsageStatus(IntEnum):
    """How an event was taken; numbers as in `purser.v1.UsageStatus`."""

    UNSPECIFIED = 0
    ACCEPTED = 1
    DUPLICATE = 2
    REJECTED = 3


class RejectReason(IntEnum):
    """Why one reported event was not recorded; numbers as in `purser.v1.RejectReason`."""

    UNSPECIFIED = 0
    TOO_OLD = 1
    IN_THE_FUTURE = 2
    UNKNOWN_EVENT = 3
    KEY_CONFLICT = 4


@dataclass(frozen=True, slots=True)
class ReportResult:
    """How one event was taken."""

    idempotency_key: str
    status: UsageStatus
    reason: RejectReason = RejectReason.UNSPECIFIED
    message: str = ""


class _Fact(NamedTuple):
    """One event on its way into the outbox."""

    write: Write
    entry: KeyEntry
    charges: tuple[Charge, ...]
    """What it adds to the balances that are shown until the control plane counts it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The verb."""

    view: View
    parties: Parties
    outbox: Outbox
    clock: Clock
    unreported: Unreported
    late_window: timedelta

    def __call__(self, asked: Sequence[Asked], *, deadline: float) -> list[ReportResult]:
        """One result per event, in order, once all that is recorded is durable.

        Raises Malformed (and then nothing was recorded), NotWritten and OutcomeUnknown.
        """
        now = self.parties.now()
        results: list[ReportResult | None] = []
        facts: list[_Fact] = []
        wrong: list[Violation] = []
        for index, item in enumerate(asked):
            rejected = self._judge(item, now)
            results.append(rejected)
            wrong += amount_violations(self.view, item.message, f"events[{index}]")
            if rejected is None and not wrong:
                party = self._party(item, deadline)
                try:
                    facts.append(self._fact(item, party, now, at=f"events[{index}]"))
                except Malformed as error:
                    wrong += error.violations
        if wrong:
            raise Malformed(wrong)
        written = self.outbox.commit_all([fact.write for fact in facts]) if facts else ()
        outcomes = iter(zip(written, facts, strict=True))
        return [self._result(*next(outcomes)) if result is None else result for result in results]

    def _judge(self, item: Asked, now: datetime) -> ReportResult | None:
        """A rejection, or None."""
        key = item.message.idempotency_key
        at = item.occurred_at
        if at is not None and at < now - self.late_window:
            text = f"occurred_at lies more than {self.late_window.days} days back; correct it, or book it by hand"
            return ReportResult(key, UsageStatus.REJECTED, RejectReason.TOO_OLD, text)
        if at is not None and at > now + AHEAD_MAX:
            text = "occurred_at lies more than 5 minutes ahead; set the caller's clock"
            return ReportResult(key, UsageStatus.REJECTED, RejectReason.IN_THE_FUTURE, text)
        if not self._is_known(item.message):
            name = item.message.event_name or item.message.gauge_feature
            text = (
                f"nothing in the catalog reads an event {name!r}; publish a meter for it, or correct the name"
            )
            return ReportResult(key, UsageStatus.REJECTED, RejectReason.UNKNOWN_EVENT, text)
        return None

    def _is_known(self, message: usage.UsageEvent) -> bool:
        catalogs = self.view.catalogs
        if not catalogs:
            # Nothing is known yet: the fact is kept, and judged at the books.
            return True
        if message.gauge_feature:
            return any(message.gauge_feature in catalog.features for catalog in list(catalogs.values()))
        return any(reads(catalog, message.event_name) for catalog in list(catalogs.values()))

    def _party(self, item: Asked, deadline: float) -> Party:
        message = item.message
        if message.customer_id:
            entry = self.view.customer(message.customer_id)
            if entry is None or not entry.exists:
                return Party(message.customer_id, message.subject_id, None, 0, Reason.CUSTOMER_NOT_FOUND)
            compiled = self.view.compiled(entry, self.parties.now())
            return Party(
                message.customer_id, message.subject_id, compiled.entitlements, compiled.stamp, Reason.OK
            )
        wait_until = min(deadline, self.clock.monotonic() + SUBJECT_WAIT_SECONDS)
        return self.parties.find("", message.subject_id, deadline=wait_until)

    def _fact(self, item: Asked, party: Party, now: datetime, *, at: str) -> _Fact:
        """What is to be written of an event. Raises Malformed: amounts that nothing can hold."""
        occurred_at = item.occurred_at or now
        event = filled(
            item.message, customer_id=party.customer_id, subject_id=party.subject_id, occurred_at=occurred_at
        )
        scope = key_scope(party.customer_id, party.subject_id)
        entry = KeyEntry(scope, event.idempotency_key, item.content_hash, b"")
        charges: tuple[Charge, ...] = ()
        if party.entitlements is not None:
            what = item.event(party, occurred_at)
            charges = billed(lambda by: bill(by, event=what), party.entitlements, at).charges
        usage = fact(event, content_hash=item.content_hash, accepted_at=now)
        return _Fact(Write(usage=usage, key=entry), entry, charges)

    def _result(self, outcome: object, written: _Fact) -> ReportResult:
        key = written.entry.key
        if isinstance(outcome, KeyTaken):
            if outcome.entry.content_hash == written.entry.content_hash:
                return ReportResult(key, UsageStatus.DUPLICATE)
            text = "the key was used before with other content; use a new key for a new event"
            return ReportResult(key, UsageStatus.REJECTED, RejectReason.KEY_CONFLICT, text)
        assert isinstance(outcome, Written), "a fact moves no reservation"
        if written.charges:
            self.unreported.charged(outcome.seq, touched(written.charges).items())
        return ReportResult(key, UsageStatus.ACCEPTED)


def reads(catalog: Catalog, event_name: str) -> bool:
    """Does any meter, rate card or feature of the catalog read events of this name?"""
    return (
        any(meter.event == event_name for meter in catalog.meters.values())
        or any(card.event == event_name for card in catalog.rate_cards.values())
        or any(feature.event == event_name for feature in catalog.features.values())
    )


def amount_violations(view: View, message: usage.UsageEvent, at: str) -> list[Violation]:
    """What only the catalog can tell is malformed, whoever the customer is: a part that is larger than its whole, and
    amounts that no balance can hold.
    """
    known = view.current_catalog
    if known is None or not message.measures:
        return []
    catalog, measures = known[1], message.measures
    event = Event(
        event_name=message.event_name,
        occurred_at=EPOCH,
        customer_id=message.customer_id,
        measures={name: Decimal(measures[name]) for name in measures},
        attributes=dict(message.attributes),
    )
    try:
        for card in catalog.rate_cards.values():
            if card.event == event.event_name:
                rate(card, event, with_lines=False)
        for meter in catalog.meters.values():
            quantity(meter, event)
    except (AmountOutOfRange, PartExceedsWhole) as error:
        return [blamed(error, at)]
    return []


def touched(charges: Sequence[Charge]) -> Mapping[BalanceRef, int]:
    """What charges add to balances that are shown."""
    sums: dict[BalanceRef, int] = {}
    for charge in charges:
        if charge.spec.kind is not BalanceKind.RATE and not charge.spec.decided_remotely:
            sums[charge.ref] = sums.get(charge.ref, 0) + charge.quantity
    return sums


def key_scope(customer_id: str, subject_id: str) -> str:
    """Whose the key is. A subject whose customer is not known here yet has a scope of its own; no id holds
    that character.
    """
    return customer_id or f"\x1f{subject_id}"
