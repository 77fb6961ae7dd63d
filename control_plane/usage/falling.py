"""What a fact would have of a window whose limit was lowered: by what was used between one change and the next."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from control_plane.ledger.replay import capacities
from control_plane.ledger.rows import BEYOND_LIMIT, GrantRow
from sidecar.engine.evaluate import Fund


class _Covered(NamedTuple):
    """Of what was used in one part."""

    within: int
    beyond: int


class Falling:
    """One window of an allowance or a budget: its limit, and its cap, in parts of time.

    What a replay comes to, summed up: in each part what was used burns what is left of the limit of then, and after
    that of the cap. So a fact costs as many steps as there were changes, not as there are facts.
    """

    def __init__(self, grants: Sequence[GrantRow]) -> None:
        """Nothing is used yet."""
        steps = {grant.id: capacities(grant) for grant in grants}
        self._untils = sorted({until for earlier, _ in steps.values() for until, _ in earlier})
        self._used = [0] * (len(self._untils) + 1)
        self._limits = self._in_parts([steps[grant.id] for grant in grants if grant.role != BEYOND_LIMIT])
        self._caps = self._in_parts([steps[grant.id] for grant in grants if grant.role == BEYOND_LIMIT])

    def use(self, at: datetime, amount: int) -> None:
        """A fact of that instant is there."""
        self._used[bisect_right(self._untils, at)] += amount

    def fund(self, at: datetime, amount: int) -> Fund:
        """What would be covered more of its part of time if there was one of this amount: of others of that part it may
        cover less.
        """
        part = bisect_right(self._untils, at)
        before = self._covered()[part]
        self._used[part] += amount
        after = self._covered()[part]
        self._used[part] -= amount
        return Fund(max(0, after.within - before.within), max(0, after.beyond - before.beyond))

    def _covered(self) -> list[_Covered]:
        within, beyond = 0, 0
        found: list[_Covered] = []
        for used, limit, cap in zip(self._used, self._limits, self._caps, strict=True):
            of_limit = min(used, max(0, limit - within))
            of_cap = min(used - of_limit, max(0, cap - beyond))
            within, beyond = within + of_limit, beyond + of_cap
            found.append(_Covered(of_limit, of_cap))
        return found

    def _in_parts(self, steps: Sequence[tuple[Sequence[tuple[datetime, int]], int]]) -> list[int]:
        """What all of these have in each part."""
        found = [0] * len(self._used)
        for earlier, last in steps:
            for part in range(len(found)):
                begins_at = self._untils[part - 1] if part else None
                amounts = (amount for until, amount in earlier if begins_at is None or until > begins_at)
                found[part] += next(amounts, last)
        return found
