"""The end of a reservation, however it comes: its one event, if there is one, and the rest given back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar.deciding.errors import Malformed, ReservationEnded
from sidecar.deciding.holding import as_taken, recorded, units_of
from sidecar.deciding.records import decided, fact
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits, Event
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.settling import Settlement, Settling, held_lines
from sidecar.deciding.spending import Spent
from sidecar.engine import reservation as machine
from sidecar.engine.evaluate import Bill
from sidecar.engine.reservation import ReservationState
from sidecar.outbox.port import KeyTaken, ReservationMoved


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
        """All in one commit. `deadline`: for a customer that is not known yet, and for leasing what the holds lack;
        None: nothing is waited for.

        Raises Malformed when it is settled with amounts that nothing can hold, ReservationEnded, NotWritten and
        OutcomeUnknown.
        """
        ended = replace(reserved, version=reserved.version + 1, state=state, holds=())
        if not reserved.was_settled:
            return self._write(reserved, _all_returned(reserved, ended), None)
        found = self._bill(reserved, state, deadline)
        if found is None:
            ended = replace(_all_returned(reserved, ended), recorded_as=reserved.reservation_id)
            return self._write(reserved, ended, self._fact(reserved, ended, reserved.reservation_id))
        settlement = self.settling.settle(reserved, found, deadline=deadline)
        units = units_of(reserved, settlement)
        ended = replace(
            ended,
            charged=settlement.charged(),
            overage=settlement.overage(),
            returned=held_lines(settlement.allotted.left, units),
            units=units,
        )
        return self._write(reserved, ended, _decided(reserved, settlement))

    def _bill(self, reserved: Reserved, state: ReservationState, deadline: float | None) -> Bill | None:
        """What its totals touch. None: nobody can tell, so that its event is a fact."""
        entitlements = self.desk.entitlements(reserved, deadline)
        if entitlements is None:
            return None
        try:
            return self.settling.bill(reserved, entitlements, reserved.totals)
        except Malformed:
            if state is ReservationState.SETTLED:
                raise
            # Nobody is there to say it again: it is kept, and judged at the books.
            return None

    def _write(self, before: Reserved, ended: Reserved, event: Event | None) -> Reserved:
        result = self.commits.end(before, ended, event)
        if isinstance(result, KeyTaken):
            assert event is not None, "only an event has a key"
            return self._otherwise(before, ended, same=result.entry.content_hash == event.key.content_hash)
        if isinstance(result, ReservationMoved):
            raise ReservationEnded(before.reservation_id, "changed meanwhile")
        return ended

    def _otherwise(self, before: Reserved, ended: Reserved, *, same: bool) -> Reserved:
        """Another event has its key. The same one: it is recorded already. Another: what was used is a fact with a
        key of its own. Either way nothing is held any more, and nothing charged from what was.
        """
        freed = replace(_all_returned(before, ended), charged=(), overage=())
        if same:
            return self._write(before, replace(freed, recorded_as=before.reservation_id), None)
        step = machine.key_taken(ended.machine())
        assert step.event is not None, "what was used is an event"
        key = step.event.idempotency_key
        freed = replace(freed, late=step.reservation.late, recorded_as=key)
        return self._write(before, freed, self._fact(before, freed, key))

    def _fact(self, before: Reserved, ended: Reserved, key: str) -> Event:
        event, entry = recorded(ended, key=key, measures=ended.totals)
        usage = fact(event, content_hash=entry.content_hash, accepted_at=self.now())
        return Event(usage, entry, left=before.holds)


def _all_returned(reserved: Reserved, ended: Reserved) -> Reserved:
    return replace(ended, returned=held_lines(reserved.holds, reserved.units))


def _decided(reserved: Reserved, settlement: Settlement) -> Event:
    event, entry = recorded(reserved, key=reserved.reservation_id, measures=reserved.totals)
    usage, _ = decided(
        event,
        content_hash=entry.content_hash,
        decision_id=reserved.decision_id,
        decided_at=reserved.reserved_at,
        view_revision=reserved.view_revision,
        draws=settlement.outcome.draws,
        costs=settlement.outcome.costs,
        covered=(*as_taken(settlement.allotted.paid), *settlement.taken),
    )
    spent = Spent(settlement.outcome, settlement.taken)
    return Event(usage, entry, spent, settlement.allotted.paid, settlement.allotted.left)
