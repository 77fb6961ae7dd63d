"""Kept answers: what changes while one is decided is never missed."""

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import cast

import pytest

from sidecar.deciding.answers import Answers
from sidecar.deciding.check import Check, Question
from sidecar.deciding.grounds import Grounds
from sidecar.deciding.judging import Judge
from sidecar.deciding.kept import Kept
from sidecar.deciding.party import Parties
from sidecar.deciding.spending import Till
from sidecar.deciding.standings import Standings
from sidecar.deciding.trouble import Strangers
from sidecar.deciding.uniques import Uniques
from sidecar.deciding.unreported import Unreported
from sidecar.deciding.waivers import Waivers
from sidecar.leases.book import LeaseBook
from sidecar.leases.keeper import Keeper
from sidecar.rpc import encoding
from sidecar.view.cold import Cold
from sidecar.view.pulse import Beat
from tests.unit.sidecar.view.states import NOW, catalog, customer, view

QUESTION = Question("acme", "", "calls", None, None, None, 0, False)


class Watched:
    """A clock that stands, and does something when it is looked at for the `turn`-th time."""

    def __init__(self, turn: int, do: Callable[[], None]) -> None:
        self.looks, self._turn, self._do = 0, turn, do

    def now(self) -> datetime:
        """Where it stands."""
        self._look()
        return NOW

    def monotonic(self) -> float:
        """Where it stands."""
        self._look()
        return 1000.0

    def _look(self) -> None:
        self.looks += 1
        if self.looks == self._turn:
            self._do()


class Side:
    """A view that is LIVE, and checks by it."""

    def __init__(self, turn: int) -> None:
        """At the `turn`-th look at the clock it learns that five calls were made."""
        self.view = view()
        self.view.apply(revision=1, catalogs=[catalog()], customers=[customer(hint=1)], advance=True)
        self.view.pulse.connected(True)
        self.view.pulse.beat(Beat(1, NOW, 1000.0))
        hints = customer(hint=5).hints
        self.clock = clock = Watched(turn, lambda: self.view.apply_hints(hints, counted_through=0))
        book, unreported, uniques = LeaseBook(), Unreported(), Uniques()
        standings = Standings(self.view, book, unreported)
        till = Till(
            view=self.view,
            standings=standings,
            book=book,
            keeper=cast("Keeper", None),
            clock=clock,
            waivers=Waivers(lambda: 1),
            uniques=uniques,
            now=clock.now,
            blocking=contextlib.nullcontext,
        )
        answers = Answers(self.view, standings, clock, self._new_id, encoding.decision_bytes)
        parties = Parties(self.view, cast("Cold", None), clock, clock.now, contextlib.nullcontext)
        judge = Judge(self.view, till, Strangers(self.view), uniques, clock)
        self.kept = Kept(Check(parties, judge, answers), Grounds(self.view, book, unreported), clock)

    def _new_id(self) -> str:
        self.clock.monotonic()
        return "d1"

    def used(self) -> tuple[int, bool]:
        """What an answer shows as used, and whether it would be given again."""
        decision, basis = self.kept.decide(QUESTION, deadline=1001.0, keeps=True)
        assert basis is not None
        return decision.balances[0].used, self.kept.grounds.holds(basis, 1000.0)


@pytest.mark.parametrize("turn", range(1, 20))
def test_what_comes_while_it_is_decided_is_seen_by_the_answer_or_ends_it(turn: int) -> None:
    """At whatever moment it comes: an answer that shows what was before is not given again."""
    side = Side(turn)
    used, holds = side.used()
    came_meanwhile = side.clock.looks >= turn
    assert not (came_meanwhile and used == 1 and holds)


def test_the_clock_is_looked_at_before_and_after_the_balances() -> None:
    """Else the test above would show nothing."""
    shown = [Side(turn).used() for turn in range(1, 20)]
    assert (5, True) in shown or (5, False) in shown
    assert (1, False) in shown
    assert shown[-1] == (1, True)
