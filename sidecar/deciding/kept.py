"""Checks whose answer may be kept: the decision, and what must be unchanged for it to be given again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sidecar.deciding.check import Check, Question
from sidecar.deciding.judging import Judged
from sidecar.deciding.unreported import Unreported
from sidecar.engine.decision import Decision, ViewSource
from sidecar.engine.evaluate import Bill
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import Spending as Book
from sidecar.runtime.clock import Clock
from sidecar.view.entries import Compiled, SubjectEntry
from sidecar.view.hints import Hint
from sidecar.view.memory import View
from sidecar.view.pulse import LIVE_WITHIN_SECONDS

KEPT_SECONDS: Final = 10.0
"""What time alone changes `_basis` knows beforehand; so long the clocks of this machine and of the control plane do
not part by what could be seen.
"""
KEPT_UNTOLD_SECONDS: Final = 0.25
"""Tokens of a share of a rate come back by themselves, and a lease of a scoped grant ends: nothing says so. An advisory
answer may be that old.
"""
_LIVE_WITHIN: Final = timedelta(seconds=LIVE_WITHIN_SECONDS)


Stand = tuple[BalanceRef, Hint | None, int, int, bool]
"""How a balance was known: its hint, what is not reported of it, what is held, and whether a share of it is here."""


class Basis:
    """What one answer rests on. The answer holds while the view is LIVE and all of this is as it was."""

    __slots__ = ("balances", "compiled", "customer_id", "seen", "subject", "subject_id", "until")

    def __init__(
        self,
        *,
        customer_id: str,
        compiled: Compiled,
        subject_id: str,
        subject: SubjectEntry | None,
        balances: tuple[Stand, ...],
        until: float,
        seen: int,
    ) -> None:
        """`until`: monotonic seconds. `seen`: the number of changes (`Kept.changes`) at which all this was so."""
        self.customer_id = customer_id
        self.compiled = compiled
        self.subject_id = subject_id
        self.subject = subject
        self.balances = balances
        self.until = until
        self.seen = seen


def is_fresh_while_live(bill: Bill) -> bool:
    """Is a LIVE view fresh enough for everything that the bill rests on?"""
    touched = [line.entitlement for line in bill.features]
    if bill.entitlement is not None:
        touched.append(bill.entitlement)
    return all(entitlement.feature.trouble.max_staleness >= _LIVE_WITHIN for entitlement in touched)


@dataclass(frozen=True, slots=True)
class Kept:
    """Decides, and tells whether what was decided before still holds. Thread-safe; `holds` takes no lock.

    Where nothing at all has changed nobody has to look at what one answer rests on. Whoever changes something counts
    afterwards, and whoever looks reads the number before: a change that comes between is seen by the next.
    """

    check: Check
    view: View
    book: Book
    unreported: Unreported
    clock: Clock

    def changes(self) -> int:
        """Another number whenever something has changed that an answer may rest on."""
        return self.view.changes + self.unreported.changes + self.book.changes

    def decide(self, question: Question, *, deadline: float, keeps: bool) -> tuple[Decision, Basis | None]:
        """The decision; its basis is None where it must not be kept, or nobody `keeps` it. Raises Malformed."""
        changes = self.changes()
        asked_plainly = question.max_staleness is None and not question.min_revision and not question.explain
        decision, judged = self.check.decide(question, deadline=deadline)
        if (
            not (keeps and asked_plainly)
            or judged.entitlements is None
            or judged.is_guest
            or judged.is_fallback
        ):
            return decision, None
        return decision, self._basis(judged, decision, changes)

    def holds(self, basis: Basis, now: float) -> bool:
        """Would the same be decided now? The caller has looked whether the view is LIVE."""
        if now >= basis.until:
            return False
        changes = self.changes()
        if basis.seen == changes:
            return True
        if not self.view.is_current(basis.customer_id, basis.compiled):
            return False
        if basis.subject_id and self.view.subject(basis.subject_id) is not basis.subject:
            return False
        for ref, hint, outstanding, held, has_share in basis.balances:
            if (
                self.view.hint(ref) is not hint
                or self.unreported.of(ref) != outstanding
                or self.book.held(ref) != held
                or self.book.has_share(ref) != has_share
            ):
                return False
        basis.seen = changes
        return True

    def _basis(self, judged: Judged, decision: Decision, changes: int) -> Basis | None:
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
        hint, unreported, book = self.view.hint, self.unreported.of, self.book
        for charge in bill.charges:
            ref = charge.ref
            if ref not in balances:
                balances[ref] = ref, hint(ref), unreported(ref), book.held(ref), book.has_share(ref)
            _, known, _, _, has_share = balances[ref]
            if has_share or (known is not None and known.scoped):
                most = KEPT_UNTOLD_SECONDS
        ends = [
            at
            for state in decision.balances
            for at in (state.resets_at, state.next_expiry_at)
            if at is not None
        ]
        if compiled.entitlements.valid_until is not None:
            ends.append(compiled.entitlements.valid_until)
        if ends:
            most = min(most, (min(ends) - self.check.parties.now()).total_seconds())
        subject_id = party.subject_id
        return Basis(
            customer_id=party.customer_id,
            compiled=compiled,
            subject_id=subject_id,
            subject=self.view.subject(subject_id) if subject_id else None,
            balances=tuple(balances.values()),
            until=self.clock.monotonic() + most,
            seen=changes,
        )
