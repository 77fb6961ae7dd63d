"""Settles that come too late, or of reservations that nobody knows: what they say has happened, so it is a fact."""

import hashlib
from dataclasses import dataclass, replace
from decimal import Decimal

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import ReservationConflict
from sidecar.deciding.holding import SettleAnswer, require_complete, set_measures, settle_answer, stored
from sidecar.deciding.party import Parties
from sidecar.deciding.records import fact, filled
from sidecar.deciding.report import key_scope
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.settling import SETTLE_LEASE_SECONDS
from sidecar.engine import reservation as machine
from sidecar.engine.reservation import ReservationState
from sidecar.outbox.port import KeyEntry, KeyTaken, Outbox, Write
from sidecar.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Facts:
    """Records them. Raises ReservationConflict, NotWritten and OutcomeUnknown."""

    parties: Parties
    outbox: Outbox
    clock: Clock

    def late(self, reserved: Reserved, step: machine.Step) -> SettleAnswer:
        """Of one that has ended: what exceeds the totals charged."""
        if step.event is None:
            return settle_answer(reserved)
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
        return self._record(after, event)

    def unknown(self, reservation_id: str, event: usage.UsageEvent | None) -> SettleAnswer:
        """All of it, under the reservation's id; it is remembered as ended, so that later totals count only
        beyond. Raises Malformed.
        """
        require_complete(event)
        assert event is not None, "it was found complete"
        now = self.parties.now()
        party = self.parties.find(
            event.customer_id, event.subject_id, deadline=self.clock.monotonic() + SETTLE_LEASE_SECONDS
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
        return self._record(reserved, recorded)

    def _record(self, after: Reserved, event: usage.UsageEvent) -> SettleAnswer:
        bare = usage.UsageEvent()
        bare.CopyFrom(event)
        bare.ClearField("occurred_at")
        content_hash = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
        entry = KeyEntry(
            key_scope(after.customer_id, after.subject_id), event.idempotency_key, content_hash, b""
        )
        recorded = fact(event, content_hash=content_hash, accepted_at=self.parties.now())
        result = self.outbox.commit(Write(usage=recorded, key=entry, reservation=stored(after)))
        if isinstance(result, KeyTaken) and result.entry.content_hash != content_hash:
            raise ReservationConflict(after.reservation_id)
        return settle_answer(after)
