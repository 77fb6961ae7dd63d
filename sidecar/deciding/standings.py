"""How balances stand, for answers: the control plane's last word, and what this sidecar knows beyond it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar.deciding.unreported import Unreported
from sidecar.engine.decision import BalanceState, Standing, balance_state
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.evaluate import Charge
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.leases.book import Spending as Book
from sidecar.leases.terms import RemoteVerdict
from sidecar.view.hints import Hint
from sidecar.view.memory import View


@dataclass(frozen=True, slots=True)
class Standings:
    """Looks standings up. Takes no lock but the book's, and that briefly."""

    view: View
    book: Book
    unreported: Unreported

    def of(self, charges: Iterable[Charge], at: datetime) -> dict[BalanceRef, Standing]:
        """Of each balance that is charged, as of `at`."""
        found: dict[BalanceRef, Standing] = {}
        for charge in charges:
            ref = charge.ref
            if ref not in found:
                found[ref] = self.one(ref, charge.spec, at)
        return found

    def state(self, ref: BalanceRef, spec: BalanceSpec, at: datetime) -> BalanceState:
        """One balance as an answer shows it."""
        return balance_state(spec, self.one(ref, spec, at))

    def one(self, ref: BalanceRef, spec: BalanceSpec, at: datetime) -> Standing:
        """Of one balance."""
        hinted = told(spec, self.view.hint(ref), at)
        limit, over = hinted.limit, hinted.overage
        outstanding = self.unreported.of(ref)
        used = max(0, hinted.used + outstanding)
        if limit is not None and (used - limit > over or outstanding < 0):
            over = max(0, used - limit)
        reserved = hinted.reserved + self.book.held(ref)
        return Standing(
            limit, used, over, reserved, hinted.remaining, hinted.resets_at, hinted.next_expiry_at
        )


def told(spec: BalanceSpec, hint: Hint | None, at: datetime) -> Standing:
    """Of one balance, by the control plane's last word alone."""
    if hint is None or (hint.period_end is not None and hint.period_end <= at):
        # Nothing is known of it, or of a period that is over.
        limit = spec.limit if spec.limit is not None or spec.kind is not BalanceKind.WALLET else 0
        return Standing(limit, 0, 0, 0, None, _end(spec, at))
    # A limit is the entitlement's own: a hint may be older than the catalog or the plan that changed it.
    limit = hint.granted if spec.kind is BalanceKind.WALLET else spec.limit
    return Standing(
        limit, hint.used, hint.overage, 0, None, hint.period_end or _end(spec, at), hint.next_expiry_at
    )


def after(standing: Standing, verdict: RemoteVerdict) -> Standing:
    """As the control plane has just said it."""
    return replace(standing, limit=verdict.limit, used=verdict.used)


def _end(spec: BalanceSpec, at: datetime) -> datetime | None:
    return None if spec.period is None else spec.period.window(at).end
