"""The end of a reservation, however it comes: its one event, if there is one, and the rest given back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import ReservationEnded
from sidecar.deciding.holding import as_taken, set_measures, units_of
from sidecar.deciding.records import decided, fact, filled
from sidecar.deciding.report import key_scope
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits, Event
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.settling import Settlement, Settling, held_lines
from sidecar.deciding.spending import Spent
from sidecar.engine.reservation import ReservationState
from sidecar.outbox.port import KeyEntry, KeyTaken, ReservationMoved


@dataclass(frozen=True, slots=True)
class Ending:
    """Ends reservations; who does is alone with it."""

    desk: Desk
    settling: Settling
    commits: Commits
    now: Callable[[], datetime]

    def __call__(
        self, reserved: Reserved, state: ReservationState, *, deadline: float | None = None
    ) -> Reserved:
        """All in one commit. `deadline`: for leasing what the holds lack; None: nothing is leased.

        Raises ReservationEnded, NotWritten and OutcomeUnknown.
        """
        ended = replace(reserved, version=reserved.version + 1, state=state, holds=())
        if not (reserved.totals or state is ReservationState.SETTLED):
            return self._write(reserved, _all_returned(reserved, ended), None)
        message = _event(reserved)
        key = KeyEntry(
            key_scope(reserved.customer_id, reserved.subject_id),
            reserved.reservation_id,
            reserved.content_hash,
            reserved.decision,
        )
        entitlements = None if reserved.is_fact else self.desk.entitlements(reserved)
        if entitlements is None:
            recorded = fact(message, content_hash=reserved.content_hash, accepted_at=self.now())
            event = Event(recorded, key, left=reserved.holds)
            return self._write(reserved, _all_returned(reserved, ended), event)
        found = self.settling.bill(reserved, entitlements, reserved.totals)
        settlement = self.settling.settle(reserved, found, deadline=deadline)
        event = Event(
            _decided(reserved, message, settlement),
            key,
            Spent(settlement.outcome, settlement.taken),
            settlement.allotted.paid,
            settlement.allotted.left,
        )
        units = units_of(reserved, settlement)
        ended = replace(
            ended,
            charged=settlement.charged(),
            overage=settlement.overage(),
            returned=held_lines(settlement.allotted.left, units),
            units=units,
        )
        return self._write(reserved, ended, event)

    def _write(self, before: Reserved, ended: Reserved, event: Event | None) -> Reserved:
        result = self.commits.end(before, ended, event)
        if isinstance(result, KeyTaken):
            # The same event was recorded otherwise: the reservation ends without one of its own, and holds nothing.
            freed = replace(_all_returned(before, ended), charged=(), overage=())
            return self._write(before, freed, None)
        if isinstance(result, ReservationMoved):
            raise ReservationEnded(before.reservation_id, "changed meanwhile")
        return ended


def _all_returned(reserved: Reserved, ended: Reserved) -> Reserved:
    return replace(ended, returned=held_lines(reserved.holds, reserved.units))


def _event(reserved: Reserved) -> usage.UsageEvent:
    event = filled(
        reserved.message,
        customer_id=reserved.customer_id,
        subject_id=reserved.subject_id,
        occurred_at=reserved.reserved_at,
        key=reserved.reservation_id,
    )
    set_measures(event, reserved.totals)
    return event


def _decided(reserved: Reserved, event: usage.UsageEvent, settlement: Settlement) -> bytes:
    return decided(
        event,
        content_hash=reserved.content_hash,
        decision_id=reserved.decision_id,
        decided_at=reserved.reserved_at,
        view_revision=reserved.view_revision,
        draws=settlement.outcome.draws,
        costs=settlement.outcome.costs,
        covered=(*as_taken(settlement.allotted.paid), *settlement.taken),
    )
