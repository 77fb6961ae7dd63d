"""Consumes whose content was seen before: all that depends on neither the key nor the moment is put together once.

What an event touches (`bill`), and what is drawn where all of it is covered (`decide`), follow from the entitlements
and the event alone. So both are kept, and a next event with the same content asks only what may have changed: is the
view what it was, do leases cover the draws. Where not, the event goes the whole way, by the same rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sidecar.deciding.asked import Asked
from sidecar.deciding.consume import Consume, Consumed, shown
from sidecar.deciding.judging import Judged
from sidecar.deciding.kept import is_fresh_while_live
from sidecar.deciding.records import DecidedForm
from sidecar.deciding.report import key_scope
from sidecar.deciding.spending import Spent
from sidecar.engine.decide import decide
from sidecar.engine.decision import ViewSource
from sidecar.engine.evaluate import Bill, Draw, Fund, Outcome
from sidecar.engine.values import MAX_AMOUNT, BalanceRef, Reason
from sidecar.leases.terms import NotCovered, Taken
from sidecar.outbox.port import Write
from sidecar.runtime.clock import Clock
from sidecar.view.entries import Compiled, SubjectEntry
from sidecar.view.memory import View

KEPT_SECONDS: Final = 10.0
"""So long the clocks of this machine and of the control plane do not part by what a decision's instant could tell."""
_AMPLE: Final = Fund(MAX_AMOUNT)


class Prepared(NamedTuple):
    """One content, decided for the case that leases cover all of it."""

    judged: Judged
    compiled: Compiled
    subject: SubjectEntry | None
    outcome: Outcome
    amounts: Mapping[BalanceRef, int]
    """What it adds to the balances that are shown."""
    form: DecidedForm
    scope: str
    """Whose its keys are."""
    until: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """Prepares, and tells whether what was prepared still holds. Thread-safe; only `take` takes a lock."""

    consume: Consume
    view: View
    clock: Clock

    def prepare(self, asked: Asked, *, feature: str, deadline: float) -> Prepared | None:
        """None: not plain (something refuses, only the control plane decides it, the view is not LIVE), or not known.

        Raises Malformed.
        """
        message, consume = asked.message, self.consume
        if (
            asked.occurred_at is not None
            or message.gauge_change
            or self.view.customer(message.customer_id) is None
        ):
            return None
        now = consume.parties.now()
        subject = self.view.subject(message.subject_id) if message.subject_id else None
        party = consume.parties.find(message.customer_id, message.subject_id, deadline=deadline, waits=False)
        judged = consume.judge.event(party, asked.event(party, now), feature=feature, explain=False)
        entry = self.view.customer(party.customer_id)
        compiled = None if entry is None else entry.compiled
        if compiled is None or compiled.stamp != party.stamp or not _is_plain(judged):
            return None
        outcome = decide(judged.bill, dict.fromkeys(judged.bill.refs, _AMPLE))
        if not _is_covered(outcome):
            return None
        seconds = KEPT_SECONDS
        if compiled.entitlements.valid_until is not None:
            seconds = min(seconds, (compiled.entitlements.valid_until - now).total_seconds())
        return Prepared(
            judged,
            compiled,
            subject,
            outcome,
            shown(Spent(outcome)),
            DecidedForm(outcome.draws, outcome.costs),
            key_scope(party.customer_id, party.subject_id),
            self.clock.monotonic() + seconds,
        )

    def holds(self, prepared: Prepared, now: float) -> bool:
        """Would the same be decided now? The caller has looked whether the view is LIVE."""
        party = prepared.judged.party
        if now >= prepared.until or not self.view.is_current(party.customer_id, prepared.compiled):
            return False
        return not party.subject_id or self.view.subject(party.subject_id) is prepared.subject

    def take(self, prepared: Prepared, now: float) -> tuple[Taken, ...] | None:
        """Takes all that it draws. None: leases do not cover it, and nothing was taken."""
        book = self.consume.till.book
        with book.lock:
            try:
                return book.take(prepared.outcome.draws, now)
            except NotCovered:
                return None

    def answer(
        self, prepared: Prepared, taken: tuple[Taken, ...], *, decision_id: str, at: datetime
    ) -> bytes:
        """The whole decision, as the way of every consume builds it."""
        judged = prepared.judged._replace(freshness=self.view.pulse.freshness(self.clock.monotonic()))
        return self.consume.answered(judged, Spent(prepared.outcome, taken), decision_id=decision_id, at=at)

    def write(self, prepared: Prepared, taken: tuple[Taken, ...], write: Write) -> Consumed:
        """Answers once it is durable. Raises as `Consume` does, and then what was taken is given back."""
        return self.consume.commit(write, Spent(prepared.outcome, taken), prepared.amounts)


def _is_plain(judged: Judged) -> bool:
    """Does nothing but the balances stand between it and OK?"""
    bill: Bill = judged.bill
    return (
        judged.entitlements is not None
        and not (judged.is_guest or judged.is_fact or judged.is_fallback)
        and judged.freshness.source is ViewSource.LIVE
        and bill.refused is Reason.OK
        and bool(bill.features)
        and not (bill.findings or bill.unrated)
        and is_fresh_while_live(bill)
    )


def _is_covered(outcome: Outcome) -> bool:
    return (
        outcome.reason is Reason.OK and not outcome.shortfalls and all(map(_is_plainly_drawn, outcome.draws))
    )


def _is_plainly_drawn(draw: Draw) -> bool:
    """Does it take what is inside the limit, from a lease, whatever was counted before?"""
    return not (draw.beyond or draw.uncovered or draw.value or draw.spec.decided_remotely)
