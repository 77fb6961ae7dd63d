"""What an event touches (`bill`), and whether what may be spent covers it (`decide`): all of it or none.

Those values that every call makes have an `__init__` that is written out: as native code it costs an eighth of what
NamedTuple or dataclass generate (docs/decisions/0015).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from sidecar.engine.entitlement import BalanceSpec, FeatureEntitlement, Pricing
from sidecar.engine.rating import Rated
from sidecar.engine.values import BalanceKind, BalanceRef, Finding, Reason

REASON_OF_KIND: Final[Mapping[BalanceKind, Reason]] = {
    BalanceKind.ALLOWANCE: Reason.LIMIT_REACHED,
    BalanceKind.GAUGE: Reason.LIMIT_REACHED,
    BalanceKind.WALLET: Reason.INSUFFICIENT_CREDITS,
    BalanceKind.BUDGET: Reason.BUDGET_EXCEEDED,
    BalanceKind.RATE: Reason.RATE_LIMITED,
}
"""Why a balance of that kind refuses."""


@dataclass(init=False, slots=True)
class Charge:
    """What an event would take of one balance, at the balance's scale."""

    spec: Final[BalanceSpec]
    ref: Final[BalanceRef]
    quantity: Final[int]
    """For a wallet and a budget the most it can be: what an allowance covers comes off in `decide`."""
    exact: Final[Decimal]
    """The same before rounding."""
    feature: Final[str]
    value: Final[str]
    """For a meter that counts unique values: the value. It costs 1 where it is new, which `decide`'s caller knows."""

    def __init__(
        self, spec: BalanceSpec, ref: BalanceRef, quantity: int, exact: Decimal, feature: str, value: str = ""
    ) -> None:
        self.spec = spec
        self.ref = ref
        self.quantity = quantity
        self.exact = exact
        self.feature = feature
        self.value = value


@dataclass(init=False, slots=True)
class FeatureBill:
    """What an event touches for one feature."""

    entitlement: Final[FeatureEntitlement]
    allowances: Final[tuple[Charge, ...]]
    """Used one after the other."""
    wallet: Final[Charge | None]
    rates: Final[tuple[Charge, ...]]
    gauge: Final[Charge | None]
    pricing: Final[Pricing | None]
    cost: Final[Rated | None]
    """The whole event's, before allowances. None: no price, or no event."""

    def __init__(
        self,
        entitlement: FeatureEntitlement,
        allowances: tuple[Charge, ...],
        wallet: Charge | None,
        rates: tuple[Charge, ...],
        gauge: Charge | None,
        pricing: Pricing | None,
        cost: Rated | None,
    ) -> None:
        self.entitlement = entitlement
        self.allowances = allowances
        self.wallet = wallet
        self.rates = rates
        self.gauge = gauge
        self.pricing = pricing
        self.cost = cost


class Unrated(NamedTuple):
    """A price that was not found where the card lets the event pass, or where it is a fact."""

    feature: str
    rate_card: str
    catalog_revision: int
    why: str


@dataclass(init=False, slots=True)
class Bill:
    """Everything that one request touches, before any balance was looked at."""

    features: Final[tuple[FeatureBill, ...]]
    named: Final[str]
    """The feature whose decision is answered; empty: all that are charged."""
    entitlement: Final[FeatureEntitlement | None]
    """The named feature's, if the customer has it."""
    budgets: Final[tuple[Charge, ...]]
    unrated: Final[tuple[Unrated, ...]]
    findings: Final[tuple[Finding, ...]]
    """Those that refuse; all of them if an explanation was asked for."""
    refused: Final[Reason]
    """OK, or the first reason of the findings."""
    refs: Final[tuple[BalanceRef, ...]]
    """Every balance that a fund is wanted for, without repeats; unlimited ones are not among them."""
    warnings: Final[tuple[str, ...]]
    explain: Final[bool]
    probe: Final[bool]
    """True: the request says no quantity; what is asked is whether each balance has anything left at all."""

    def __init__(
        self,
        features: tuple[FeatureBill, ...],
        named: str,
        entitlement: FeatureEntitlement | None,
        budgets: tuple[Charge, ...],
        unrated: tuple[Unrated, ...],
        findings: tuple[Finding, ...],
        refused: Reason,
        refs: tuple[BalanceRef, ...],
        warnings: tuple[str, ...],
        explain: bool,
        probe: bool,
    ) -> None:
        self.features = features
        self.named = named
        self.entitlement = entitlement
        self.budgets = budgets
        self.unrated = unrated
        self.findings = findings
        self.refused = refused
        self.refs = refs
        self.warnings = warnings
        self.explain = explain
        self.probe = probe

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges, in the order of the explanation."""
        found: list[Charge] = []
        for line in self.features:
            found += line.allowances
            if line.wallet is not None:
                found.append(line.wallet)
            if line.gauge is not None:
                found.append(line.gauge)
            found += line.rates
        found += self.budgets
        return tuple(found)


@dataclass(init=False, slots=True)
class Fund:
    """What may be spent of one balance now, at its scale.

    For a balance that is `decided_remotely` it is the control plane's verdict: the charge's quantity when it allows, 0
    when it does not.
    """

    within: Final[int]
    """Inside the limit, or what a wallet holds that any feature may spend."""
    beyond: Final[int]
    """Inside a soft limit's cap."""
    scoped: Final[Mapping[str, int] | None]
    """Where a wallet's grants are scoped and an event charges several features: what each may spend in all."""

    def __init__(self, within: int, beyond: int = 0, scoped: Mapping[str, int] | None = None) -> None:
        self.within = within
        self.beyond = beyond
        self.scoped = scoped


