"""The typed catalog: what a published revision says. `document.read_catalog` makes it and validates every reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

from sidecar.engine.customer import PastDuePolicy
from sidecar.engine.periods import Span
from sidecar.engine.rate_card import Multiplier, Price, RateCard, Side, Tier, Unknown
from sidecar.engine.values import ZERO


class UnitKind(StrEnum):
    CURRENCY = "currency"
    CREDIT = "credit"


class Aggregate(StrEnum):
    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    UNIQUE = "unique"
    LATEST = "latest"


class FeatureType(StrEnum):
    SWITCH = "switch"
    CONFIG = "config"
    METERED = "metered"
    GAUGE = "gauge"


class ValueType(StrEnum):
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    SET = "set"
    JSON = "json"


class OveragePolicy(StrEnum):
    DENY = "deny"
    ALLOW_UP_TO = "allow_up_to"
    ALLOW = "allow"


class BalanceScope(StrEnum):
    SUBJECT = "subject"
    CUSTOMER = "customer"
    PARENT = "parent"


class Anchor(StrEnum):
    SUBSCRIPTION = "subscription"
    CALENDAR = "calendar"


class OnStale(StrEnum):
    DENY = "deny"
    ALLOW = "allow"


class OnUnknownCustomer(StrEnum):
    DENY = "deny"
    ALLOW = "allow"
    DEFAULT_PLAN = "default_plan"


class OnUnreachable(StrEnum):
    FINISH_LEASE = "finish_lease"
    DENY = "deny"
    ALLOW = "allow"
    ALLOW_UP_TO = "allow_up_to"


class JsonText(str):
    """A config value of type `json`: canonical JSON text, whose numbers are exact."""

    __slots__ = ()


ConfigValue: TypeAlias = bool | Decimal | str | JsonText | frozenset[str] | None

__all__ = [
    "GOES_ON",
    "AddOn",
    "Aggregate",
    "AllowanceTerms",
    "Anchor",
    "BalanceScope",
    "BudgetTerms",
    "Catalog",
    "Commitment",
    "ConfigTerms",
    "ConfigValue",
    "Discount",
    "Feature",
    "FeatureType",
    "GaugeTerms",
    "GrantTerms",
    "JsonText",
    "Meter",
    "MeteredTerms",
    "Multiplier",
    "OnStale",
    "OnUnknownCustomer",
    "OnUnreachable",
    "Overage",
    "OveragePolicy",
    "Partner",
    "Plan",
    "PlanPrice",
    "Price",
    "RateCard",
    "RateTerms",
    "Requirement",
    "Share",
    "Side",
    "SwitchTerms",
    "Terms",
    "Tier",
    "Trouble",
    "Unit",
    "UnitKind",
    "Unknown",
    "ValueType",
    "event_names",
    "events_of",
]

GOES_ON: Final = PastDuePolicy(allow=True)


@dataclass(frozen=True, slots=True)
class Unit:
    """What a wallet counts in: a currency or a credit type, with `scale` digits after the point."""

    name: str
    title: str
    kind: UnitKind
    scale: int


@dataclass(frozen=True, slots=True)
class Meter:
    """How events of one name become a quantity, as an integer at `scale` (6; 0 for count and unique)."""

    name: str
    event: str
    aggregate: Aggregate
    of: tuple[str, ...] = ()
    """Measures that are added up (sum, max, latest); the attribute whose values count (unique); nothing for count."""
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Attribute to the values that count; an event that has another value, or none, is not metered."""
    scale: int = 6


@dataclass(frozen=True, slots=True)
class Requirement:
    """The event's attribute must be `in` a set config, or its measure `at_most` a number config."""

    attribute: str
    """Empty: it is about a measure."""
    measure: str
    config: str
    """The config feature's name."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What holds when the view is old or the control plane away; the defaults are design's."""

    max_staleness: timedelta = timedelta(hours=1)
    on_stale: OnStale = OnStale.DENY
    on_unknown_customer: OnUnknownCustomer = OnUnknownCustomer.DENY
    on_unreachable: OnUnreachable = OnUnreachable.FINISH_LEASE
    unreachable_cap: Decimal = ZERO
    """For ALLOW_UP_TO: so much per sidecar, customer, feature and outage, in the balance's unit."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What is entitled."""

    name: str
    title: str
    type: FeatureType
    value: ValueType | None = None
    """Config only."""
    event: str = ""
    """Metered only; empty: the meter's or the card's."""
    meter: str = ""
    rate_card: str = ""
    requires: tuple[Requirement, ...] = ()
    trouble: Trouble = Trouble()


@dataclass(frozen=True, slots=True)
class Overage:
    """What follows a limit. `charge` names the card that bills what lies beyond; empty: it is forgiven."""

    policy: OveragePolicy = OveragePolicy.DENY
    cap: Decimal = ZERO
    charge: str = ""


@dataclass(frozen=True, slots=True)
class AllowanceTerms:
    """So much of a meter per period. `limit` None: unlimited. `every` None: once, never again."""

    meter: str
    limit: Decimal | None
    every: Span | None
    anchor: Anchor = Anchor.SUBSCRIPTION


