"""What may be spent: of the book, of what could be leased (for checks), and by waivers while the control
plane is away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from sidecar.deciding.reserved import Hold
from sidecar.engine.catalog import OveragePolicy
from sidecar.engine.decision import Standing
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.evaluate import Bill, Charge, Fund
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.leases.book import Spending
from sidecar.view.hints import Hint


class Hints(Protocol):
    """Looks up hints."""

    def hint(self, ref: BalanceRef) -> Hint | None:
        """None: not known here."""


def book_funds(book: Spending, bill: Bill, now: float, finish_until: float | None) -> dict[BalanceRef, Fund]:
    """What the book lets this bill spend. The book's lock is held by the caller."""
    features = {line.entitlement.feature.name for line in bill.features}
    if len(features) <= 1:
        feature = features.pop() if features else ""
        return dict(book.funds(bill.refs, feature, now, finish_until))
    # Several features may draw on one wallet: what any of them may spend, and what each may in its own scope.
    general = book.funds(bill.refs, "", now, finish_until)
    per_feature = {name: book.funds(bill.refs, name, now, finish_until) for name in features}
    funds: dict[BalanceRef, Fund] = {}
    for ref, fund in general.items():
        scoped = {name: found[ref].within for name, found in per_feature.items() if ref in found}
        beyond = max([fund.beyond, *(found[ref].beyond for found in per_feature.values() if ref in found)])
        funds[ref] = Fund(fund.within, beyond, scoped)
    return funds


def remote_funds(charges: Iterable[Charge]) -> dict[BalanceRef, Fund]:
    """For balances that only the control plane decides, as if it had allowed: everything else is looked at first."""
    return {charge.ref: Fund(charge.quantity) for charge in charges if charge.spec.decided_remotely}


def held_funds(holds: Iterable[Hold]) -> dict[BalanceRef, Fund]:
    """What a reservation holds, as funds."""
    funds: dict[BalanceRef, Fund] = {}
    for hold in holds:
        before = funds.get(hold.ref, Fund(0))
        within = before.within + hold.amount - hold.beyond
        funds[hold.ref] = Fund(within, before.beyond + hold.beyond)
    return funds


def sum_funds(held: Mapping[BalanceRef, Fund], more: Mapping[BalanceRef, Fund]) -> dict[BalanceRef, Fund]:
    """Both together."""
    found = dict(more)
    for ref, fund in held.items():
        other = found.get(ref, Fund(0))
        scoped = None
        if other.scoped is not None:
            scoped = {name: amount + fund.within for name, amount in other.scoped.items()}
        found[ref] = Fund(fund.within + other.within, fund.beyond + other.beyond, scoped)
    return found


def without_rates(bill: Bill) -> Bill:
    """For what was reserved: rates were asked then, and are not asked again."""
    rates = {charge.ref for line in bill.features for charge in line.rates}
    lines = tuple(replace(line, rates=()) for line in bill.features)
    return replace(bill, features=lines, refs=tuple(ref for ref in bill.refs if ref not in rates))


def leasable(
    charges: Iterable[Charge],
    standings: Mapping[BalanceRef, Standing],
    hints: Hints,
    funds: Mapping[BalanceRef, Fund],
) -> dict[BalanceRef, Fund]:
    """What could be spent as the balances are shown: for a check while the control plane is near.

    Slices that others hold and do not spend can be recalled, so what counts is what remains of the whole fleet.
    """
    wider: dict[BalanceRef, Fund] = {}
    for charge in charges:
        spec, ref = charge.spec, charge.ref
        hint = hints.hint(ref)
        if spec.decided_remotely:
            wider[ref] = Fund(_remote_room(charge, hint))
            continue
        held = funds.get(ref)
        if spec.kind is BalanceKind.RATE:
            wider[ref] = Fund(_tokens(spec, hint, held))
            continue
        standing = standings[ref]
        remaining = max(0, (standing.limit or 0) - standing.used - standing.reserved)
        beyond = 0
        if spec.overage is OveragePolicy.ALLOW_UP_TO:
            beyond = max(0, spec.cap - standing.overage)
        if hint is not None and hint.scoped:
            mine = hint.available_to(charge.feature) + (0 if held is None else held.within)
            remaining = min(remaining, mine)
        wider[ref] = Fund(remaining, beyond)
    return wider


def _tokens(spec: BalanceSpec, hint: Hint | None, held: Fund | None) -> int:
    """A rate: what the share here holds, and what the control plane's bucket held last. Without a share here that
    is not known: a bucket fills up without a word. Then the answer is yes, as it is before the first call.
    """
    if held is None:
        return spec.burst
    return held.within + (0 if hint is None else max(0, hint.available))


def _remote_room(charge: Charge, hint: Hint | None) -> int:
    limit = charge.spec.limit if hint is None or hint.granted is None else hint.granted
    used = 0 if hint is None else hint.used
    if limit is None or used + charge.quantity <= limit + charge.spec.cap:
        return charge.quantity
    return 0
