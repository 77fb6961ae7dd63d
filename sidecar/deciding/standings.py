"""How balances stand, for answers: the control plane's last word, and what this sidecar knows beyond it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sidecar.deciding.unreported import Unreported
from sidecar.engine.decision import BalanceState, Standing, balance_state
from sidecar.engine.entitlement import BalanceSpec
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

    def of(
        self, balances: Iterable[tuple[BalanceRef, BalanceSpec]], at: datetime
    ) -> dict[BalanceRef, Standing]:
        """Of each balance, as of `at`."""
        return {ref: self.one(ref, spec, at) for ref, spec in balances}

    def state(self, ref: BalanceRef, spec: BalanceSpec, at: datetime) -> BalanceState:
        """One balance as an answer shows it."""
        return balance_state(spec, self.one(ref, spec, at))

    def one(self, ref: BalanceRef, spec: BalanceSpec, at: datetime) -> Standing:
        """Of one balance."""
        hint = self.view.hint(ref)
        if hint is not None and hint.period_end is not None and hint.period_end <= at:
            # It speaks of a period that is over.
            hint = None
        window = spec.period.window(at) if spec.period is not None else None
        reserved = self.book.held(ref)
        unreported = self.unreported.of(ref)
        if hint is None:
            limit = spec.limit if spec.limit is not None or spec.kind is not BalanceKind.WALLET else 0
            over = 0 if limit is None else max(0, unreported - limit)
            return Standing(
                limit=limit,
                used=unreported,
                overage=over,
                reserved=reserved,
                resets_at=window.end if window is not None else None,
            )
        return _standing(spec, hint, unreported, reserved, window.end if window is not None else None)


def after(standing: Standing, verdict: RemoteVerdict) -> Standing:
    """As the control plane has just said it."""
    return standing._replace(limit=verdict.limit, used=verdict.used)


def _standing(
    spec: BalanceSpec, hint: Hint, unreported: int, reserved: int, window_end: datetime | None
) -> Standing:
    # A limit is the entitlement's own: a hint may be older than the catalog or the plan that changed it.
    limit = hint.granted if spec.kind is BalanceKind.WALLET else spec.limit
    used = hint.used + unreported
    return Standing(
        limit=limit,
        used=used,
        overage=hint.overage if limit is None else max(hint.overage, used - limit),
        reserved=reserved,
        resets_at=hint.period_end or window_end,
        next_expiry_at=hint.next_expiry_at,
    )
