"""ConsumeUsage: check and record in one atomic step, answered once it is durable."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sidecar.deciding.answers import Answers, Takes
from sidecar.deciding.asked import Asked
from sidecar.deciding.errors import KeyConflict, Malformed, Violation
from sidecar.deciding.judging import Judge, Judged
from sidecar.deciding.party import Parties, Party
from sidecar.deciding.records import decided, fact, filled, lease_changes
from sidecar.deciding.refusals import Refusals
from sidecar.deciding.report import UsageStatus, key_scope
from sidecar.deciding.spending import Spent, Till
from sidecar.deciding.unreported import Unreported
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.outbox.port import KeyEntry, KeyTaken, Outbox, Write, Written
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Overloaded

NEAR_NOW: Final = timedelta(minutes=5)
BOOKED_WAIT_SECONDS: Final = 1.0
"""For the upload of what frees a seat: then it is free when the call returns. It is written already, and not undone."""


class Consumed(NamedTuple):
    """`decision`: encoded; the first one again for a duplicate."""

    decision: bytes
    status: UsageStatus


@dataclass(frozen=True, slots=True)
class Consume:
    """The verb."""

    parties: Parties
    judge: Judge
    till: Till
    answers: Answers
    outbox: Outbox
    refusals: Refusals
    unreported: Unreported

    def __call__(
        self, asked: Asked, *, feature: str, min_revision: int, explain: bool, deadline: float
    ) -> Consumed:
        """Raises Malformed, KeyConflict, NotWritten and OutcomeUnknown; after all but the last nothing has changed."""
        now = self.parties.now()
        occurred_at = near(asked, now)
        message = asked.message
        party = self.parties.find(
            message.customer_id, message.subject_id, min_revision=min_revision, deadline=deadline, at=now
        )
        judged = self.judge.event(
            party, asked.event(party, occurred_at), feature=feature or asked.gauge_feature, explain=explain
        )
        spent = self.judge.spend(judged, deadline)
        decision_id = self.answers.new_id()
        answer = self.answered(judged, spent, decision_id=decision_id, at=now)
        if not spent.outcome.allowed:
            return self._refused(asked, party, feature, spent, answer)
        entry = KeyEntry(
            key_scope(party.customer_id, party.subject_id),
            message.idempotency_key,
            asked.content_hash,
            answer,
        )
        event = filled(
            message, customer_id=party.customer_id, subject_id=party.subject_id, occurred_at=occurred_at
        )
        if judged.is_fact:
            usage = fact(event, content_hash=asked.content_hash, accepted_at=now)
            changes = lease_changes(spent.taken)
        else:
            usage, changes = decided(
                event,
                content_hash=asked.content_hash,
                decision_id=decision_id,
                decided_at=now,
                view_revision=judged.freshness.revision,
                draws=spent.outcome.draws,
                costs=spent.outcome.costs,
                covered=spent.taken,
                by_verdict=any(verdict.request_id for verdict in (spent.verdicts or {}).values()),
            )
        return self.commit(Write(usage, entry, None, changes), spent, shown(spent), deadline=deadline)

    def answered(self, judged: Judged, spent: Spent, *, decision_id: str, at: datetime) -> bytes:
        """The whole decision, with what it uses counted in its balances."""
        return self.answers.encoded(judged, spent, decision_id=decision_id, at=at, takes=Takes.USES)

    def commit(
        self, write: Write, spent: Spent, amounts: Mapping[BalanceRef, int], *, deadline: float = 0.0
    ) -> Consumed:
        """Writes what was decided and taken, under its key. `amounts`: what is shown as used from then on.
        `deadline`: monotonic seconds, for what is waited for to be booked.

        Raises as the call does.
        """
        entry = write.key
        assert entry is not None, "every event has a key"
        try:
            result = self.outbox.commit(write)
        except NotWritten:
            self.till.give_back(spent)
            raise
        except OutcomeUnknown as error:
            error.resolution.then(lambda applied: None if applied else self.till.give_back(spent))
            raise
        if isinstance(result, KeyTaken):
            # A repeat's verdict is that of the event which has the key. Other content under the key is refused.
            is_repeat = result.entry.content_hash == entry.content_hash
            self.till.give_back(spent._replace(verdicts=None) if is_repeat else spent)
            return self._repeated(result.entry, entry.content_hash)
        assert isinstance(result, Written), "a consume moves no reservation"
        self.till.settled(spent)
        self.unreported.charged(result.seq, amounts.items())
        if spent.verdicts and any(verdict.may_free for verdict in spent.verdicts.values()):
            self._await_booked(result.seq, deadline)
        return Consumed(entry.answer, UsageStatus.ACCEPTED)

    def _await_booked(self, seq: int, deadline: float) -> None:
        """At most half of what is left of the call's time, and not where too many wait already: it is answered whether
        it is booked or not.
        """
        seconds = min(BOOKED_WAIT_SECONDS, (deadline - self.till.clock.monotonic()) / 2)
        if seconds > 0:
            with suppress(Overloaded), self.till.blocking():
                self.outbox.wait_acknowledged(self.outbox.identity, seq, seconds)

    def _refused(self, asked: Asked, party: Party, feature: str, spent: Spent, answer: bytes) -> Consumed:
        key = asked.message.idempotency_key
        known = self.outbox.key(key_scope(party.customer_id, party.subject_id), key)
        if known is not None:
            return self._repeated(known, asked.content_hash)
        self.refusals.note(
            customer_id=party.customer_id or asked.message.customer_id,
            feature=feature,
            reason=spent.outcome.reason,
            decision=answer,
        )
        return Consumed(answer, UsageStatus.UNSPECIFIED)

    def _repeated(self, known: KeyEntry, content_hash: bytes) -> Consumed:
        if known.content_hash != content_hash:
            raise KeyConflict(known.key)
        return Consumed(known.answer or self.answers.recorded_as_fact(), UsageStatus.DUPLICATE)


def near(asked: Asked, now: datetime) -> datetime:
    """The event's instant, for what is decided now. Raises Malformed when it lies more than five minutes away."""
    occurred_at = asked.occurred_at
    if occurred_at is None:
        return now
    if abs(occurred_at - now) > NEAR_NOW:
        text = "lies more than 5 minutes from now; what has happened already goes to ReportUsage"
        raise Malformed([Violation("event.occurred_at", text)])
    return occurred_at


def shown(spent: Spent) -> dict[BalanceRef, int]:
    """What was charged or freed, for the balances that are shown until the control plane's hints count it."""
    sums: dict[BalanceRef, int] = {}
    for draw in spent.outcome.draws:
        if draw.spec.kind is not BalanceKind.RATE and not draw.spec.decided_remotely:
            amount = draw.within + draw.beyond + draw.uncovered
            sums[draw.ref] = sums.get(draw.ref, 0) + amount
    for ref, verdict in (spent.verdicts or {}).items():
        if verdict.frees:
            sums[ref] = sums.get(ref, 0) - verdict.frees
    return sums
