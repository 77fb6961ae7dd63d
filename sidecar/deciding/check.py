"""CheckAccess: may this be done? Reads only."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.answers import Answers
from sidecar.deciding.asked import make_event
from sidecar.deciding.judging import Judge, Judged
from sidecar.deciding.party import Parties
from sidecar.deciding.spending import Spent
from sidecar.engine.decision import Decision


class Question(NamedTuple):
    """A validated check; fields as in `purser.v1.CheckAccessRequest`."""

    customer_id: str
    subject_id: str
    feature: str
    event: usage.UsageEvent | None
    quantity: str | None
    max_staleness: timedelta | None
    min_revision: int
    explain: bool


@dataclass(frozen=True, slots=True)
class Check:
    """The verb."""

    parties: Parties
    judge: Judge
    answers: Answers

    def __call__(self, question: Question, *, deadline: float) -> bytes:
        """The encoded decision. Raises Malformed."""
        return self.answers.encode(self.decide(question, deadline=deadline))

    def decide(self, question: Question, *, deadline: float) -> Decision:
        """The decision. Raises Malformed."""
        now = self.parties.now()
        judged = self.judged(question, deadline=deadline, now=now)
        return self.decision(judged, self.judge.look(judged, now), now=now)

    def judged(self, question: Question, *, deadline: float, now: datetime) -> Judged:
        """What is asked for, by the entitlements alone: no balance is looked at yet. Raises Malformed."""
        party = self.parties.find(
            question.customer_id,
            question.subject_id,
            min_revision=question.min_revision,
            deadline=deadline,
            waits=False,
            at=now,
        )
        if question.event is not None:
            event = make_event(
                question.event,
                customer_id=party.customer_id,
                subject_id=party.subject_id,
                occurred_at=now,
                gauge_feature=question.feature if question.event.gauge_change else "",
            )
            return self.judge.event(
                party,
                event,
                feature=question.feature,
                explain=question.explain,
                max_staleness=question.max_staleness,
            )
        return self.judge.quantity(
            party,
            None if question.quantity is None else Decimal(question.quantity),
            feature=question.feature,
            explain=question.explain,
            max_staleness=question.max_staleness,
        )

    def decision(self, judged: Judged, spent: Spent, *, now: datetime) -> Decision:
        """The whole decision."""
        return self.answers.decision(judged, spent, decision_id=self.answers.new_id(), at=now)
