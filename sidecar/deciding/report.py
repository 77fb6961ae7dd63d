"""ReportUsage: what has happened already is judged once, recorded, and never refused for lack of balance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Final

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.asked import Asked
from sidecar.deciding.errors import Malformed, Violation
from sidecar.deciding.party import Parties, Party
from sidecar.deciding.records import fact, filled
from sidecar.deciding.unreported import Unreported
from sidecar.engine.bill import bill
from sidecar.engine.catalog import Catalog
from sidecar.engine.rating import PartExceedsWhole, check_parts
from sidecar.engine.values import BalanceKind, BalanceRef, Reason
from sidecar.outbox.port import KeyEntry, KeyTaken, Outbox, Write, Written
from sidecar.runtime.clock import Clock
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
        self._check_amounts(asked)
        results: list[ReportResult | None] = []
        writes: list[Write] = []
        facts: list[tuple[Asked, Party, datetime]] = []
        for item in asked:
            rejected = self._judge(item, now)
            results.append(rejected)
            if rejected is None:
                party = self._party(item, deadline)
                occurred_at = item.occurred_at or now
                writes.append(self._write(item, party, occurred_at, now))
                facts.append((item, party, occurred_at))
        outcomes = iter(zip(self.outbox.commit_all(writes) if writes else (), writes, facts, strict=True))
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
            if entry is None or not entry.customer.exists:
                return Party(message.customer_id, message.subject_id, None, 0, Reason.CUSTOMER_NOT_FOUND)
            compiled = self.view.compiled(entry, self.parties.now())
            return Party(
                message.customer_id, message.subject_id, compiled.entitlements, compiled.stamp, Reason.OK
            )
        wait_until = min(deadline, self.clock.monotonic() + SUBJECT_WAIT_SECONDS)
        return self.parties.find("", message.subject_id, deadline=wait_until)

    def _write(self, item: Asked, party: Party, occurred_at: datetime, now: datetime) -> Write:
        event = filled(
            item.message, customer_id=party.customer_id, subject_id=party.subject_id, occurred_at=occurred_at
        )
        entry = KeyEntry(
            key_scope(party.customer_id, party.subject_id), event.idempotency_key, item.content_hash, b""
        )
        return Write(usage=fact(event, content_hash=item.content_hash, accepted_at=now), key=entry)

    def _result(
        self,
        outcome: object,
        write: Write,
        known: tuple[Asked, Party, datetime],
    ) -> ReportResult:
        assert write.key is not None, "a fact has a key"
        item, party, occurred_at = known
        key = write.key.key
        if isinstance(outcome, KeyTaken):
            if outcome.entry.content_hash == item.content_hash:
                return ReportResult(key, UsageStatus.DUPLICATE)
            text = "the key was used before with other content; use a new key for a new event"
            return ReportResult(key, UsageStatus.REJECTED, RejectReason.KEY_CONFLICT, text)
        assert isinstance(outcome, Written), "a fact moves no reservation"
        self._show(outcome.seq, item, party, occurred_at)
        return ReportResult(key, UsageStatus.ACCEPTED)

    def _show(self, seq: int, item: Asked, party: Party, occurred_at: datetime) -> None:
        """Counts it in the balances that are shown until the control plane does."""
        if party.entitlements is None:
            return
        event = item.event(party, occurred_at)
        self.unreported.charged(seq, touched(bill(party.entitlements, event=event).charges))

    def _check_amounts(self, asked: Sequence[Asked]) -> None:
        """What only the catalog can tell is malformed: a part that is larger than its whole."""
        known = self.view.current_catalog
        if known is None:
            return
        wrong: list[Violation] = []
        for index, item in enumerate(asked):
            if item.message.measures:
                message = item.message
                measures = {name: Decimal(value) for name, value in message.measures.items()}
                wrong += part_violations(known[1], message.event_name, measures, f"events[{index}]")
        if wrong:
            raise Malformed(wrong)


def reads(catalog: Catalog, event_name: str) -> bool:
    """Does any meter, rate card or feature of the catalog read events of this name?"""
    return (
        any(meter.event == event_name for meter in catalog.meters.values())
        or any(card.event == event_name for card in catalog.rate_cards.values())
        or any(feature.event == event_name for feature in catalog.features.values())
    )


def part_violations(
    catalog: Catalog, event_name: str, measures: Mapping[str, Decimal], at: str
) -> list[Violation]:
    """Measures that are larger than what they are a part of, by any card that reads the event."""
    for card in catalog.rate_cards.values():
        if card.event == event_name and card.parts:
            try:
                check_parts(card, measures)
            except PartExceedsWhole as error:
                return [Violation(f'{at}.measures["{error.part}"]', str(error))]
    return []


def touched(charges: Sequence[object]) -> Mapping[BalanceRef, int]:
    """What charges add to balances that are shown."""
    sums: dict[BalanceRef, int] = {}
    for charge in charges:
        if charge.spec.kind not in {BalanceKind.RATE, BalanceKind.GAUGE}:  # type: ignore[attr-defined]
            sums[charge.ref] = sums.get(charge.ref, 0) + charge.quantity  # type: ignore[attr-defined]
    return sums


def key_scope(customer_id: str, subject_id: str) -> str:
    """Whose the key is. A subject whose customer is not known here yet has a scope of its own; no id holds
    that character.
    """
    return customer_id or f"\x1f{subject_id}"
