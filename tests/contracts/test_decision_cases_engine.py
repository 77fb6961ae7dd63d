"""The decision cases, evaluated by the engine alone, with books that start full."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidecar.engine.bill import bill
from sidecar.engine.customer import Customer, PastDuePolicy, Subscription, SubscriptionState
from sidecar.engine.decide import decide
from sidecar.engine.decision import Decision, Freshness, Standing, ViewSource, build
from sidecar.engine.document import read_catalog
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.evaluate import Bill, Fund, Outcome
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceKind, BalanceRef, Event, format_scaled, parse_decimal
from tests.contracts.decision_cases import case_files, catalog_document, read_yaml

REVISION = 12


class Books:
    """One customer's balances, which start full; what a consume draws is gone."""

    def __init__(self, entitlements: Entitlements) -> None:
        self.entitlements = entitlements
        self.left: dict[BalanceRef, int] = {}

    def full(self, spec: BalanceSpec) -> int:
        """What a balance holds before anything is used."""
        if spec.kind is BalanceKind.WALLET:
            return sum(grant.amount for grant in self.entitlements.grants if grant.balance == spec.name)
        if spec.kind is BalanceKind.RATE:
            return spec.burst
        return (spec.limit or 0) + spec.cap

    def funds(self, asked: Bill) -> dict[BalanceRef, Fund]:
        """What may be spent; a soft limit's cap is what comes last."""
        found = {}
        for charge in asked.charges:
            left = self.left.setdefault(charge.ref, self.full(charge.spec))
            beyond = min(left, charge.spec.cap)
            found[charge.ref] = Fund(left - beyond, beyond)
        return found

    def take(self, outcome: Outcome) -> None:
        """Spends what was drawn."""
        for draw in outcome.draws:
            self.left[draw.ref] -= draw.within + draw.beyond

    def standings(self, asked: Bill) -> dict[BalanceRef, Standing]:
        """How the balances stand."""
        found = {}
        for charge in asked.charges:
            spec, left = charge.spec, self.left.get(charge.ref, 0)
            whole = self.full(spec)
            limit = whole if spec.kind is BalanceKind.WALLET else spec.limit
            found[charge.ref] = Standing(limit, whole - left)
        return found


def customer_of(customer_id: str, said: Mapping[str, Any], at: datetime) -> Customer:
    """The customer that a case describes."""

    def ago(key: str) -> datetime | None:
        return at - timedelta(days=said[key]) if key in said else None

    subscriptions: tuple[Subscription, ...] = ()
    if "plan" in said:
        began = at - timedelta(days=said.get("began_days_ago", 9))
        policy = PastDuePolicy.parse(said["on_past_due"]) if "on_past_due" in said else None
        one = Subscription(
            subscription_id=f"sub_{customer_id}",
            plan=said["plan"],
            catalog_revision=REVISION,
            state=SubscriptionState(said.get("state", "active")),
            starts_at=began,
            anchor_at=began,
            trial_ends_at=ago("trial_ended_days_ago"),
            past_due_since=ago("past_due_days_ago"),
            on_past_due=policy,
            add_ons=tuple(said.get("add_ons", ())),
        )
        subscriptions = (one,)
    return Customer(
        customer_id=customer_id,
        exists=said.get("exists", True),
        suspended=said.get("suspended", False),
        subscriptions=subscriptions,
    )


def event_of(customer_id: str, said: Mapping[str, Any], at: datetime) -> Event:
    """The event that a step describes."""
    return Event(
        event_name=said["event_name"],
        occurred_at=at,
        customer_id=customer_id,
        subject_id=said.get("subject_id", ""),
        measures={name: parse_decimal(value) for name, value in said["measures"].items()},
        attributes=said["attributes"],
    )


def seen(decision: Decision, outcome: Outcome, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Of a decision what a step expects something of."""
    value = decision.value
    if isinstance(value, frozenset):
        value = sorted(value)  # type: ignore[assignment]
    found: dict[str, Any] = {
        "allowed": decision.allowed,
        "reason": decision.reason.name,
        "value": str(value) if isinstance(value, Decimal) else value,
        "cost": decision.cost and format_scaled(decision.cost.value, decision.cost.scale),
        "billed": format_scaled(sum(c.billed for c in outcome.costs), 9) if outcome.costs else None,
        "shortfall": decision.shortfall and format_scaled(decision.shortfall.value, decision.shortfall.scale),
        "warnings": list(decision.warnings),
        "upgrade_options": list(decision.upgrade_options),
        "remaining": {
            state.balance: format_scaled(state.remaining or 0, state.scale)
            for state in decision.balances
            if state.balance in expected.get("remaining", {})
        },
    }
    return {key: found[key] for key in expected}


@pytest.mark.parametrize("path", case_files(), ids=lambda path: path.stem)
def test_cases_by_the_engine(path: Path) -> None:
    """Every step of a file gets the answer that it expects, explained or not."""
    case = read_yaml(path)
    at: datetime = case["at"]
    catalog = read_catalog(catalog_document(case))
    books = {
        name: Books(resolve(customer_of(name, said, at), {REVISION: catalog}, REVISION, at))
        for name, said in case["customers"].items()
    }
    for number, step in enumerate(case["steps"]):
        name = step.get("consume") or step["check"]
        book = books[name]
        event = event_of(name, step["event"], at) if "event" in step else None
        quantity = parse_decimal(step["quantity"]) if "quantity" in step else None
        explain = number % 2 == 0
        asked = bill(
            book.entitlements,
            event=event,
            feature=step.get("feature", ""),
            quantity=quantity,
            explain=explain,
        )
        outcome = decide(asked, book.funds(asked))
        if "consume" in step:
            book.take(outcome)
        decision = build(
            bill=asked,
            outcome=outcome,
            entitlements=book.entitlements,
            standings=book.standings(asked),
            freshness=Freshness(REVISION, at, timedelta(0), ViewSource.LIVE),
            decision_id=f"{path.stem}-{number}",
        )
        assert seen(decision, outcome, step["expect"]) == step["expect"], (
            f"step {number}: {step.get('about', step)}"
        )
        assert bool(decision.explanation) == explain