Funds = Mapping[BalanceRef, Fund]
"""A balance that is missing has nothing."""


@dataclass(init=False, slots=True)
class Draw:
    """What is to be taken of one balance: `within + beyond + uncovered` is the charge."""

    ref: Final[BalanceRef]
    feature: Final[str]
    within: Final[int]
    beyond: Final[int]
    uncovered: Final[int]
    """What no lease covers: booked as a fact is."""
    exact: Final[Decimal]
    spec: Final[BalanceSpec]
    value: Final[str]

    def __init__(
        self,
        ref: BalanceRef,
        feature: str,
        within: int,
        beyond: int,
        uncovered: int,
        exact: Decimal,
        spec: BalanceSpec,
        value: str = "",
    ) -> None:
        self.ref = ref
        self.feature = feature
        self.within = within
        self.beyond = beyond
        self.uncovered = uncovered
        self.exact = exact
        self.spec = spec
        self.value = value


@dataclass(init=False, slots=True)
class CostCharge:
    """What one rate card makes of the event. Amounts at `scale`."""

    feature: Final[str]
    rate_card: Final[str]
    catalog_revision: Final[int]
    unit: Final[str]
    scale: Final[int]
    amount: Final[int]
    """The whole event, rounded."""
    exact: Final[Decimal]
    billed: Final[int]
    """The part that is billed in arrears, rounded once; 0 when a wallet or an allowance pays."""
    billed_exact: Final[Decimal]

    def __init__(
        self,
        feature: str,
        rate_card: str,
        catalog_revision: int,
        unit: str,
        scale: int,
        amount: int,
        exact: Decimal,
        billed: int,
        billed_exact: Decimal,
    ) -> None:
        self.feature = feature
        self.rate_card = rate_card
        self.catalog_revision = catalog_revision
        self.unit = unit
        self.scale = scale
        self.amount = amount
        self.exact = exact
        self.billed = billed
        self.billed_exact = billed_exact


class Shortfall(NamedTuple):
    """What a lease would have to bring: the shell acquires all of them in one round trip and decides again."""

    ref: BalanceRef
    feature: str
    missing: int
    needed: int
    """The whole charge; above `missing` where a part is there."""
    refuses: bool
    """False: the balance's overage is `allow`; what can not be leased passes uncovered."""
    spec: BalanceSpec
    value: str = ""


@dataclass(init=False, slots=True)
class Outcome:
    """What would happen. A refused outcome draws nothing."""

    allowed: Final[bool]
    reason: Final[Reason]
    findings: Final[tuple[Finding, ...]]
    """As in Bill, with those of the balances."""
    draws: Final[tuple[Draw, ...]]
    costs: Final[tuple[CostCharge, ...]]
    """Also of a refused outcome: what it would have cost."""
    shortfalls: Final[tuple[Shortfall, ...]]
    unrated: Final[tuple[Unrated, ...]]
    warnings: Final[tuple[str, ...]]

    def __init__(
        self,
        allowed: bool,
        reason: Reason,
        findings: tuple[Finding, ...],
        draws: tuple[Draw, ...],
        costs: tuple[CostCharge, ...],
        shortfalls: tuple[Shortfall, ...],
        unrated: tuple[Unrated, ...],
        warnings: tuple[str, ...],
    ) -> None:
        self.allowed = allowed
        self.reason = reason
        self.findings = findings
        self.draws = draws
        self.costs = costs
        self.shortfalls = shortfalls
        self.unrated = unrated
        self.warnings = warnings
