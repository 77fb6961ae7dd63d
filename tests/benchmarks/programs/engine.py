"""How much CPU time a decision takes inside the engine: `python -m tests.benchmarks.programs.engine --seconds 0.5`.

The event, customer and balances of the bench, sixty-four different events in turn. A decision is `bill` (what the
event touches and costs), `decide` (against what may be spent) and `build` (the whole answer). Prints microseconds.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from control_plane.catalog.publish import read_draft
from sidecar.engine.bill import bill
from sidecar.engine.customer import Customer, Subscription, SubscriptionState
from sidecar.engine.decide import decide
from sidecar.engine.decision import Decision, Freshness, Standing, ViewSource, build
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.evaluate import Bill, Fund, Outcome
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceRef, Event
from tests.benchmarks.catalog import PLAN, catalog

EVENTS = 64
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MUCH = 900_000 * 10**9


class Desk:
    """A customer, and what a sidecar would know of its balances."""

    def __init__(self) -> None:
        subscription = Subscription(
            subscription_id="sub",
            plan=PLAN,
            state=SubscriptionState.ACTIVE,
            starts_at=NOW - timedelta(days=40),
            anchor_at=NOW - timedelta(days=40),
            catalog_revision=1,
        )
        customer = Customer(customer_id="cus", exists=True, subscriptions=(subscription,))
        document = read_draft(catalog().encode()).catalog
        self.entitlements: Entitlements = resolve(customer, {1: document}, 1, NOW)
        self.events = [self._event(number) for number in range(EVENTS)]
        self.bills = [self.bill(event) for event in self.events]
        charges = self.bills[0].charges
        self.funds: dict[BalanceRef, Fund] = {charge.ref: Fund(MUCH, 0) for charge in charges}
        self.standings = {
            charge.ref: Standing(MUCH, 17, resets_at=NOW, next_expiry_at=NOW) for charge in charges
        }
        self.freshness = Freshness(7, NOW, timedelta(milliseconds=412), ViewSource.LIVE)
        self.outcomes = [decide(found, self.funds) for found in self.bills]
        assert all(self.decision(event).allowed for event in self.events)

    def _event(self, number: int) -> Event:
        measures = {"input_tokens": Decimal(412 + number), "output_tokens": Decimal(1083)}
        return Event("llm_inference", NOW, "cus", measures=measures, attributes={"model": "text-gen-v3"})

    def bill(self, event: Event) -> Bill:
        return bill(self.entitlements, event=event, feature="chat")

    def built(self, found: Bill, outcome: Outcome) -> Decision:
        return build(
            bill=found,
            outcome=outcome,
            entitlements=self.entitlements,
            standings=self.standings,
            freshness=self.freshness,
            decision_id="d0123456789abcdef0123",
        )

    def decision(self, event: Event) -> Decision:
        """All of it."""
        found = bill(self.entitlements, event=event, feature="chat")
        return self.built(found, decide(found, self.funds))


def microseconds(work: Callable[[int], object], seconds: float) -> float:
    """CPU time of one call, over so many seconds."""
    calls, began = 0, time.process_time()
    while (used := time.process_time() - began) < seconds:
        for number in range(EVENTS):
            work(number)
        calls += EVENTS
    return used / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    seconds = parser.parse_args().seconds
    desk = Desk()
    works: dict[str, Callable[[int], object]] = {
        "decision": lambda n: desk.decision(desk.events[n]),
        "bill": lambda n: desk.bill(desk.events[n]),
        "decide": lambda n: decide(desk.bills[n], desk.funds),
        "build": lambda n: desk.built(desk.bills[n], desk.outcomes[n]),
    }
    print(json.dumps({name: microseconds(work, seconds) for name, work in works.items()}))


if __name__ == "__main__":
    main()
