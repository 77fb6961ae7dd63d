"""ReserveUsage: a hold for one call whose cost is not known yet."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sidecar.deciding.answers import Answers, Takes
from sidecar.deciding.asked import Asked
from sidecar.deciding.consume import near
from sidecar.deciding.errors import ReservationConflict
from sidecar.deciding.holding import ReserveAnswer, holds_of, standing_of
from sidecar.deciding.judging import Judge
from sidecar.deciding.party import Parties
from sidecar.deciding.refusals import Refusals
from sidecar.deciding.report import key_scope
from sidecar.deciding.reserved import Reserved
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.settling import lines
from sidecar.engine.reservation import ReservationState
from sidecar.outbox.port import Outbox

TTL: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Reserve:
    """The verb."""

    parties: Parties
    judge: Judge
    answers: Answers
    desk: Desk
    commits: Commits
    outbox: Outbox
    refusals: Refusals

    def __call__(
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
        with self.desk.alone(reservation_id):
            known = self.desk.find(reservation_id)
            if known is not None:
                return _repeated(known, asked)
            now = self.parties.now()
            occurred_at = near(asked, now)
            message = asked.message
            party = self.parties.find(
                message.customer_id, message.subject_id, min_revision=min_revision, deadline=deadline
            )
            # Its event will have the id as its key: what has that key already is another event.
            if self.outbox.key(key_scope(party.customer_id, party.subject_id), reservation_id) is not None:
                raise ReservationConflict(reservation_id)
            judged = self.judge.event(
                party, asked.event(party, occurred_at), feature=feature, explain=explain
            )
            spent = self.judge.spend(judged, deadline)
            decision_id = self.answers.new_id()
            answer = self.answers.encoded(
                judged, spent, decision_id=decision_id, at=now, takes=Takes.RESERVES
            )
            if not spent.outcome.allowed:
                self.refusals.note(
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
            if not self.commits.hold(reserved, spent, judged.entitlements):
                raise ReservationConflict(reservation_id)
            return ReserveAnswer(answer, standing_of(reserved))


def _repeated(known: Reserved, asked: Asked) -> ReserveAnswer:
    if known.is_unknown or known.content_hash != asked.content_hash:
        raise ReservationConflict(known.reservation_id)
    return ReserveAnswer(known.decision, standing_of(known))