@dataclass(frozen=True, slots=True)
class RateTerms:
    """So much of a meter per span, as a token bucket of size `burst`."""

    meter: str
    limit: Decimal
    per: Span
    burst: Decimal


@dataclass(frozen=True, slots=True)
class SwitchTerms:
    on: bool


@dataclass(frozen=True, slots=True)
class ConfigTerms:
    value: ConfigValue


@dataclass(frozen=True, slots=True)
class MeteredTerms:
    """A metered feature's entitlement: what covers it, who pays what is not covered, what follows, how fast."""

    allowance: AllowanceTerms | None = None
    spends: str = ""
    """The unit of the wallet that pays, by the feature's rate card."""
    charge: str = ""
    """The card that bills."""
    overage: Overage = Overage()
    rates: tuple[RateTerms, ...] = ()
    entitled: bool = True
    """False: the plan takes away what its base has."""


@dataclass(frozen=True, slots=True)
class GaugeTerms:
    """The most that may be held in all. `limit` None: unlimited."""

    limit: Decimal | None
    overage: Overage = Overage()


Terms = SwitchTerms | ConfigTerms | MeteredTerms | GaugeTerms


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What a plan or add-on puts into a wallet: once, or every span. Amounts are in the unit."""

    unit: str
    amount: Decimal
    every: Span | None = None
    anchor: Anchor = Anchor.SUBSCRIPTION
    rollover_max: Decimal = ZERO
    rollover_min: Decimal = ZERO
    priority: int = 0
    expires_after: Span | None = None
    scope: frozenset[str] = frozenset()
    """Features that may spend it. Empty: all."""
    cost_basis: Decimal = ZERO
    """What one unit of it was paid for; 0: given."""
    refund: str = "none"
    """`none` or `unused`."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """The most that may be spent of a unit per period. `every` None: in all."""

    name: str
    scope: BalanceScope
    unit: str
    limit: Decimal
    every: Span | None
    anchor: Anchor = Anchor.SUBSCRIPTION
    overage: Overage = Overage()


@dataclass(frozen=True, slots=True)
class PlanPrice:
    """What the plan itself costs; carried for billing. `for_each` names a gauge; its first `included` cost nothing."""

    amount: Decimal
    unit: str
    every: Span | None = None
    for_each: str = ""
    included: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Discount:
    """So many percent off everything that a rate card prices."""

    rate_card: str
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Commitment:
    """A promise to spend; carried for billing."""

    unit: str
    amount: Decimal
    term: Span
    true_up: str = "term_end"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it is meant: what it takes from its `base` is already in it."""

    name: str
    title: str = ""
    custom: bool = False
    base: str = ""
    price: PlanPrice | None = None
    entitlements: Mapping[str, Terms] = field(default_factory=dict)
    grants: tuple[GrantTerms, ...] = ()
    budgets: tuple[BudgetTerms, ...] = ()
    upgrade_to: tuple[str, ...] = ()
    discounts: tuple[Discount, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    on_past_due: PastDuePolicy = GOES_ON
    trial: Span | None = None
    written: frozenset[str] = frozenset()
    """The keys, and `entitlements.NAME`, that stand in this plan's own text and not only in its base's."""


@dataclass(frozen=True, slots=True)
class AddOn:
    """What can be bought beside a plan. `once`: its grants come once, when it is bought."""

    name: str
    title: str = ""
    once: bool = False
    price: PlanPrice | None = None
    entitlements: Mapping[str, Terms] = field(default_factory=dict)
    grants: tuple[GrantTerms, ...] = ()
    budgets: tuple[BudgetTerms, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """What a partner gets; carried for billing."""

    of: str
    percent: Decimal
    settle: Span


@dataclass(frozen=True, slots=True)
class Partner:
    """An ecosystem developer and its apps; carried for later."""

    name: str
    title: str = ""
    apps: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    limits: Mapping[str, AllowanceTerms] = field(default_factory=dict)
    share: Share | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """One revision of everything that is sold. It does not know its own number."""

    units: Mapping[str, Unit] = field(default_factory=dict)
    meters: Mapping[str, Meter] = field(default_factory=dict)
    rate_cards: Mapping[str, RateCard] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    add_ons: Mapping[str, AddOn] = field(default_factory=dict)
    partners: Mapping[str, Partner] = field(default_factory=dict)
    default_plan: str = ""
    """The plan that `on_unknown_customer: default_plan` answers by."""


def events_of(catalog: Catalog, feature: Feature) -> frozenset[str]:
    """The names of events that a feature is metered by."""
    meter, card = catalog.meters.get(feature.meter), catalog.rate_cards.get(feature.rate_card)
    names = (feature.event, meter.event if meter else "", card.event if card else "")
    return frozenset(name for name in names if name)


def event_names(catalog: Catalog) -> frozenset[str]:
    """Every event name that a meter, a rate card or a feature reads; any other is an unknown event."""
    names = {meter.event for meter in catalog.meters.values()}
    names |= {card.event for card in catalog.rate_cards.values()}
    names |= {feature.event for feature in catalog.features.values()}
    return frozenset(names - {""})
