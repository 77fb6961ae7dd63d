"""What a fact has of a window whose limit was lowered, beside a replay of all facts."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control_plane.ledger.replay import replay
from control_plane.ledger.rows import BASE, BEYOND_LIMIT, FactRow, GrantRow
from control_plane.usage.falling import Falling
from tests.properties.control_plane.ledger.test_replay import NOW, fact, grant, hours


def lowered(role: str, limits: list[int], spent: int) -> GrantRow:
    """A limit that was changed every second hour; of it leases have spent so much."""
    made = replace(grant(0, limits[0], 0, None, 0), id=role, role=role)
    made.spent = min(spent, limits[0])
    made.draw(made.spent)
    for number, limit in enumerate(limits[1:], start=1):
        made.retarget(limit, now=NOW, since=hours(2 * number))
    return made


LIMITS = st.lists(st.integers(0, 30), min_size=1, max_size=4)
FACTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 12)), max_size=8)


@given(LIMITS, LIMITS, st.integers(0, 10), FACTS, st.integers(0, 8), st.integers(1, 12))
def test_one_fact_more(
    limits: list[int], caps: list[int], spent: int, used: list[tuple[int, int]], at: int, amount: int
) -> None:
    """Its fund is what all facts of its part of time burn more, of the limit and of the cap, if it is there."""
    grants = [lowered(BASE, limits, spent), lowered(BEYOND_LIMIT, caps, 0)]
    known = [fact(number, *one) for number, one in enumerate(used)]
    one = fact(9, at, amount)
    untils = sorted({step.until for each in grants for step in each.limits_before})

    def part(each: FactRow) -> int:
        return sum(until <= each.occurred_at for until in untils)

    def burned(facts: list[FactRow], role: str) -> int:
        burns = replay(grants, facts, now=NOW).burns
        same = [each for each in facts if part(each) == part(one)]
        return sum(burns.get(each.id, {}).get(role, 0) for each in same)

    window = Falling(grants)
    for each in known:
        window.use(each.occurred_at, each.amount)
    fund = window.fund(one.occurred_at, amount)
    assert fund.within == max(0, burned([*known, one], BASE) - burned(known, BASE))
    assert fund.beyond == max(0, burned([*known, one], BEYOND_LIMIT) - burned(known, BEYOND_LIMIT))
