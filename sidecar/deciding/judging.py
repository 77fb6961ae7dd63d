"""From who asks and what for to a bill, with the trouble policies' word in it; and from there to what is spent."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from sidecar.deciding.errors import Malformed, Violation
from sidecar.deciding.party import Party
from sidecar.deciding.spending import Spent, Till
from sidecar.deciding.trouble import FRESH, Strangers, staleness
from sidecar.deciding.uniques import Uniques
from sidecar.engine.bill import NoMeter, bill
from sidecar.engine.catalog import OnUnknownCustomer
from sidecar.engine.decide import decide
from sidecar.engine.decision import Freshness, ViewSource
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.evaluate import Bill, Charge, FeatureBill
from sidecar.engine.rating import PartExceedsWhole
from sidecar.engine.values import ZERO, AmountOutOfRange, BalanceKind, Event, Finding, Reason
from sidecar.runtime.clock import Clock
from sidecar.view.memory import View

_STRANGERS = frozenset({Reason.CUSTOMER_NOT_FOUND, Reason.CONTROL_PLANE_UNREACHABLE})


class Judged(NamedTuple):
    """A bill, and what it rests on."""

    bill: Bill
    party: Party
    entitlements: Entitlements | None
    """The party's, or a guest's by the default plan. None: there are none."""
    event: Event | None
    freshness: Freshness
    is_guest: bool = False
    is_fact: bool = False
    """True: what is allowed is recorded as a fact, because nobody here knows the customer's balances."""
    is_fallback: bool = False
    """True: when it is allowed, a trouble policy has allowed it."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Makes bills. Thread-safe."""

    view: View
    till: Till
    strangers: Strangers
    uniques: Uniques
    clock: Clock

    def event(
        self,
        party: Party,
        event: Event,
        *,
        feature: str,
        explain: bool,
        max_staleness: timedelta | None = None,
        at: str = "event",
    ) -> Judged:
        """What an event touches. Raises Malformed; `at`: where the event stands in the request."""
        return self._judge(
            party,
            feature,
            event.event_name,
            lambda entitlements: bill(entitlements, event=event, feature=feature, explain=explain),
            event=event,
            explain=explain,
            max_staleness=max_staleness,
            at=at,
        )

    def quantity(
        self,
        party: Party,
        quantity: Decimal | None,
        *,
        feature: str,
        explain: bool,
        max_staleness: timedelta | None = None,
    ) -> Judged:
        """What a quantity of the feature's meter touches; None: whatever the least use is. Raises Malformed."""
        return self._judge(
            party,
            feature,
            "",
            lambda entitlements: bill(
                entitlements,
                feature=feature,
                quantity=quantity,
                subject_id=party.subject_id,
                explain=explain,
            ),
            event=None,
            explain=explain,
            max_staleness=max_staleness,
            at="quantity",
        )

    def look(self, judged: Judged, at: datetime) -> Spent:
        """What would be decided at `at`, which is now: takes nothing, waits for nothing."""
        if judged.is_guest:
            return self._named(judged, Spent(self.till.guest(judged.bill, look=True).outcome))
        return self._named(judged, self.till.look(judged.bill, at))

    def spend(self, judged: Judged, deadline: float) -> Spent:
        """Decides and takes. `deadline`: monotonic seconds for leasing."""
        if judged.is_guest:
            return self._named(judged, self.till.guest(judged.bill, look=False))
        if judged.bill.refused is not Reason.OK or judged.event is None or not judged.bill.features:
            return self._named(judged, Spent(decide(judged.bill, {})))
        return self._named(judged, self.till.spend(judged.bill, judged.event, deadline))

    def fresh_charges(self, found: Bill) -> Bill:
        """Values that were counted in their period already cost nothing."""
        for charge in found.charges:
            if charge.value and charge.spec.kind is not BalanceKind.GAUGE:
                return replace(found, features=tuple(self._without_counted(line) for line in found.features))
        return found

    def _judge(
        self,
        party: Party,
        feature: str,
        event_name: str,
        make: Callable[[Entitlements], Bill],
        *,
        event: Event | None,
        explain: bool,
        max_staleness: timedelta | None,
        at: str,
    ) -> Judged:
        freshness = self.view.freshness(party.customer_id, party.subject_id, self.clock.monotonic())
        if party.entitlements is None:
            return self._stranger(
                party, feature, event_name, make, event=event, freshness=freshness, explain=explain, at=at
            )
        found = self.fresh_charges(billed(make, party.entitlements, at))
        touched = [line.entitlement for line in found.features]
        if found.entitlement is not None and found.entitlement not in touched:
            touched.append(found.entitlement)
        stale = staleness(touched, freshness, max_staleness)
        if stale is not FRESH:
            findings = (*found.findings, *stale.findings)
            refused = min((f.reason for f in findings if f.reason.refuses), default=Reason.OK)
            found = replace(found, findings=findings, refused=refused)
        is_fallback = stale is not FRESH and not stale.refuses
        return Judged(found, party, party.entitlements, event, freshness, is_fallback=is_fallback)

    def _stranger(
        self,
        party: Party,
        feature: str,
        event_name: str,
        make: Callable[[Entitlements], Bill],
        *,
        event: Event | None,
        freshness: Freshness,
        explain: bool,
        at: str,
    ) -> Judged:
        step = (
            "trouble"
            if party.refusal in {Reason.CONTROL_PLANE_UNREACHABLE, Reason.VIEW_TOO_OLD}
            else "customer"
        )
        why = Finding(step, "", party.message, party.refusal)
        policy = OnUnknownCustomer.DENY
        if party.refusal in _STRANGERS:
            policy = self.strangers.policy(feature, event_name)
        if party.refusal is Reason.CONTROL_PLANE_UNREACHABLE:
            freshness = replace(freshness, source=ViewSource.FALLBACK)
        if policy is OnUnknownCustomer.DEFAULT_PLAN:
            guest = self.strangers.guest(party.customer_id, self.till.now())
            if guest is not None:
                found = billed(make, guest, at)
                said = Finding(
                    "trouble",
                    feature,
                    f"{party.message}; on_unknown_customer: default_plan",
                    Reason.OK_FALLBACK,
                )
                found = replace(found, findings=(said, *found.findings))
                return Judged(
                    found, party, guest, event, freshness, is_guest=True, is_fact=True, is_fallback=True
                )
            policy = OnUnknownCustomer.DENY
        if policy is OnUnknownCustomer.ALLOW:
            said = Finding(
                "trouble", feature, f"{party.message}; on_unknown_customer: allow", Reason.OK_FALLBACK
            )
            found = _bare(feature, said, Reason.OK, explain=explain)
            return Judged(found, party, None, event, freshness, is_fact=True, is_fallback=True)
        return Judged(_bare(feature, why, why.reason, explain=explain), party, None, event, freshness)

    def _named(self, judged: Judged, spent: Spent) -> Spent:
        outcome = spent.outcome
        if judged.is_fallback and outcome.allowed:
            return spent._replace(outcome=replace(outcome, reason=Reason.OK_FALLBACK), is_fallback=True)
        return spent

    def _without_counted(self, line: FeatureBill) -> FeatureBill:
        def fresh(charge: Charge) -> Charge:
            if charge.value and not self.uniques.is_new(
                charge.ref, self.till.period_start(charge.spec), charge.value
            ):
                return replace(charge, quantity=0, exact=ZERO)
            return charge

        return replace(
            line,
            allowances=tuple(fresh(charge) for charge in line.allowances),
            rates=tuple(fresh(charge) for charge in line.rates),
        )


def _bare(feature: str, finding: Finding, refused: Reason, *, explain: bool) -> Bill:
    return Bill(
        features=(),
        named=feature,
        entitlement=None,
        budgets=(),
        unrated=(),
        findings=(finding,),
        refused=refused,
        refs=(),
        warnings=(),
        explain=explain,
        probe=False,
    )


def billed(make: Callable[[Entitlements], Bill], entitlements: Entitlements, at: str) -> Bill:
    """The bill; what only the catalog can tell is malformed becomes `Malformed`. `at`: where the event stands in the
    request.
    """
    try:
        return make(entitlements)
    except (AmountOutOfRange, NoMeter, PartExceedsWhole) as error:
        raise Malformed([blamed(error, at)]) from error


def blamed(error: AmountOutOfRange | NoMeter | PartExceedsWhole, at: str) -> Violation:
    """What is wrong with the event, or the quantity, that stands there."""
    if isinstance(error, PartExceedsWhole):
        return Violation(f'{at}.measures["{error.part}"]', str(error))
    if isinstance(error, NoMeter) or at == "quantity":
        return Violation("quantity", str(error))
    return Violation(f"{at}.measures", str(error))
