"""The answer: everything that a caller needs to act on a decision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from sidecar.engine.catalog import ConfigValue, FeatureType
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.evaluate import REASON_OF_KIND, Bill, Charge, Outcome
from sidecar.engine.upgrades import upgrade_options
from sidecar.engine.values import BalanceKind, BalanceRef, Finding, Reason, format_scaled


class ViewSource(IntEnum):
    """Where the view came from; numbers as in `purser.v1.ViewSource`."""

    UNSPECIFIED = 0
    LIVE = 1
    CACHED = 2
    PERSISTED = 3
    FALLBACK = 4


@dataclass(init=False, slots=True)
class Freshness:
    """How old the view behind an answer is. `as_of` and `age` None: never confirmed."""

    revision: Final[int]
    as_of: Final[datetime | None]
    age: Final[timedelta | None]
    source: Final[ViewSource]

    def __init__(
        self, revision: int, as_of: datetime | None, age: timedelta | None, source: ViewSource
    ) -> None:
        self.revision = revision
        self.as_of = as_of
        self.age = age
        self.source = source


@dataclass(init=False, slots=True)
class Standing:
    """How a balance stands, as the shell knows it: for answers, never for deciding. Amounts at the balance's scale."""

    limit: Final[int | None]
    """The limit or what was granted and is active. None: unlimited."""
    used: Final[int]
    overage: Final[int]
    reserved: Final[int]
    remaining: Final[int | None]
    """Wallets: what is left. None: it follows from limit, used and reserved."""
    resets_at: Final[datetime | None]
    next_expiry_at: Final[datetime | None]

    def __init__(
        self,
        limit: int | None,
        used: int,
        overage: int = 0,
        reserved: int = 0,
        remaining: int | None = None,
        resets_at: datetime | None = None,
        next_expiry_at: datetime | None = None,
    ) -> None:
        self.limit = limit
        self.used = used
        self.overage = overage
        self.reserved = reserved
        self.remaining = remaining
        self.resets_at = resets_at
        self.next_expiry_at = next_expiry_at


_BY_BALANCE = frozenset(REASON_OF_KIND.values())

Standings = Mapping[BalanceRef, Standing]


@dataclass(init=False, slots=True)
class BalanceState:
    """One balance that a decision touched. Amounts at `scale`; None: unlimited."""

    balance: Final[str]
    kind: Final[BalanceKind]
    unit: Final[str]
    scale: Final[int]
    limit: Final[int | None]
    used: Final[int]
    remaining: Final[int | None]
    overage: Final[int]
    reserved: Final[int]
    resets_at: Final[datetime | None]
    next_expiry_at: Final[datetime | None]

    def __init__(
        self,
        balance: str,
        kind: BalanceKind,
        unit: str,
        scale: int,
        limit: int | None,
        used: int,
        remaining: int | None,
        overage: int,
        reserved: int,
        resets_at: datetime | None,
        next_expiry_at: datetime | None,
    ) -> None:
        self.balance = balance
        self.kind = kind
        self.unit = unit
        self.scale = scale
        self.limit = limit
        self.used = used
        self.remaining = remaining
        self.overage = overage
        self.reserved = reserved
        self.resets_at = resets_at
        self.next_expiry_at = next_expiry_at


@dataclass(init=False, slots=True)
class Amount:
    """An amount of one unit at its scale."""

    unit: Final[str]
    value: Final[int]
    scale: Final[int]

    def __init__(self, unit: str, value: int, scale: int) -> None:
        self.unit = unit
        self.value = value
        self.scale = scale


@dataclass(init=False, slots=True)
class Decision:
    """The answer to one question; fields as in `purser.v1.Decision`."""

    decision_id: Final[str]
    allowed: Final[bool]
    reason: Final[Reason]
    message: Final[str]
    freshness: Final[Freshness]
    value: Final[ConfigValue]
    balances: Final[tuple[BalanceState, ...]]
    cost: Final[Amount | None]
    shortfall: Final[Amount | None]
    retry_after: Final[timedelta | None]
    upgrade_options: Final[tuple[str, ...]]
    warnings: Final[tuple[str, ...]]
    explanation: Final[tuple[Finding, ...]]

    def __init__(
        self,
        decision_id: str,
        allowed: bool,
        reason: Reason,
        message: str,
        freshness: Freshness,
        value: ConfigValue = None,
        balances: tuple[BalanceState, ...] = (),
        cost: Amount | None = None,
        shortfall: Amount | None = None,
        retry_after: timedelta | None = None,
        upgrade_options: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
        explanation: tuple[Finding, ...] = (),
    ) -> None:
        self.decision_id = decision_id
        self.allowed = allowed
        self.reason = reason
        self.message = message
        self.freshness = freshness
        self.value = value
        self.balances = balances
        self.cost = cost
        self.shortfall = shortfall
        self.retry_after = retry_after
        self.upgrade_options = upgrade_options
        self.warnings = warnings
        self.explanation = explanation


