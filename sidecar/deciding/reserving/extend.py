"""ExtendReservation: more time, or a larger estimate; and ReleaseReservation: it is not needed any more."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.answers import Answers
from sidecar.deciding.asked import Asked
from sidecar.deciding.errors import ReservationEnded, ReservationUnknown
from sidecar.deciding.holding import (
    ExtendAnswer,
    Standing,
    holds_of,
    merged_units,
    standing_of,
    with_replaced,
)
from sidecar.deciding.judging import Judge
from sidecar.deciding.party import Parties
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.reserving.ending import Ending
from sidecar.deciding.settling import lines
from sidecar.deciding.spending import Spent, Till
from sidecar.engine.reservation import ReservationState


@dataclass(frozen=True, slots=True)
class Extend:
    """The verb."""

    parties: Parties
    judge: Judge
    till: Till
    answers: Answers
    desk: Desk
    commits: Commits

    def __call__(
        self,
        reservation_id: str,
        event: usage.UsageEvent | None,
        *,
        ttl: timedelta | None,
        deadline: float,
    ) -> ExtendAnswer:
        """Raises Malformed, ReservationUnknown, ReservationEnded, NotWritten and OutcomeUnknown."""
        with self.desk.alone(reservation_id):
            reserved = self.desk.find(reservation_id)
            if reserved is None or reserved.is_unknown:
                raise ReservationUnknown(reservation_id)
            if not reserved.is_open:
                raise ReservationEnded(reservation_id, reserved.state.name)
            expires_at = reserved.expires_at if ttl is None else self.parties.now() + ttl
            if event is not None:
                return self._enlarge(reserved, event, expires_at, deadline)
            after = replace(reserved, version=reserved.version + 1, expires_at=expires_at)
            self._write(after, None)
            return ExtendAnswer(None, standing_of(after))

    def _enlarge(
        self, reserved: Reserved, event: usage.UsageEvent, expires_at: datetime, deadline: float
    ) -> ExtendAnswer:
        """Holds what a larger estimate needs beyond what is held, or changes nothing."""
        message = with_replaced(reserved, event)
        for name, value in event.measures.items():
            message.measures[name] = value
        now = self.parties.now()
        asked = Asked(message, reserved.content_hash, None)
        party = self.parties.find(reserved.customer_id, reserved.subject_id, deadline=deadline)
        judged = self.judge.event(
            party, asked.event(party, reserved.reserved_at), feature=reserved.feature, explain=False
        )
        spent = self.till.spend_beyond(judged.bill, reserved.holds, deadline)
        answer = self.answers.encoded(judged, spent, decision_id=self.answers.new_id(), at=now)
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
        self._write(after, spent)
        return ExtendAnswer(answer, standing_of(after))

    def _write(self, after: Reserved, spent: Spent | None) -> None:
        if not self.commits.hold(after, spent, self.desk.decided_by(after.reservation_id)):
            raise ReservationEnded(after.reservation_id, "changed meanwhile")


@dataclass(frozen=True, slots=True)
class Release:
    """The verb."""

    desk: Desk
    ending: Ending

    def __call__(self, reservation_id: str, *, deadline: float) -> Standing:
        """Raises NotWritten and OutcomeUnknown. Of an unknown reservation: a standing that says so."""
        with self.desk.alone(reservation_id):
            reserved = self.desk.find(reservation_id)
            if reserved is None:
                return Standing(reservation_id, ReservationState.UNSPECIFIED, None, ())
            if reserved.is_open:
                reserved = self.ending(reserved, ReservationState.RELEASED, deadline=deadline)
            return standing_of(reserved)
