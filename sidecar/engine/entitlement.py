"""What a customer may do, compiled once while it is in use: standing, features, balances, what events touch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sidecar.engine.catalog import (
    Aggregate,
    BalanceScope,
    Catalog,
    ConfigValue,
    Feature,
    FeatureType,
    Meter,
    OveragePolicy,
    RateCard,
    Trouble,
)
from sidecar.engine.periods import Period, Span
from sidecar.engine.values import ZERO, BalanceKind, BalanceRef, Reason

MICRO = 1_000_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSpec:
    """One balance that a customer has by its plans. Amounts are integers at `scale`."""

    name: str
    """`wallet:usd`, `allowance:chat`, `budget:NAME`, `rate:chat/requests/PT1M`, `gauge:seats`."""
    kind: BalanceKind
    unit: str
    """A unit of the catalog or a meter's name; `holders` for a gauge."""
    scale: int
    limit: int | None = None
    """What plans give per period, a rate per span, a gauge's most. None: unlimited; for a wallet: its grants say."""
    period: Period | None = None
    """None: never starts anew."""
    scope: BalanceScope = BalanceScope.CUSTOMER
    overage: OveragePolicy = OveragePolicy.DENY
    cap: int = 0
    """For ALLOW_UP_TO: so much beyond the limit."""
    charge: str = ""
    """The rate card that bills what lies beyond; empty: forgiven."""
    meter: Meter | None = None
    """Allowances and rates."""
    per: Span | None = None
    """Rates: the span that `limit` is for; without calendar months."""
    burst: int = 0
    """Rates: the most that the bucket holds."""
    feature: str = ""
    """The feature it belongs to; empty for wallets and budgets."""
    sources: tuple[str, ...] = ()
    """`plan pro@12`, `add_on pack_50@12`."""
    unlimited: bool = field(init=False, repr=False, compare=False)
    """True: nothing to lease and nothing to run out. A wallet never is, and a gauge's holders are always booked."""
    decided_remotely: bool = field(init=False, repr=False, compare=False)
    """True: only the control plane can decide it (gauges, `max`, `latest`); its fund is that verdict."""

    def __post_init__(self) -> None:
        """Finds out once what every call asks."""
        kind, meter = self.kind, self.meter
        unlimited = self.limit is None and kind not in {BalanceKind.WALLET, BalanceKind.GAUGE}
        remotely = kind is BalanceKind.GAUGE or (
            meter is not None
            and kind is BalanceKind.ALLOWANCE
            and meter.aggregate in {Aggregate.MAX, Aggregate.LATEST}
        )
        object.__setattr__(self, "unlimited", unlimited)
        object.__setattr__(self, "decided_remotely", remotely)

    def ref(self, customer_id: str, subject_id: str, parent_id: str) -> BalanceRef | None:
        """Whose balance an event touches. None: a subject's without subject, or a parent's where there is none."""
        if self.scope is BalanceScope.CUSTOMER:
            return BalanceRef(customer_id, "", self.name)
        if self.scope is BalanceScope.SUBJECT:
            return BalanceRef(customer_id, subject_id, self.name) if subject_id else None
        return BalanceRef(parent_id, "", self.name) if parent_id else None

    @property
    def micro_per_second(self) -> int:
        """Rates: refill per second at scale, times 1,000,000, rounded down: never above the plan's rate."""
        assert self.per is not None, "only a rate refills"
        assert self.limit is not None, "a rate has a limit"
        return self.limit * MICRO * MICRO // (self.per.time // _MICROSECOND)