def build(
    *,
    bill: Bill,
    outcome: Outcome,
    entitlements: Entitlements,
    standings: Standings,
    freshness: Freshness,
    decision_id: str,
    retry_after: timedelta | None = None,
    trouble: Finding | None = None,
) -> Decision:
    """Makes the answer.

    `standings` says how the balances stand that the bill touches; one that is missing is shown as untouched. `trouble`
    is what the shell found about its own state: its reason refuses (VIEW_TOO_OLD), or is OK_FALLBACK, by which a
    trouble policy allows what balances would have refused.
    """
    findings = outcome.findings if trouble is None else (*outcome.findings, trouble)
    reason = outcome.reason if trouble is None else _with_trouble(outcome.reason, trouble.reason)
    allowed = not reason.refuses
    balances = balance_states(bill.charges, standings)
    near = near_limits(balances) if allowed else ()
    return Decision(
        decision_id=decision_id,
        allowed=allowed,
        reason=reason,
        message=_message(reason, findings, outcome),
        freshness=freshness,
        value=_value(bill, entitlements, allowed=allowed),
        balances=balances,
        cost=_cost(bill.named, outcome) if outcome.costs else None,
        shortfall=None if allowed else _shortfall(outcome),
        retry_after=retry_after,
        upgrade_options=()
        if allowed
        else upgrade_options(entitlements, reason, _refused(bill, outcome), outcome.shortfalls),
        warnings=(*outcome.warnings, *near) if near else outcome.warnings,
        explanation=(*findings, Finding("reason", bill.named, reason.name, reason)) if bill.explain else (),
    )


def _beyond(outcome: Outcome) -> Iterator[str]:
    """What goes beyond its balance, and what of the cost is billed for it."""
    for draw in outcome.draws:
        beyond = draw.beyond + draw.uncovered
        if beyond:
            spec = draw.spec
            yield f"{format_scaled(beyond, spec.scale)} {spec.unit} beyond {spec.name}"
    for cost in outcome.costs:
        if cost.billed:
            yield f"{format_scaled(cost.billed, cost.scale)} {cost.unit} billed"


def _with_trouble(decided: Reason, trouble: Reason) -> Reason:
    """A fallback allows what only balances refused; what the customer has no right to stays refused."""
    if trouble.refuses:
        return min(decided, trouble) if decided.refuses else trouble
    return trouble if not decided.refuses or decided in _BY_BALANCE else decided


def balance_states(charges: tuple[Charge, ...], standings: Standings) -> tuple[BalanceState, ...]:
    """How every balance of some charges stands, each once."""
    found: dict[BalanceRef, BalanceState] = {}
    for charge in charges:
        if charge.ref not in found:
            found[charge.ref] = balance_state(charge.spec, standings.get(charge.ref))
    return tuple(found.values())


def balance_state(spec: BalanceSpec, standing: Standing | None) -> BalanceState:
    """How one balance stands: `remaining` is max(0, limit − used − reserved), for a wallet what the shell says; of a
    rate, whose tokens are shared out, nobody knows it.
    """
    known = standing or Standing(limit=0 if spec.kind is BalanceKind.WALLET else spec.limit, used=0)
    remaining = known.remaining
    if remaining is None and known.limit is not None and spec.kind is not BalanceKind.RATE:
        remaining = max(0, known.limit - known.used - known.reserved)
    return BalanceState(
        spec.name,
        spec.kind,
        spec.unit,
        spec.scale,
        known.limit,
        known.used,
        remaining,
        known.overage,
        known.reserved,
        known.resets_at,
        known.next_expiry_at,
    )


def near_limits(balances: tuple[BalanceState, ...]) -> tuple[str, ...]:
    """A warning for each balance with less than a tenth left. Rates come back by themselves and are not warned of."""
    return tuple(
        [
            f"NEAR_LIMIT {state.balance}"
            for state in balances
            if state.limit and state.remaining is not None and state.remaining * 10 < state.limit
            if state.kind is not BalanceKind.RATE
        ]
    )


def _value(bill: Bill, entitlements: Entitlements, *, allowed: bool) -> ConfigValue:
    if bill.entitlement is not None:
        return bill.entitlement.value if allowed else None
    feature = entitlements.catalog_features.get(bill.named)
    return False if feature is not None and feature.type is FeatureType.SWITCH else None


def _cost(named: str, outcome: Outcome) -> Amount:
    cost = outcome.costs[0]
    if cost.feature != named:
        cost = next((other for other in outcome.costs if other.feature == named), cost)
    return Amount(cost.unit, cost.amount, cost.scale)


def _shortfall(outcome: Outcome) -> Amount | None:
    for short in outcome.shortfalls:
        if short.refuses and REASON_OF_KIND[short.spec.kind] is outcome.reason:
            return Amount(short.spec.unit, short.missing, short.spec.scale)
    return None


def _refused(bill: Bill, outcome: Outcome) -> tuple[str, ...]:
    """The features whose refusal the reason is."""
    short = tuple(s.feature for s in outcome.shortfalls if s.refuses)
    about = tuple(
        f.about for f in outcome.findings if f.step in {"entitlement", "requires"} and f.reason.refuses
    )
    return short or about or (bill.named,)


def _message(reason: Reason, findings: tuple[Finding, ...], outcome: Outcome) -> str:
    if reason is Reason.OK:
        return "allowed"
    if reason is Reason.OK_OVERAGE:
        return "; ".join(["allowed", *_beyond(outcome)])
    for finding in findings:
        if finding.reason is reason and (reason.refuses or reason is Reason.OK_FALLBACK):
            return f"{finding.about}: {finding.finding}" if finding.about else finding.finding
    return reason.name.lower().replace("_", " ")
