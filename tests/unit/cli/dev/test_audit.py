"""The audit finds each way in which books and callers could differ."""

from decimal import Decimal

import pytest

from clients.cli.dev import catalog_text, oracle
from clients.cli.dev.audit import Account, Audit, audit
from clients.cli.dev.books import Balance, Booked
from clients.cli.dev.heard import Acknowledged, Heard

MEASURES = {"input_tokens": "412", "output_tokens": "1083", "context_window": "8192"}
COST = Decimal("0.014232")
PRICES = oracle.read(catalog_text.EXAMPLE.read_text(encoding="utf-8"), "llm")


def told(key: str = "k", *, decided: bool = True) -> Acknowledged:
    return Acknowledged("iris", key, MEASURES, "text-gen-v3", decided)


def booked(key: str = "k", cost: Decimal | None = COST) -> Booked:
    return Booked("iris", key, cost, decided=True)


def wallet(*, granted: Decimal, spent: Decimal, overage: Decimal = Decimal(0)) -> Balance:
    zero = Decimal(0)
    return Balance("wallet:usd", "usd", granted, granted - spent, zero, zero, spent, zero, zero, overage)


def found(
    told: list[Acknowledged],
    booked: list[Booked],
    balance: Balance | None = None,
    *,
    plan: str = "prepaid",
    heard: Heard | None = None,
) -> Audit:
    balance = balance or wallet(granted=Decimal(1), spent=COST * len(told))
    return audit([Account("iris", plan, told, booked, {"wallet:usd": balance})], PRICES, heard or Heard())


def test_books_that_agree() -> None:
    """Nothing is found where everything holds; costs are added up exactly."""
    result = found([told("a"), told("b")], [booked("a"), booked("b")])
    assert result == Audit(events_in_ledger=2, paid={"iris": 2 * COST})


def test_a_lost_event() -> None:
    """Acknowledged and not in the books."""
    assert found([told("a"), told("b")], [booked("a")]).missing == ["iris/b"]


def test_an_event_that_nobody_was_told_of() -> None:
    """In the books and not acknowledged."""
    assert found([told("a")], [booked("a"), booked("b")]).extra == ["iris/b"]


def test_an_event_booked_twice() -> None:
    """Counted once, and found."""
    result = found([told("a")], [booked("a"), booked("a")])
    assert result.twice == ["iris/a"]
    assert result.events_in_ledger == 1


@pytest.mark.parametrize("cost", [Decimal("0.014232001"), Decimal("0.0142"), None])
def test_a_cost_that_differs_by_a_digit(cost: Decimal | None) -> None:
    """Any digit, and a cost that is not there."""
    assert len(found([told()], [booked(cost=cost)]).mismatches) == 1


def test_oversold() -> None:
    """More decided usage than was granted, even when the books show no overage."""
    small = Decimal("0.01")
    result = found([told()], [booked()], wallet(granted=small, spent=COST))
    assert result.oversold == {"iris wallet:usd": COST - small}


def test_overage_of_decided_usage() -> None:
    """Overage in the books that no fact explains."""
    small = Decimal("0.01")
    result = found([told()], [booked()], wallet(granted=small, spent=small, overage=COST - small))
    assert result.oversold == {"iris wallet:usd": COST - small}


def test_overage_of_facts_is_no_overselling() -> None:
    """A settle above its hold and a report may overdraw a wallet."""
    small, heard = Decimal("0.01"), Heard()
    heard.settled("iris", {"wallet:usd": COST - small}, final=True)
    balance = wallet(granted=small, spent=small, overage=COST - small)
    assert found([told()], [booked()], balance, heard=heard).oversold == {}
    assert found([told(decided=False)], [booked()], balance).oversold == {}


def test_a_balance_that_does_not_add_up() -> None:
    """Spent and overage together are what was used, to the digit."""
    assert found([told()], [booked()], wallet(granted=Decimal(1), spent=COST / 2)).unbalanced


@pytest.mark.parametrize(
    ("plan", "uncovered", "billed"),
    [
        ("payg", "0", "0.014232"),
        ("hybrid", "495", "0.004712268"),
        ("hybrid", "0", "0"),
        ("hybrid", "1495", "0.014232"),
        ("free", "0", "0"),
        ("pro", "0", "0"),
    ],
)
def test_what_is_billed(plan: str, uncovered: str, billed: str) -> None:
    """The contract's hybrid by hand: 495 of 1,495 tokens uncovered. Another digit is a mismatch."""
    event = Acknowledged(
        "iris", "k", MEASURES, "text-gen-v3", decided=True, included=Decimal(1495), beyond=Decimal(uncovered)
    )
    good = Booked("iris", "k", COST, decided=True, billed=Decimal(billed))
    bad = Booked("iris", "k", COST, decided=True, billed=Decimal(billed) + Decimal("0.000000001"))
    assert audit([Account("iris", plan, [event], [good], {})], PRICES, Heard()).mismatches == []
    assert len(audit([Account("iris", plan, [event], [bad], {})], PRICES, Heard()).mismatches) == 1
