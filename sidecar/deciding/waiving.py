"""What the features' `on_unreachable` policies let pass of what can not be asked for."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sidecar.deciding.waivers import Waived, Waivers
from sidecar.engine.catalog import OnUnreachable, Trouble
from sidecar.engine.evaluate import Bill, Charge, Shortfall
from sidecar.engine.values import ZERO, BalanceRef, Finding, Reason, format_scaled, to_scaled

_STRICT_FIRST: Final = (
    OnUnreachable.DENY,
    OnUnreachable.FINISH_LEASE,
    OnUnreachable.ALLOW_UP_TO,
    OnUnreachable.ALLOW,
)


class Waiver(NamedTuple):
    """What was let pass: how much of each balance, what was counted for it, and the policies' names."""

    extra: dict[BalanceRef, int]
    counted: tuple[Waived, ...]
    findings: tuple[Finding, ...]


def waive(waivers: Waivers, bill: Bill, away: Sequence[Shortfall]) -> Waiver | None:
    """Counts all of it, or nothing; None: a policy does not let it pass."""
    extra: dict[BalanceRef, int] = {}
    counted: list[Waived] = []
    findings: list[Finding] = []
    for short in away:
        trouble = policy(bill, short.feature)
        charge = Charge(short.spec, short.ref, short.missing, ZERO, short.feature, short.value)
        one = _count(waivers, trouble, charge, adds=True)
        if one is None:
            give_back(waivers, counted)
            return None
        counted.append(one)
        extra[short.ref] = extra.get(short.ref, 0) + short.missing
        findings.append(_named(trouble, charge))
    return Waiver(extra, tuple(counted), tuple(findings))


def waive_remote(
    waivers: Waivers, bill: Bill, charge: Charge, *, adds: bool
) -> tuple[Waived, Finding] | None:
    """For what only the control plane decides: counts holders, or how high a peak is. None: not waived."""
    trouble = policy(bill, charge.feature)
    one = _count(waivers, trouble, charge, adds=adds)
    return None if one is None else (one, _named(trouble, charge))


def give_back(waivers: Waivers, counted: Iterable[Waived]) -> None:
    """What was counted did not happen."""
    for one in counted:
        waivers.give_back(one)


def policy(bill: Bill, feature: str) -> Trouble:
    """The feature's; for a balance that belongs to no feature of the bill the strictest of all."""
    troubles = {line.entitlement.name: line.entitlement.trouble for line in bill.features}
    if feature in troubles:
        return troubles[feature]
    ranked = sorted(troubles.values(), key=lambda trouble: _STRICT_FIRST.index(trouble.on_unreachable))
    return ranked[0] if ranked else Trouble()


def _count(waivers: Waivers, trouble: Trouble, charge: Charge, *, adds: bool) -> Waived | None:
    customer_id, feature, holder_id = charge.ref.customer_id, charge.feature, charge.value
    if trouble.on_unreachable is OnUnreachable.ALLOW:
        return Waived(-1, customer_id, feature, 0)
    if charge.spec.decided_remotely and not charge.quantity:
        # Whoever gives back needs nobody's leave.
        return waivers.hold(customer_id, feature, holder_id, 0, 0, adds=adds)
    if trouble.on_unreachable is not OnUnreachable.ALLOW_UP_TO:
        return None
    cap = to_scaled(trouble.unreachable_cap, charge.spec.scale)
    if charge.spec.decided_remotely:
        return waivers.hold(customer_id, feature, holder_id, charge.quantity, cap, adds=adds)
    return waivers.take(customer_id, feature, charge.quantity, cap)


def _named(trouble: Trouble, charge: Charge) -> Finding:
    spec = charge.spec
    amount = format_scaled(charge.quantity, spec.scale)
    said = f"on_unreachable: {trouble.on_unreachable.value} let {amount} {spec.unit} pass without a lease"
    if not charge.quantity:
        said = "giving back needs no answer from the control plane"
    return Finding("trouble", charge.ref.balance, said, Reason.OK_FALLBACK)
