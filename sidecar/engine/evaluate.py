"""What an event touches (`bill`), and whether what may be spent covers it (`decide`): all of it or none.

The values here are tuples and not dataclasses because every call makes a dozen of them.
"""

from collections.abc import Mapping
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


class Charge(NamedTuple):
    """What an event would take of one balance, at the balance's scale."""

    spec: BalanceSpec
    ref: BalanceRef
    quantity: int
    """For a wallet and a budget the most it can be: what an allowance covers comes off in `decide`."""
    exact: Decimal
    """The same before rounding."""
    feature: str
    value: str = ""
    """For a meter that counts unique values: the value. It costs 1 where it is new, which `decide`'s caller knows."""


class FeatureBill(NamedTuple):
    """What an event touches for one feature."""

    entitlement: FeatureEntitlement
    allowances: tuple[Charge, ...]
    """Used one after the other."""
    wallet: Charge | None
    rates: tuple[Charge, ...]
    gauge: Charge | None
    pricing: Pricing | None
    cost: Rated | None
    """The whole event's, before allowances. None: no price, or no event."""


class Unrated(NamedTuple):
    """A price that was not found where the card lets the event pass, or where it is a fact."""

    feature: str
    rate_card: str
    catalog_revision: int
    why: str


class Bill(NamedTuple):
    """Everything that one request touches, before any balance was looked at."""

    features: tuple[FeatureBill, ...]
    named: str
    """The feature whose decision is answered; empty: all that are charged."""
    entitlement: FeatureEntitlement | None
    """The named feature's, if the customer has it."""
    budgets: tuple[Charge, ...]
    unrated: tuple[Unrated, ...]
    findings: tuple[Finding, ...]
    """Those that refuse; all of them if an explanation was asked for."""
    refused: Reason
    """OK, or the first reason of the findings."""
    refs: tuple[BalanceRef, ...]
    """Every balance that a fund is wanted for, without repeats; unlimited ones are not among them."""
    warnings: tuple[str, ...]
    explain: bool
    probe: bool
    """True: the request says no quantity; what is asked is whether each balance has anything left at all."""

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


class Fund(NamedTuple):
    """What may be spent of one balance now, at its scale.

    For a balance that is `decided_remotely` it is the control plane's verdict: the charge's quantity when it allows, 0
    when it does not.
    """

    within: int
    """Inside the limit, or what a wallet holds that any feature may spend."""
    beyond: int = 0
    """Inside a soft limit's cap."""
    scoped: Mapping[str, int] | None = None
    """Where a wallet's grants are scoped and an event charges several features: what each may spend in all."""


Funds = Mapping[BalanceRef, Fund]
"""A balance that is missing has nothing."""


class Draw(NamedTuple):
    """What is to be taken of one balance: `within + beyond + uncovered` is the charge."""

    ref: BalanceRef
    feature: str
    within: int
    beyond: int
    uncovered: int
    """What no lease covers: booked as a fact is."""
    exact: Decimal
    spec: BalanceSpec
    value: str = ""


class CostCharge(NamedTuple):
    """What one rate card makes of the event. Amounts at `scale`."""

    feature: str
    rate_card: str
    catalog_revision: int
    unit: str
    scale: int
    amount: int
    """The whole event, rounded."""
    exact: Decimal
    billed: int
    """The part that is billed in arrears, rounded once; 0 when a wallet or an allowance pays."""
    billed_exact: Decimal


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


class Outcome(NamedTuple):
    """What would happen. A refused outcome draws nothing."""

    allowed: bool
    reason: Reason
    findings: tuple[Finding, ...]
    """As in Bill, with those of the balances."""
    draws: tuple[Draw, ...]
    costs: tuple[CostCharge, ...]
    """Also of a refused outcome: what it would have cost."""
    shortfalls: tuple[Shortfall, ...]
    unrated: tuple[Unrated, ...]
    warnings: tuple[str, ...]
