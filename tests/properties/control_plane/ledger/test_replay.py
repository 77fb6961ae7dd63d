"""The replay of a window is a function of its facts and grants, whatever order they come in."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from control_plane.ledger.replay import replay
from control_plane.ledger.rows import BASE, ROLLOVER, FactRow, GrantRow

AT = datetime(2030, 1, 1, tzinfo=UTC)
NOW = AT + timedelta(days=3)


def hours(number: int) -> datetime:
    """So many hours after the beginning."""
    return AT + timedelta(hours=number)


def grant(number: int, amount: int, begins: int, lasts: int | None, priority: int) -> GrantRow:
    """A grant that nothing has touched."""
    return GrantRow(
        id=f"g{number}",
        balance_id="b",
        customer_id="c",
        role=BASE,
        amount=amount,
        target=amount,
        available=amount,
        priority=priority,
        scope=[],
        effective_at=hours(begins),
        expires_at=None if lasts is None else hours(begins + lasts),
        window_start=None,
        cost_basis="0",
        source="test",
        created_at=AT,
    )


def fact(number: int, at: int, amount: int) -> FactRow:
    """A fact at an hour."""
    return FactRow(
        id=f"f{number}",
        balance_id="b",
        window_start=None,
        event_uid=f"u{number}",
        transaction_id="t",
        occurred_at=hours(at),
        event_key=f"k{number}",
        feature="api",
        amount=amount,
        cause="reported",
    )


GRANTS = st.lists(
    st.tuples(
        st.integers(1, 100), st.integers(0, 30), st.one_of(st.none(), st.integers(1, 30)), st.integers(0, 2)
    ),
    max_size=5,
)
FACTS = st.lists(st.tuples(st.integers(0, 48), st.integers(1, 80)), max_size=8)


@given(grants=GRANTS, facts=FACTS, seed=st.integers())
def test_order_of_arrival_does_not_matter(
    grants: list[tuple[int, int, int | None, int]], facts: list[tuple[int, int]], seed: int
) -> None:
    """Shuffled, the same facts burn the same grants; no grant burns more than it has, no fact more than it is."""
    made = [grant(n, *values) for n, values in enumerate(grants)]
    rows = [fact(n, *values) for n, values in enumerate(facts)]
    burns = replay(made, rows, now=NOW).burns
    for row in rows:
        assert sum(burns.get(row.id, {}).values()) <= row.amount
    for one in made:
        assert sum(by.get(one.id, 0) for by in burns.values()) <= one.amount
    Random(seed).shuffle(made)
    Random(seed).shuffle(rows)
    assert replay(made, rows, now=NOW).burns == burns


@given(used=st.integers(0, 30), later=st.integers(0, 30))
def test_what_is_left_rolls_over(used: int, later: int) -> None:
    """20 with at most 5: min(5, 20 - used) goes on, and only that can be burned in the next period."""
    base = grant(0, 20, 0, 10, 0)
    base.rollover_max = 5
    left = min(5, max(0, 20 - used))
    child = grant(1, left, 10, 10, 0)
    child.role, child.rolled_from = ROLLOVER, "g0"
    rows = [fact(n, at, amount) for n, (at, amount) in enumerate(((5, used), (15, later))) if amount]
    result = replay([base, child], rows, now=NOW)
    assert result.rolled == {"g0": left}
    assert sum(burns.get("g1", 0) for burns in result.burns.values()) == min(later, left)