@dataclass(frozen=True, slots=True)
class Pricing:
    """By which card an event is priced for a customer, and from which revision the card was read."""

    card: RateCard
    catalog_revision: int
    discount_percent: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Requires:
    """A compiled requirement: the event's attribute must be in `allowed`, or its measure at most `at_most`."""

    attribute: str
    measure: str
    config: str
    allowed: frozenset[str] | None
    at_most: Decimal | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEntitlement:
    """A customer's right to one feature, from all its sources."""

    feature: Feature
    value: ConfigValue = None
    """A switch's bool, or a config's value; None for others."""
    sources: tuple[str, ...] = ()
    allowances: tuple[BalanceSpec, ...] = ()
    """Used one after the other; empty: nothing is counted."""
    rates: tuple[BalanceSpec, ...] = ()
    gauge: BalanceSpec | None = None
    pricing: Pricing | None = None
    """The card that prices an event for this feature, whoever pays; None: it has no price."""
    wallet: BalanceSpec | None = None
    """Pays what allowances do not cover."""
    bills: bool = False
    """True: what allowances do not cover is billed in arrears."""
    requires: tuple[Requires, ...] = ()

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.feature.name

    @property
    def type(self) -> FeatureType:
        """The feature's type."""
        return self.feature.type

    @property
    def trouble(self) -> Trouble:
        """What holds when the view is old or the control plane away."""
        return self.feature.trouble

    @property
    def balances(self) -> tuple[BalanceSpec, ...]:
        """Every balance that a use of it touches, budgets aside."""
        single = tuple(spec for spec in (self.wallet, self.gauge) if spec is not None)
        return (*self.allowances, *single, *self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSpec:
    """A wallet grant of a subscription; the control plane makes its occurrences. Amounts at the unit's scale."""

    key: str
    """Stable: subscription, source and position; with an occurrence's beginning it names the occurrence."""
    subscription_id: str
    source: str
    balance: str
    unit: str
    scale: int
    amount: int
    period: Period | None
    """None: once, at `starts_at`."""
    starts_at: datetime
    ends_at: datetime | None
    """No occurrence begins at or after it."""
    expires_after: Span | None
    rollover_max: int
    rollover_min: int
    priority: int
    scope: frozenset[str]
    cost_basis: Decimal
    refund: str


@dataclass(frozen=True, slots=True)
class FeatureProgram:
    """What events of one name mean for one feature: balances, each with its meter's place in `EventProgram.meters`."""

    entitlement: FeatureEntitlement
    allowances: tuple[tuple[BalanceSpec, BalanceRef, int], ...]
    rates: tuple[tuple[BalanceSpec, BalanceRef, int], ...]
    pricing: Pricing | None
    wallet: tuple[BalanceSpec, BalanceRef] | None
    meter: int
    """The position of the feature's own meter; -1: it has none for this event."""


@dataclass(frozen=True, slots=True)
class EventProgram:
    """Everything that events of one name touch."""

    meters: tuple[Meter, ...]
    features: tuple[FeatureProgram, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """A customer's rights at an instant; holds until `valid_until`, if its state does not change before."""

    customer_id: str
    parent_id: str
    standing: Reason
    """OK, or why nothing is allowed."""
    catalog: Catalog
    """The current one: what tells FEATURE_NOT_FOUND from NOT_ENTITLED, and what could be bought."""
    catalog_revision: int
    features: Mapping[str, FeatureEntitlement] = field(default_factory=dict)
    by_event: Mapping[str, EventProgram] = field(default_factory=dict)
    budgets: tuple[BalanceSpec, ...] = ()
    wallets: Mapping[str, BalanceSpec] = field(default_factory=dict)
    """By unit: every unit that is spent or granted."""
    balances: Mapping[str, BalanceSpec] = field(default_factory=dict)
    """By name: every balance of all features, with budgets and wallets."""
    grants: tuple[GrantSpec, ...] = ()
    valid_until: datetime | None = None
    """The next instant at which time alone would change this. None: never."""
    warnings: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    """Plans in force, for upgrade options."""
    add_ons: tuple[str, ...] = ()

    @property
    def catalog_features(self) -> Mapping[str, Feature]:
        """Every feature of the current catalog, by name."""
        return self.catalog.features
