"""SettleReservation: totals so far, which never fall; the last ones are charged."""

from dataclasses import dataclass, replace
from decimal import Decimal

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import Malformed, ReservationEnded, Violation
from sidecar.deciding.holding import SettleAnswer, holds_of, settle_answer, units_of, with_replaced
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.reserving.ending import Ending
from sidecar.deciding.reserving.facts import Facts
from sidecar.deciding.settling import Settling
from sidecar.deciding.spending import Spent
from sidecar.engine import reservation as machine
from sidecar.engine.reservation import ReservationState, Said


@dataclass(frozen=True, slots=True)
class Settle:
    """The verb."""

    desk: Desk
    settling: Settling
    commits: Commits
    ending: Ending
    facts: Facts

    def __call__(
        self, reservation_id: str, event: usage.UsageEvent | None, *, final: bool, deadline: float
    ) -> SettleAnswer:
        """Raises Malformed, ReservationConflict, ReservationEnded, NotWritten and OutcomeUnknown."""
        with self.desk.alone(reservation_id):
            reserved = self.desk.find(reservation_id)
            if reserved is None:
                return self.facts.unknown(reservation_id, event, deadline)
            replaced = with_replaced(reserved, event)
            step = _step(reserved, event, final=final)
            if not reserved.is_open and step.event is None:
                return settle_answer(reserved)
            told = replace(
                reserved,
                event=replaced.SerializeToString(),
                was_settled=True,
                totals=step.reservation.settled,
            )
            if not reserved.is_open:
                return self.facts.late(told, step)
            if final:
                return settle_answer(self.ending(told, ReservationState.SETTLED, deadline=deadline))
            return settle_answer(self._more(told, deadline))

    def _more(self, told: Reserved, deadline: float) -> Reserved:
        """Writes new totals, and holds more where they are above what is held."""
        entitlements = self.desk.entitlements(told, deadline)
        after, spent = replace(told, version=told.version + 1), None
        if entitlements is not None:
            found = self.settling.bill(told, entitlements, told.totals)
            settlement = self.settling.settle(told, found, deadline=deadline)
            spent = Spent(settlement.outcome, settlement.taken)
            after = replace(
                after,
                holds=(*told.holds, *holds_of(settlement.taken)),
                charged=settlement.charged(),
                overage=settlement.overage(),
                units=units_of(told, settlement),
            )
        if not self.commits.hold(after, spent, self.desk.decided_by(after.reservation_id)):
            raise ReservationEnded(after.reservation_id, "changed meanwhile")
        return after


def _step(reserved: Reserved, event: usage.UsageEvent | None, *, final: bool) -> machine.Step:
    try:
        return machine.settle(reserved.machine(), _said(event), final=final)
    except machine.MeasureFell as error:
        text = f"{error}; measures are cumulative"
        raise Malformed([Violation(f'event.measures["{error.measure}"]', text)]) from error
    except machine.AlreadyEnded as error:
        raise ReservationEnded(reserved.reservation_id, error.state.name) from error


def _said(event: usage.UsageEvent | None) -> Said:
    if event is None:
        return Said({})
    measures = {name: Decimal(text) for name, text in event.measures.items()}
    return Said(measures, dict(event.attributes), event.app_id, event.correlation_id)
