"""Grants, by example: the burn order, and how facts are paid."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from sidecar.engine.grants import Fact, Grant, Slice, Step, burn, burn_facts, burn_order

NOW = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLAIN = Grant(grant_id="m", amount=10, effective_at=NOW, created_at=NOW)


def test_the_burn_order_step_by_step() -> None:
    """Each rule decides where all before it are equal."""
    last = [
        replace(PLAIN, grant_id="cap", beyond_limit=True, priority=-9),
        replace(PLAIN, grant_id="later", priority=1, scope=frozenset({"chat"})),
        replace(PLAIN, grant_id="wide", scope=frozenset({"chat", "images"})),
        replace(PLAIN, grant_id="soon", expires_at=NOW + HOUR),
        replace(PLAIN, grant_id="far", expires_at=NOW + 2 * HOUR),
        replace(PLAIN, grant_id="paid", cost_basis=Decimal(1)),
        replace(PLAIN, grant_id="early", effective_at=NOW - HOUR),
        replace(PLAIN, grant_id="made", created_at=NOW - HOUR),
        PLAIN,
        replace(PLAIN, grant_id="n"),
        replace(PLAIN, grant_id="narrow", scope=frozenset({"chat"})),
    ]
    Random(1).shuffle(last)
    order = [grant.grant_id for grant in sorted(last, key=burn_order)]
    assert order == ["narrow", "wide", "soon", "far", "early", "made", "m", "n", "paid", "later", "cap"]


def test_intervals_are_half_open() -> None:
    """A grant burns from its start, and not at its end, whichever end comes first."""
    grant = replace(PLAIN, expires_at=NOW + 2 * HOUR, voided_at=NOW + HOUR)
    assert burn([grant], 1, NOW, "chat") == ((Slice("m", 1),), 0)
    assert burn([grant], 1, NOW + HOUR, "chat") == ((), 1)
    assert burn([grant], 1, NOW - timedelta(microseconds=1), "chat") == ((), 1)


def test_later_capacity_pays_overage_first_in_first_out() -> None:
    """What was not covered is paid when a grant starts, before usage of the same instant."""
    facts = [Fact(NOW, "a", 8, "chat"), Fact(NOW, "b", 8, "chat"), Fact(NOW + HOUR, "c", 8, "chat")]
    later = replace(PLAIN, grant_id="later", effective_at=NOW + HOUR, amount=12)
    a, b, c = burn_facts([PLAIN, later], facts)
    assert a.slices == (Slice("m", 8),)
    assert b.slices == (Slice("m", 2), Slice("later", 6))
    assert (c.slices, c.overage) == ((Slice("later", 6),), 2)
    unpaid = burn_facts([PLAIN, later], facts, overage_is_paid=False)
    assert [one.overage for one in unpaid] == [0, 6, 0]


def test_a_cap_is_burned_last_and_pays_nothing_afterwards() -> None:
    """A soft limit's cap takes what lies beyond the limit; it is no capacity for overage of before."""
    cap = replace(PLAIN, grant_id="cap", amount=5, beyond_limit=True)
    a, b = burn_facts([cap, PLAIN], [Fact(NOW, "a", 12, "chat"), Fact(NOW, "b", 5, "chat")])
    assert a.slices == (Slice("m", 10), Slice("cap", 2))
    assert (b.slices, b.overage) == ((Slice("cap", 3),), 2)
    late = replace(cap, effective_at=NOW + HOUR)
    assert burn_facts([late], [Fact(NOW, "a", 1, "chat")])[0].overage == 1


def test_a_decision_between_facts_is_not_unmade() -> None:
    """A late fact takes its place by instant, and what it took becomes overage of those after it."""
    facts = [Fact(NOW + HOUR, "b", 10, "chat")]
    assert burn_facts([PLAIN], facts)[0].overage == 0
    first, second = burn_facts([PLAIN], [*facts, Fact(NOW, "z", 4, "chat")])
    assert (first.fact.key, first.overage, second.overage) == ("z", 0, 4)


def test_a_fact_burns_by_the_amount_of_its_instant() -> None:
    """100, then 10: what was burned before is not taken back, and leaves nothing for those after it."""
    lowered = replace(PLAIN, earlier=(Step(NOW + HOUR, 100),))
    facts = [Fact(NOW, "a", 12, "chat"), Fact(NOW + HOUR, "b", 3, "chat")]
    assert [one.overage for one in burn_facts([lowered], facts)] == [0, 3]
    assert [one.overage for one in burn_facts([lowered], facts[1:])] == [0]


def test_what_starts_later_pays_with_what_it_has_by_then() -> None:
    """5 until the hour at which the other starts; that one has been lowered by then, from 9 to 2."""
    lowered = replace(PLAIN, amount=0, earlier=(Step(NOW + HOUR, 5),))
    later = replace(PLAIN, grant_id="n", effective_at=NOW + HOUR, amount=2, earlier=(Step(NOW + HOUR, 9),))
    facts = [Fact(NOW, "a", 8, "chat"), Fact(NOW + HOUR, "b", 1, "chat")]
    assert [one.overage for one in burn_facts([lowered, later], facts)] == [1, 1]
