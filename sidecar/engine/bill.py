"""What a request would touch: every entitled feature its event matches, their balances, and what stands in the way."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sidecar.engine.catalog import Aggregate, FeatureType, Meter, events_of
from sidecar.engine.entitlement import (
    BalanceSpec,
    Entitlements,
    EventProgram,
    FeatureEntitlement,
    FeatureProgram,
)
from sidecar.engine.evaluate import Bill, Charge, FeatureBill, Unrated
from sidecar.engine.metering import exact_quantity, matches, unique_value
from sidecar.engine.rate_card import Unknown
from sidecar.engine.rating import Rated, rate
from sidecar.engine.reading.node import did_you_mean
from sidecar.engine.values import (
    EXACT,
    MAX_AMOUNT,
    ONE,
    ZERO,
    AmountOutOfRange,
    BalanceRef,
    Event,
    Finding,
    GaugeChange,
    Reason,
    format_decimal,
    format_scaled,
    from_scaled,
    to_scaled,
)

QUANTITY: Final = "quantity"
"""The measure of a gauge event: how much the holder holds."""
NOTHING_MEASURED: Final = "NOTHING_MEASURED"
"""A warning: what the event says of itself is nothing that the feature named after it is priced or metered by."""
_SMALLEST: Final = 1


class NoMeter(ValueError):
    """A quantity was asked of a feature that has no meter of its own: only an event says what that would be."""

    def __init__(self, feature: str) -> None:
        super().__init__(f"{feature} has no meter that a quantity could count in; ask with an event")
        self.feature = feature


def bill(
    entitlements: Entitlements,
    *,
    event: Event | None = None,
    feature: str = "",
    quantity: Decimal | None = None,
    subject_id: str = "",
    explain: bool = False,
) -> Bill:
    """What an event, a quantity of `feature`'s meter, or neither would touch; `feature` is required without an event.

    Raises NoMeter, PartExceedsWhole, AmountOutOfRange: the request is malformed.
    """
    assert event is not None or feature, "a check names a feature or has an event"
    findings: list[Finding] = []
    unrated: list[Unrated] = []
    warnings: list[str] = []
    lines: tuple[FeatureBill, ...] = ()
    probe = False
    if entitlements.standing is not Reason.OK or explain:
        findings.append(_standing(entitlements))
    if event is not None and not feature:
        feature = event.gauge_feature
    named = entitlements.features.get(feature) if feature else None
    if feature and named is None:
        findings.append(_missing(entitlements, feature, explain=explain))
    elif named is not None and explain:
        findings.append(_entitled(named))
    if event is not None:
        subject_id = event.subject_id
        if event.gauge_change is not GaugeChange.NONE:
            lines = _gauge_event(entitlements, named, event, findings)
        else:
            lines = _event(entitlements, named, event, _Told(findings, unrated, warnings, explain))
    elif named is not None:
        lines, probe = _quantity(entitlements, named, quantity, findings)
    if len(lines) > 1:
        _check_costs(lines)
    budgets = _budgets(entitlements, lines, subject_id, probe) if entitlements.budgets else ()
    # By position: naming eleven fields would cost a switch's check a tenth of its time.
    return Bill(
        lines,
        feature,
        named,
        budgets,
        tuple(unrated),
        tuple(findings),
        _first_refusal(findings) if findings else Reason.OK,
        _refs(lines, budgets) if lines else (),
        (*entitlements.warnings, *warnings) if warnings else entitlements.warnings,
        explain,
        probe,
    )


def _first_refusal(findings: list[Finding]) -> Reason:
    return min((finding.reason for finding in findings if finding.reason.refuses), default=Reason.OK)


def _refs(lines: Iterable[FeatureBill], budgets: tuple[Charge, ...]) -> tuple[BalanceRef, ...]:
    found: dict[BalanceRef, None] = {}
    for line in lines:
        for charge in line.allowances:
            if not charge.spec.unlimited:
                found[charge.ref] = None
        if line.wallet is not None:
            found[line.wallet.ref] = None
        if line.gauge is not None:
            found[line.gauge.ref] = None
        for charge in line.rates:
            found[charge.ref] = None
    for charge in budgets:
        found[charge.ref] = None
    return tuple(found)


def _standing(entitlements: Entitlements) -> Finding:
    reason = entitlements.standing
    about = "customer" if reason in {Reason.CUSTOMER_NOT_FOUND, Reason.CUSTOMER_SUSPENDED} else "subscription"
    said = (
        f"on {', '.join(entitlements.plans)}" if reason is Reason.OK else _STANDINGS.get(reason, reason.name)
    )
    return Finding(about, "", said, reason)


_STANDINGS: Final = {
    Reason.CUSTOMER_NOT_FOUND: "there is no such customer",
    Reason.CUSTOMER_SUSPENDED: "the customer is suspended",
    Reason.NO_ACTIVE_SUBSCRIPTION: "no subscription is in force",
    Reason.PAYMENT_PAST_DUE: "the subscription is past due, and its plan does not go on",
    Reason.TRIAL_ENDED: "the trial is over",
}


def _missing(entitlements: Entitlements, feature: str, *, explain: bool = False) -> Finding:
    if feature in entitlements.catalog_features:
        return Finding(
            "entitlement", feature, "no plan or add-on of the customer holds it", Reason.NOT_ENTITLED
        )
    said = "the catalog has no such feature"
    if explain:  # to look for the nearest name takes longer than to decide
        said += f"; {did_you_mean(feature, entitlements.catalog_features)}"
    return Finding("entitlement", feature, said, Reason.FEATURE_NOT_FOUND)


def _entitled(named: FeatureEntitlement) -> Finding:
    return Finding(
        "entitlement", named.name, f"entitled, {named.type.value}", Reason.OK, ", ".join(named.sources)
    )


def _mismatch(feature: str, finding: str) -> Finding:
    return Finding("entitlement", feature, finding, Reason.FEATURE_TYPE_MISMATCH)


# ---- events


@dataclass(init=False, slots=True)
class _Told:
    """What is said of an event beside its charges."""

    findings: Final[list[Finding]]
    unrated: Final[list[Unrated]]
    warnings: Final[list[str]]
    explain: Final[bool]

    def __init__(
        self, findings: list[Finding], unrated: list[Unrated], warnings: list[str], explain: bool
    ) -> None:
        self.findings = findings
        self.unrated = unrated
        self.warnings = warnings
        self.explain = explain


def _event(
    entitlements: Entitlements,
    named: FeatureEntitlement | None,
    event: Event,
    told: _Told,
) -> tuple[FeatureBill, ...]:
    findings = told.findings
    program = entitlements.by_event.get(event.event_name)
    lines: list[FeatureBill] = []
    if program is not None:
        readings = _readings(program, event)
        for part in program.features:
            if not _touched(part, event, readings):
                continue
            if part.entitlement.requires:
                _check_values(part.entitlement, event, findings, explain=told.explain)
            cost = _price(part, event, told)
            if (cost is None or not cost.exact) and _measures_nothing(part, program, event, readings):
                told.warnings.append(f"{NOTHING_MEASURED} {part.entitlement.name}")
            lines.append(_feature(part, event, readings, cost))
    if named is not None:
        if named.type is FeatureType.GAUGE:
            findings.append(_mismatch(named.name, "a gauge changes by a holder, and the event has none"))
        elif named.type is FeatureType.METERED and all(line.entitlement is not named for line in lines):
            findings.append(_mismatch(named.name, _meters(entitlements, named, event.event_name)))
    elif not lines and not any(finding.reason.refuses for finding in findings):
        findings.append(_nothing(entitlements, event))
    return tuple(lines)


def _meters(entitlements: Entitlements, named: FeatureEntitlement, asked: str) -> str:
    known = sorted(events_of(entitlements.catalog, named.feature))
    return f"it meters {', '.join(map(repr, known)) or 'no events'}, not {asked!r}"


def _nothing(entitlements: Entitlements, event: Event) -> Finding:
    """Nobody named a feature and the event is charged to none."""
    for feature in entitlements.catalog_features.values():
        if event.event_name in events_of(entitlements.catalog, feature):
            return _missing(entitlements, feature.name)
    what = f"no feature meters {event.event_name!r}"
    return Finding("entitlement", "", what, Reason.FEATURE_NOT_FOUND)


_Reading = tuple[Decimal, int] | None


def _readings(program: EventProgram, event: Event) -> list[_Reading]:
    found: list[_Reading] = []
    for meter in program.meters:
        if meter.where and not matches(meter, event):
            found.append(None)
        else:
            exact = exact_quantity(meter, event)
            found.append((exact, 1 if exact is ONE and not meter.scale else to_scaled(exact, meter.scale)))
    return found


def _touched(part: FeatureProgram, event: Event, readings: list[_Reading]) -> bool:
    if part.pricing is not None or part.entitlement.feature.event == event.event_name:
        return True
    if part.meter >= 0 and readings[part.meter] is not None:
        return True
    return any(readings[place] is not None for _, _, place in (*part.allowances, *part.rates))


def _feature(part: FeatureProgram, event: Event, readings: list[_Reading], cost: Rated | None) -> FeatureBill:
    entitlement = part.entitlement
    wallet = None
    if part.wallet is not None and cost is not None:
        wallet = Charge(part.wallet[0], part.wallet[1], cost.amount, cost.exact, entitlement.feature.name)
    return FeatureBill(
        entitlement,
        _charges(part.allowances, event, readings, entitlement.feature.name),
        wallet,
        _charges(part.rates, event, readings, entitlement.feature.name),
        None,
        part.pricing,
        cost,
    )


def _charges(
    specs: tuple[tuple[BalanceSpec, BalanceRef, int], ...],
    event: Event,
    readings: list[_Reading],
    feature: str,
) -> tuple[Charge, ...]:
    found: list[Charge] = []
    for spec, ref, place in specs:
        reading = readings[place]
        if reading is not None:
            meter = spec.meter
            value = unique_value(meter, event) if meter and meter.aggregate is Aggregate.UNIQUE else ""
            found.append(Charge(spec, ref, reading[1], reading[0], feature, value))
    return tuple(found)


def _check_values(
    entitlement: FeatureEntitlement, event: Event, findings: list[Finding], *, explain: bool
) -> None:
    for need in entitlement.requires:
        if need.allowed is not None:
            value = event.attributes.get(need.attribute, "")
            fits = value in need.allowed
            said = f"{need.attribute} {value!r} is {'' if fits else 'not '}in {need.config}"
        else:
            assert need.at_most is not None, "a requirement has one of two forms"
            measure = event.measures.get(need.measure, ZERO)
            fits = measure <= need.at_most
            if fits and not explain:
                continue
            limit = f"{need.config} {format_decimal(need.at_most)}"
            said = f"{need.measure} {format_decimal(measure)} is {'at most' if fits else 'above'} {limit}"
        if not fits or explain:
            reason = Reason.OK if fits else Reason.VALUE_NOT_ALLOWED
            findings.append(Finding("requires", entitlement.name, said, reason, need.source))


def _measures_nothing(
    part: FeatureProgram, program: EventProgram, event: Event, readings: list[_Reading]
) -> bool:
    """Does the event have none of the measures that price or meter the feature? Free of charge by a slip, perhaps."""
    reads: set[str] = set()
    if part.pricing is not None:
        reads.update([row.dimension for row in part.pricing.card.rows(event.attributes) or ()])
    for place in (part.meter, *[place for _, _, place in (*part.allowances, *part.rates)]):
        reading = readings[place] if place >= 0 else None
        if reading is not None:
            meter = program.meters[place]
            if meter.aggregate is Aggregate.UNIQUE and reading[0]:
                return False
            reads.update(meter.of)
    return bool(reads) and reads.isdisjoint(event.measures)


def _price(part: FeatureProgram, event: Event, told: _Told) -> Rated | None:
    pricing = part.pricing
    if pricing is None:
        return None
    card = pricing.card
    cost = rate(card, event, pricing.discount_percent, with_lines=told.explain)
    source = f"rate card {card.name}@{pricing.catalog_revision}"
    if isinstance(cost, Rated):
        if told.explain:
            said = explained(cost, card.scale)
            told.findings.append(Finding("rating", card.name, said, Reason.OK, source))
        return cost
    told.unrated.append(Unrated(part.entitlement.name, card.name, pricing.catalog_revision, cost.why))
    denied = card.unknown is Unknown.DENY
    if denied or told.explain:
        told.findings.append(
            Finding("rating", card.name, cost.why, Reason.NO_PRICE if denied else Reason.OK, source)
        )
    return None


def explained(cost: Rated, scale: int) -> str:
    """A cost in digits that can be recomputed by hand."""
    lines = [
        f"{line.dimension} {format_decimal(line.quantity)} ÷ {format_decimal(line.per)} × {format_decimal(line.price)}"
        f" × {format_decimal(line.times)} = {format_decimal(line.amount)}"
        for line in cost.lines
    ]
    return f"{'; '.join(lines) or 'nothing'}: {format_scaled(cost.amount, scale)} {cost.unit}"


# ---- gauges


def _gauge_event(
    entitlements: Entitlements, named: FeatureEntitlement | None, event: Event, findings: list[Finding]
) -> tuple[FeatureBill, ...]:
    """Only the gauge that is named is touched."""
    if named is None:
        if not any(finding.reason.refuses for finding in findings):
            findings.append(_mismatch("", "a gauge event names its gauge"))
        return ()
    if named.gauge is None:
        findings.append(_mismatch(named.name, f"a {named.type.value} has no holders"))
        return ()
    exact = ZERO if event.gauge_change is GaugeChange.REMOVE else event.measures.get(QUANTITY, ONE)
    return (_gauge_line(entitlements, named, named.gauge, exact, event.holder_id),)


def _gauge_line(
    entitlements: Entitlements, named: FeatureEntitlement, spec: BalanceSpec, exact: Decimal, holder: str
) -> FeatureBill:
    ref = BalanceRef(entitlements.customer_id, "", spec.name)
    charge = Charge(spec, ref, to_scaled(exact, spec.scale), exact, named.name, holder)
    return FeatureBill(named, (), None, (), charge, None, None)


# ---- quantities


def _quantity(
    entitlements: Entitlements, named: FeatureEntitlement, quantity: Decimal | None, findings: list[Finding]
) -> tuple[tuple[FeatureBill, ...], bool]:
    """The feature alone, without an event; and whether it is only asked if anything is left at all."""
    kind = named.feature.type
    if kind is FeatureType.SWITCH or kind is FeatureType.CONFIG:
        if quantity is not None:
            findings.append(_mismatch(named.name, f"a {kind.value} has no quantity"))
        return (), False
    if named.gauge is not None:
        return (
            _gauge_line(entitlements, named, named.gauge, ONE if quantity is None else quantity, ""),
        ), False
    own = named.feature.meter
    if not own:
        if quantity is not None:
            raise NoMeter(named.name)
        return (_probe(entitlements, named),), True
    exact = ONE if quantity is None else quantity
    customer = entitlements.customer_id
    return (_counted(customer, named, own, exact),), named.pricing is not None


def _counted(customer_id: str, named: FeatureEntitlement, own: str, exact: Decimal) -> FeatureBill:
    def charge(spec: BalanceSpec) -> Charge:
        amount = exact if _meter(spec).name == own else from_scaled(_least(spec), spec.scale)
        ref = BalanceRef(customer_id, "", spec.name)
        return Charge(spec, ref, to_scaled(amount, spec.scale), amount, named.name)

    return FeatureBill(
        named,
        tuple(charge(spec) for spec in named.allowances),
        _wallet_probe(customer_id, named),
        tuple(charge(spec) for spec in named.rates),
        None,
        named.pricing,
        None,
    )


def _probe(entitlements: Entitlements, named: FeatureEntitlement) -> FeatureBill:
    def charge(spec: BalanceSpec) -> Charge:
        least = _least(spec)
        ref = BalanceRef(entitlements.customer_id, "", spec.name)
        return Charge(spec, ref, least, from_scaled(least, spec.scale), named.name)

    return FeatureBill(
        named,
        tuple(charge(spec) for spec in named.allowances),
        _wallet_probe(entitlements.customer_id, named),
        tuple(charge(spec) for spec in named.rates),
        None,
        named.pricing,
        None,
    )


def _wallet_probe(customer_id: str, named: FeatureEntitlement) -> Charge | None:
    spec = named.wallet
    if spec is None:
        return None
    ref = BalanceRef(customer_id, "", spec.name)
    return Charge(spec, ref, _SMALLEST, from_scaled(_SMALLEST, spec.scale), named.name)


def _least(spec: BalanceSpec) -> int:
    """The least that any use takes: one where things are counted, else the last digit."""
    return 1 if spec.scale == 0 else _SMALLEST


def _meter(spec: BalanceSpec) -> Meter:
    assert spec.meter is not None, "allowances and rates have a meter"
    return spec.meter


# ---- what features cost together


def _check_costs(lines: tuple[FeatureBill, ...]) -> None:
    """Raises AmountOutOfRange where several features, each in bounds, cost too much together."""
    sums: dict[str, int] = {}
    for line in lines:
        if line.cost is not None:
            unit = line.cost.unit
            sums[unit] = sums.get(unit, 0) + line.cost.amount
            if sums[unit] > MAX_AMOUNT:
                raise AmountOutOfRange(f"all features together cost more {unit} than 63 bits hold")


# ---- budgets


def _budgets(
    entitlements: Entitlements, lines: tuple[FeatureBill, ...], subject_id: str, probe: bool
) -> tuple[Charge, ...]:
    """Budgets in the units that are paid from a wallet or billed, each with the most that it can be."""
    most: dict[str, tuple[int, Decimal, str]] = {}
    for line in lines:
        if line.pricing is None or not (line.entitlement.wallet or line.entitlement.bills):
            continue
        unit = line.pricing.card.unit
        amount, exact, feature = most.get(unit, (0, ZERO, line.entitlement.name))
        if line.cost is not None:
            most[unit] = (amount + line.cost.amount, EXACT.add(exact, line.cost.exact), feature)
        elif probe:
            most[unit] = (_SMALLEST, from_scaled(_SMALLEST, line.pricing.card.scale), feature)
    found: list[Charge] = []
    for spec in entitlements.budgets:
        spent = most.get(spec.unit)
        ref = spec.ref(entitlements.customer_id, subject_id, entitlements.parent_id)
        if spent is not None and ref is not None:
            found.append(Charge(spec, ref, spent[0], spent[1], spent[2]))
    return tuple(found)
