"""Was what was spent ever given? A matching of its own, which knows nothing of how Purser burns grants."""

from collections.abc import Iterable
from typing import NamedTuple


class Supply(NamedTuple):
    """An amount that could be leased from `begins` on, before `ends` (seconds; infinity: for good)."""

    amount: int
    begins: float
    ends: float


class Demand(NamedTuple):
    """An amount that was spent of a lease which was granted `at`."""

    at: float
    amount: int


def uncovered(supplies: Iterable[Supply], demands: Iterable[Demand]) -> list[tuple[Demand, int]]:
    """What no supply can have paid, however one assigns them: demands, and how much of each.

    Demands are points in time and supplies are intervals: whoever gives each demand in turn the supply that ends first
    finds a complete assignment if there is one (Glover 1967, on convex bipartite graphs).
    """
    left = [[supply.ends, supply.begins, supply.amount] for supply in sorted(supplies, key=lambda s: s.ends)]
    found = []
    for demand in sorted(demands):
        missing = demand.amount
        for piece in left:
            ends, begins, amount = piece
            if begins <= demand.at < ends:
                part = min(missing, int(amount))
                piece[2] -= part
                missing -= part
        if missing:
            found.append((demand, missing))
    return found
