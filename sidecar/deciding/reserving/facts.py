"""Settles that come too late, or of reservations that nobody knows: what they say has happened, so it is a fact."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import Malformed, ReservationConflict, ReservationEnded
from sidecar.deciding.holding import SettleAnswer, recorded, require_complete, settle_answer, stored
from sidecar.deciding.party import Parties
from sidecar.deciding.records import fact
from sidecar.deciding.report import amount_violations
from sidecar.deciding.reserved import Reserved
from sidecar.engine import reservation as machine
from sidecar.engine.reservation import ReservationState
from sidecar.outbox.port import KeyTaken, Outbox, ReservationMoved, Write
from sidecar.runtime.clock import Clock

PARTY_WAIT_SECONDS: Final = 1.0
"""How long the subject of an unknown reservation is looked up: its caller has the answer already."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Records them. Raises Malformed, ReservationConflict, ReservationEnded, NotWritten and OutcomeUnknown."""

    parties: Parties
    outbox: Outbox
    clock: Clock

    def late(self, told: Reserved, step: machine.Step) -> SettleAnswer:
        """Of one that has ended: what exceeds the totals charged, under a key of its own."""
        assert step.event is not None, "what says nothing new is not recorded"
        key = step.event.idempotency_key
        after = replace(told, version=told.version + 1, recorded_as=key, late=step.reservation.late)
        return self._record(after, key, step.event.measures)

    def unknown(self, reservation_id: str, event: usage.UsageEvent | None, deadline: float) -> SettleAnswer:
        """All of it, under the reservation's id; it is remembered as ended, so that later totals count only
        beyond. Raises Malformed.
        """
        require_complete(event)
        assert event is not None, "it was found complete"
        now = self.parties.now()
        wait_until = min(deadline, self.clock.monotonic() + PARTY_WAIT_SECONDS)
        party = self.parties.find(event.customer_id, event.subject_id, deadline=wait_until)
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
            was_settled=True,
            totals={name: Decimal(text) for name, text in event.measures.items()},
            recorded_as=reservation_id,
        )
        return self._record(reserved, reservation_id, reserved.totals)

    def _record(self, after: Reserved, key: str, measures: Mapping[str, Decimal]) -> SettleAnswer:
        event, entry = recorded(after, key=key, measures=measures)
        wrong = amount_violations(self.parties.view, event, "event")
        if wrong:
            raise Malformed(wrong)
        written = fact(event, content_hash=entry.content_hash, accepted_at=self.parties.now())
        result = self.outbox.commit(Write(usage=written, key=entry, reservation=stored(after)))
        if isinstance(result, KeyTaken) and result.entry.content_hash != entry.content_hash:
            raise ReservationConflict(after.reservation_id)
        if isinstance(result, ReservationMoved):
            raise ReservationEnded(after.reservation_id, "changed meanwhile")
        return settle_answer(after)
