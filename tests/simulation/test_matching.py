"""The matching that decided usage is checked with says yes exactly where some assignment covers all of it."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.matching import Demand, Supply, uncovered

supplies = st.lists(
    st.builds(
        lambda amount, begins, length: Supply(amount, begins, begins + length),
        st.integers(1, 2),
        st.integers(0, 5),
        st.integers(1, 4),
    ),
    max_size=3,
)
demands = st.lists(st.builds(Demand, st.integers(0, 8), st.integers(1, 2)), max_size=3)


def can_be_covered(given_out: list[Supply], wanted: list[Demand]) -> bool:
    """By trying all ways to pay each single credit."""
    points = [demand.at for demand in wanted for _ in range(demand.amount)]
    for ways in product(range(len(given_out)), repeat=len(points)):
        fits = all(
            given_out[way].begins <= at < given_out[way].ends for way, at in zip(ways, points, strict=True)
        )
        if fits and all(ways.count(way) <= supply.amount for way, supply in enumerate(given_out)):
            return True
    return not points


@given(supplies, demands)
def test_it_finds_what_can_not_be_covered(given_out: list[Supply], wanted: list[Demand]) -> None:
    assert bool(uncovered(given_out, wanted)) is not can_be_covered(given_out, wanted)


def test_it_says_what_is_missing() -> None:
    """5 of 8 are there, and not yet when the first was leased."""
    found = uncovered([Supply(5, 2.0, 4.0)], [Demand(1.0, 1), Demand(3.0, 8)])
    assert found == [(Demand(1.0, 1), 1), (Demand(3.0, 8), 3)]
