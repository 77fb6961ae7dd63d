"""Checks whose answer may be kept: the decision, and what must be unchanged for it to be given again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from sidecar.deciding.check import Check, Question
from sidecar.deciding.judging import Judged
from sidecar.deciding.unreported import Unreported
from sidecar.engine.decision import Decision, ViewSource
from sidecar.engine.evaluate import Bill
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.leases.book import Spending as Book
from sidecar.runtime.clock import Clock
from sidecar.view.entries import Compiled, SubjectEntry
from sidecar.view.hints import Hint
from sidecar.view.memory import View
from sidecar.view.pulse import LIVE_WITHIN_SECONDS

KEPT_SECONDS: Final = 1.0
KEPT_WITH_RATE_SECONDS: Final = 0.25
"""A rate's tokens come back by themselves: nothing says so. An advisory answer may be that old."""
_LIVE_WITHIN: Final = timedelta(seconds=LIVE_WITHIN_SECONDS)


Stand = tuple[BalanceRef, Hint | None, int, int]
"""How a balance was known: its hint, what is not reported of it, and what is held."""


class Basis(NamedTuple):
    """What one answer rests on. The answer holds while the view is LIVE and all of this is as it was."""

    customer_id: str
    compiled: Compiled
    subject_id: str
    subject: SubjectEntry | None
    balances: tuple[Stand, ...]
    until: float
    """Monotonic seconds."""


def is_fresh_while_live(bill: Bill) -> bool:
    """Is a LIVE view fresh enough for everything that the bill rests on?"""
    touched = [line.entitlement for line in bill.features]
    if bill.entitlement is not None:
        touched.append(bill.entitlement)
    return all(entitlement.feature.trouble.max_staleness >= _LIVE_WITHIN for entitlement in touched)


@dataclass(frozen=True, slots=True)
class Kept:
    """Decides, and tells whether what was decided before still holds. Thread-safe; `holds` takes no lock."""

    check: Check
    view: View
    book: Book
    unreported: Unreported
    clock: Clock

    def decide(self, question: Question, *, deadline: float) -> tuple[Decision, Basis | None]:
        """The decision; its basis is None where it must not be kept. Raises Malformed."""
        asked_plainly = question.max_staleness is None and not question.min_revision and not question.explain
        decision, judged = self.check.decide(question, deadline=deadline)
        if not asked_plainly or judged.entitlements is None or judged.is_guest or judged.is_fallback:
            return decision, None
        return decision, self._basis(judged, decision)

    def holds(self, basis: Basis, now: float) -> bool:
        """Would the same be decided now? The caller has looked whether the view is LIVE."""
        if now >= basis.until:
            return False
        entry = self.view.customer(basis.customer_id)
        if entry is None or entry.compiled is not basis.compiled:
            return False
        if basis.subject_id and self.view.subject(basis.subject_id) is not basis.subject:
            return False
        for ref, hint, outstanding, held in basis.balances:
            if (
                self.view.hint(ref) is not hint
                or self.unreported.of(ref) != outstanding
                or self.book.held(ref) != held
            ):
                return False
        return True

    def _basis(self, judged: Judged, decision: Decision) -> Basis | None:
        party = judged.party
        entry = self.view.customer(party.customer_id)
        if entry is None or judged.freshness.source is not ViewSource.LIVE:
            return None
        compiled = entry.compiled
        bill = judged.bill
        if compiled is None or compiled.stamp != party.stamp:
            return None
        if not is_fresh_while_live(bill):
            return None
        most = KEPT_SECONDS
        balances: dict[BalanceRef, Stand] = {}
        hint, unreported, held = self.view.hint, self.unreported.of, self.book.held
        for charge in bill.charges:
            ref = charge.ref
            if charge.spec.kind is BalanceKind.RATE:
                most = KEPT_WITH_RATE_SECONDS
            if ref not in balances:
                balances[ref] = ref, hint(ref), unreported(ref), held(ref)
        ends = [state.resets_at for state in decision.balances if state.resets_at is not None]
        if compiled.entitlements.valid_until is not None:
            ends.append(compiled.entitlements.valid_until)
        if ends:
            most = min(most, (min(ends) - self.check.parties.now()).total_seconds())
        subject_id = party.subject_id
        return Basis(
            party.customer_id,
            compiled,
            subject_id,
            self.view.subject(subject_id) if subject_id else None,
            tuple(balances.values()),
            self.clock.monotonic() + most,
        )
