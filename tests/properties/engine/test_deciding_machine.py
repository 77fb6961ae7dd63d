"""Random calls against balances of every kind, each decided by the engine, against sums in plain decimals."""

from decimal import Decimal
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidecar.engine.bill import bill
from sidecar.engine.customer import Customer
from sidecar.engine.decide import decide
from sidecar.engine.document import read_catalog
from sidecar.engine.evaluate import Fund, Outcome
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceRef, Event, Reason
from tests.properties.engine.worlds import NOW, subscription

DOCUMENT: Final[dict[str, Any]] = {
    "purser": "catalog/v1",
    "units": {"credit": {"kind": "credit", "scale": 3}},
    "meters": {
        "calls": {"event": "llm", "aggregate": "count"},
        "tokens": {"event": "llm", "aggregate": "sum", "of": ["in", "out"]},
    },
    "rate_cards": {
        "llm": {
            "event": "llm",
            "unit": "credit",
            "prices": [
                {"dimension": "in", "per": 10, "price": "0.1"},
                {"dimension": "out", "per": 10, "price": "0.3"},
            ],
        }
    },
    "features": {
        "hard": {"type": "metered", "meter": "tokens"},
        "soft": {"type": "metered", "meter": "calls"},
        "open": {"type": "metered", "meter": "tokens"},
        "paid": {"type": "metered", "event": "llm", "rate_card": "llm"},
    },
    "plans": {
        "one": {
            "entitlements": {
                "hard": {
                    "limit": 500,
                    "every": "P1M",
                    "rate": [{"meter": "calls", "limit": 4, "per": "PT1M"}],
                },
                "soft": {"limit": 6, "every": "P1M", "overage": {"allow_up_to": 3}},
                "open": {"limit": 100, "every": "P1M", "overage": "allow"},
                "paid": {"spends": "credit"},
            },
            "budgets": [{"name": "cap", "unit": "credit", "limit": 8, "every": "P1D"}],
        }
    },
}
ENTITLEMENTS: Final = resolve(
    Customer(customer_id="c", subscriptions=(subscription(1, "one"),)), {1: read_catalog(DOCUMENT)}, 1, NOW
)
HARD, SOFT, OPEN = "allowance:hard", "allowance:soft", "allowance:open"
WALLET, CAP, RATE = "wallet:credit", "budget:cap", "rate:hard/calls/PT1M"
SCALES: Final = {HARD: 6, SOFT: 0, OPEN: 6, WALLET: 3, CAP: 3, RATE: 0}
REFUSALS: Final = {
    HARD: Reason.LIMIT_REACHED,
    SOFT: Reason.LIMIT_REACHED,
    WALLET: Reason.INSUFFICIENT_CREDITS,
    CAP: Reason.BUDGET_EXCEEDED,
    RATE: Reason.RATE_LIMITED,
}
"""What it is when one of these is short. `open` never is."""

tokens = st.integers(0, 120)


