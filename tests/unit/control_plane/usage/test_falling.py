"""What a fact has of a window whose limit was lowered, beside a replay of all facts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from control_plane.ledger.replay import replay
from control_plane.ledger.rows import BASE, BEYOND_LIMIT, FactRow, GrantRow
from control_plane.usage.falling import Falling

AT = datetime(2030, 1, 1, tzinfo=UTC)
NOW = AT + timedelta(days=1)


def hour(number: int) -> datetime:
    """So many hours after the beginning."""
    return AT + timedelta(hours=number)


def grant(role: str, limits: list[int], spent: int) -> GrantRow:
    """A limit that was lowered every second hour; of it leases have spent so much."""
    made = GrantRow(
        id=role,
        balance_id="b",
        customer_id="c",
        role=role,
        amount=limits[0],
        target=limits[0],
        available=limits[0],
        priority=0,
        scope=[],
        effective_at=AT,
        expires_at=None,
        window_start=None,
        cost_basis="0",
        source="test",
        created_at=AT,
    )
    made.draw(min(spent, limits[0]))
    made.spent = min(spent, limits[0])
    for number, limit in enumerate(limits[1:], start=1):
        made.retarget(limit, now=NOW, since=hour(2 * number))
    return made


def fact(number: int, at: datetime, amount: int) -> FactRow:
    """One of an event of its own."""
    return FactRow(
        id=f"f{number:03}",
        balance_id="b",
        window_start=None,
        event_uid=f"u{number}",
        transaction_id="t",
        occurred_at=at,
        event_key=f"k{number:03}",
        feature="",
        amount=amount,
        cause="reported",
    )


LIMITS = st.lists(st.integers(0, 30), min_size=1, max_size=4)
FACTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12)), max_size=8)


@given(LIMITS, LIMITS, st.integers(0, 10), FACTS, st.integers(0, 8), st.integers(1, 12))
def test_one_fact_more(
    limits: list[int], caps: list[int], spent: int, used: list[tuple[int, int]], at: int, amount: int
) -> None:
    """Its fund is what all facts of its part of time burn more, of the limit and of the cap, if it is there."""
    grants = [grant(BASE, limits, spent), grant(BEYOND_LIMIT, caps, 0)]
    known = [fact(number, hour(when), size) for number, (when, size) in enumerate(used)]
    one = fact(999, hour(at), amount)
    untils = sorted({step.until for each in grants for step in each.limits_before})

    def part(when: datetime) -> int:
        return sum(until <= when for until in untils)

    def burned(facts: list[FactRow], role: str) -> int:
        burns = replay(grants, facts, now=NOW).burns
        same = [each for each in facts if part(each.occurred_at) == part(one.occurred_at)]
        return sum(burns.get(each.id, {}).get(role, 0) for each in same)

    window = Falling(grants)
    for each in known:
        window.use(each.occurred_at, each.amount)
    fund = window.fund(one.occurred_at, amount)
    assert fund.within == max(0, burned([*known, one], BASE) - burned(known, BASE))
    assert fund.beyond == max(0, burned([*known, one], BEYOND_LIMIT) - burned(known, BEYOND_LIMIT))
