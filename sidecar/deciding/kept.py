"""Checks whose answer may be kept: the decision, and what must be unchanged for it to be given again."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sidecar.deciding.check import Check, Question
from sidecar.deciding.grounds import Basis, Grounds, Stand
from sidecar.deciding.judging import Judged
from sidecar.engine.decision import Decision, ViewSource
from sidecar.engine.evaluate import Bill
from sidecar.runtime.clock import Clock
from sidecar.view.entries import Compiled
from sidecar.view.pulse import LIVE_WITHIN_SECONDS

KEPT_SECONDS: Final = 10.0
"""What time alone changes is known beforehand; so long the clocks of this machine and of the control plane do
not part by what could be seen.
"""
KEPT_UNTOLD_SECONDS: Final = 0.25
"""Tokens of a share of a rate come back by themselves, and a lease of a scoped grant ends: nothing says so. An advisory
answer may be that old.
"""
_LIVE_WITHIN: Final = timedelta(seconds=LIVE_WITHIN_SECONDS)


def is_fresh_while_live(bill: Bill) -> bool:
    """Is a LIVE view fresh enough for everything that the bill rests on?"""
    touched = [line.entitlement for line in bill.features]
    if bill.entitlement is not None:
        touched.append(bill.entitlement)
    return all(entitlement.feature.trouble.max_staleness >= _LIVE_WITHIN for entitlement in touched)


@dataclass(frozen=True, slots=True)
class Kept:
    """Decides, and tells what the decision rests on. Thread-safe."""

    check: Check
    grounds: Grounds
    clock: Clock

    def decide(self, question: Question, *, deadline: float, keeps: bool) -> tuple[Decision, Basis | None]:
        """The decision; its basis is None where it must not be kept, or nobody `keeps` it. Raises Malformed.

        What it rests on is written down before it is looked at: what changes meanwhile makes the basis too old, and
        never the decision.
        """
        check, grounds = self.check, self.grounds
        seen = grounds.changes()
        subject = grounds.view.subject(question.subject_id) if question.subject_id else None
        now = check.parties.now()
        judged = check.judged(question, deadline=deadline, now=now)
        asked_plainly = question.max_staleness is None and not question.min_revision and not question.explain
        compiled = self._lasting(judged) if keeps and asked_plainly else None
        stands = () if compiled is None else tuple(grounds.stand(ref) for ref in judged.bill.refs)
        spent = check.judge.look(judged, now)
        decision = check.decision(judged, spent, now=now)
        if compiled is None or spent.standings is None:
            return decision, None
        until = self.clock.monotonic() + self._seconds(compiled, stands, decision, now)
        basis = Basis(
            customer_id=judged.party.customer_id,
            compiled=compiled,
            subject_id=question.subject_id,
            subject=subject,
            balances=stands,
            until=until,
            seen=seen,
        )
        return decision, basis

    def _lasting(self, judged: Judged) -> Compiled | None:
        """The entitlements by which all was judged. None: something else had a say in it, which nothing tells of."""
        party = judged.party
        if judged.entitlements is None or judged.is_guest or judged.is_fallback:
            return None
        if judged.freshness.source is not ViewSource.LIVE or not is_fresh_while_live(judged.bill):
            return None
        if any(charge.value for charge in judged.bill.charges):
            return None  # whether a value was counted before is no number that anybody counts
        entry = self.grounds.view.customer(party.customer_id)
        compiled = None if entry is None else entry.compiled
        return compiled if compiled is not None and compiled.stamp == party.stamp else None

    def _seconds(
        self, compiled: Compiled, stands: tuple[Stand, ...], decision: Decision, now: datetime
    ) -> float:
        """How long, from `now`, until time alone may change it."""
        most = KEPT_SECONDS
        for _, hint, _, _, has_share in stands:
            if has_share or (hint is not None and hint.scoped):
                most = KEPT_UNTOLD_SECONDS
        ends = [
            at
            for state in decision.balances
            for at in (state.resets_at, state.next_expiry_at)
            if at is not None
        ]
        if compiled.entitlements.valid_until is not None:
            ends.append(compiled.entitlements.valid_until)
        return min(most, (min(ends) - now).total_seconds()) if ends else most