class DecidingMachine(RuleBasedStateMachine):
    """A shell that keeps funds as the engine draws on them, and a model that keeps what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.left = {HARD: Decimal(500), SOFT: Decimal(9), OPEN: Decimal(100), RATE: Decimal(4)}
        self.left |= {WALLET: Decimal(5), CAP: Decimal(8)}
        self.over = {name: Decimal(0) for name in SCALES}
        """What was used beyond all of that."""
        self.funds = {BalanceRef("c", "", name): self._fund(name) for name in SCALES}
        self.uncovered = dict.fromkeys(SCALES, 0)
        self.held: list[tuple[dict[str, Decimal], Outcome]] = []

    def _fund(self, name: str) -> Fund:
        beyond = 3 if name == SOFT else 0
        return Fund(int(self.left[name] * 10 ** SCALES[name]) - beyond, beyond)

    @staticmethod
    def asked(used: tuple[int, int]) -> dict[str, Decimal]:
        """What a call takes of each balance, reckoned by hand."""
        whole = Decimal(sum(used))
        cost = Decimal(used[0]) * Decimal("0.01") + Decimal(used[1]) * Decimal("0.03")
        return {HARD: whole, SOFT: Decimal(1), OPEN: whole, WALLET: cost, CAP: cost, RATE: Decimal(1)}

    def decided(self, used: tuple[int, int], *, fact: bool = False) -> Outcome:
        """What the engine says."""
        measures = {"in": Decimal(used[0]), "out": Decimal(used[1])}
        event = Event(event_name="llm", occurred_at=NOW, customer_id="c", measures=measures)
        return decide(bill(ENTITLEMENTS, event=event), self.funds, fact=fact)

    def drawn(self, outcome: Outcome, sign: int = 1) -> None:
        """The funds after it; with -1 after it was given back."""
        for draw in outcome.draws:
            fund = self.funds[draw.ref]
            self.funds[draw.ref] = Fund(fund.within - sign * draw.within, fund.beyond - sign * draw.beyond)
            self.uncovered[draw.ref.balance] += sign * draw.uncovered

    def takes(self, asked: dict[str, Decimal], sign: int = 1) -> None:
        """The model after it."""
        for name, amount in asked.items():
            part = min(amount, self.left[name]) if sign > 0 else amount
            self.left[name] -= sign * part
            self.over[name] += amount - part if sign > 0 else Decimal(0)

    @rule(used=st.tuples(tokens, tokens))
    def consume(self, used: tuple[int, int]) -> None:
        """All balances or none; refused for the first reason of those that hold."""
        asked, outcome = self.asked(used), self.decided(used)
        short = [name for name in REFUSALS if asked[name] > self.left[name]]
        assert outcome.allowed == (not short), (short, outcome)
        if short:
            assert outcome.draws == ()
            assert outcome.reason is min(REFUSALS[name] for name in short)
            said = {item.ref.balance: item.missing for item in outcome.shortfalls if item.refuses}
            assert said == {name: (asked[name] - self.left[name]) * 10 ** SCALES[name] for name in short}, (
                "what is missing is said to the last digit"
            )
            return
        self.drawn(outcome)
        self.takes(asked)

    @rule(used=st.tuples(tokens, tokens))
    def fact(self, used: tuple[int, int]) -> None:
        """It has happened: it takes what there is, and the rest is overage. A rate is for what may yet be slowed."""
        outcome = self.decided(used, fact=True)
        assert outcome.allowed
        self.drawn(outcome)
        self.takes(self.asked(used) | {RATE: Decimal(0)})

    @rule(used=st.tuples(tokens, tokens))
    def reserve(self, used: tuple[int, int]) -> None:
        """A hold is a consume that may be given back; what leaves `open` uncovered is none of its business."""
        asked = self.asked(used)
        if any(asked[name] > self.left[name] for name in SCALES):
            return
        outcome = self.decided(used)
        assert outcome.allowed
        self.drawn(outcome)
        self.takes(asked)
        self.held.append((asked, outcome))

    @rule(pick=st.integers(0, 9))
    def release(self, pick: int) -> None:
        """It was not used: everything is as if it had never been held."""
        if self.held:
            asked, outcome = self.held.pop(pick % len(self.held))
            self.drawn(outcome, -1)
            self.takes(asked, -1)

    @rule(name=st.sampled_from([WALLET, RATE, CAP]), amount=st.integers(1, 4))
    def top_up(self, name: str, amount: int) -> None:
        """More credit, another minute, another day."""
        self.left[name] += amount
        ref = BalanceRef("c", "", name)
        self.funds[ref] = Fund(self.funds[ref].within + amount * 10 ** SCALES[name], 0)

    @invariant()
    def the_engine_draws_what_the_sums_say(self) -> None:
        """Of each balance there is left what was there less what was used, to the last digit, and never less than 0."""
        for name, scale in SCALES.items():
            fund = self.funds[BalanceRef("c", "", name)]
            assert min(fund.within, fund.beyond) >= 0, name
            assert fund.within + fund.beyond == self.left[name] * 10**scale, name
            assert self.uncovered[name] == self.over[name] * 10**scale, name


DecidingMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, derandomize=True
)
TestDeciding = DecidingMachine.TestCase
TestDeciding.__doc__ = (
    "Whatever is asked in whatever order, the engine takes what plain sums take, all or none."
)
