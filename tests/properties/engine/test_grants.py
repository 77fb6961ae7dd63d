"""Properties of grants: see `sidecar/engine/README.md`."""

import itertools
from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.grants import Burned, Fact, Grant, Step, burn, burn_facts, burn_order
from tests.properties.engine.worlds import NOW, quick

# Few instants, so that many things happen at the same one.
moments = st.integers(0, 6).map(lambda n: NOW + timedelta(hours=n))
features = st.sampled_from(["chat", "images"])


@st.composite
def grant_lists(draw: st.DrawFn) -> list[Grant]:
    """Up to five grants that overlap in every way."""
    found = []
    for number in range(draw(st.integers(0, 5))):
        start = draw(moments)
        found.append(
            Grant(
                grant_id=f"g{number}",
                amount=draw(st.integers(0, 20)),
                effective_at=start,
                created_at=draw(moments),
                expires_at=draw(st.none() | moments.map(lambda at: at + timedelta(hours=1))),
                voided_at=draw(st.none() | moments),
                priority=draw(st.integers(0, 1)),
                scope=draw(
                    st.sampled_from([frozenset[str](), frozenset({"chat"}), frozenset({"chat", "images"})])
                ),
                cost_basis=Decimal(draw(st.integers(0, 1))),
            )
        )
    return found


@st.composite
def fact_lists(draw: st.DrawFn) -> list[Fact]:
    """Up to eight facts, many at one instant."""
    return [
        Fact(draw(moments), f"k{number}", draw(st.integers(0, 15)), draw(features))
        for number in range(draw(st.integers(0, 8)))
    ]


@quick
@given(grant_lists(), st.integers(0, 60), moments, features)
def test_burn_order_total(grants: list[Grant], amount: int, at: datetime, feature: str) -> None:
    """However grants arrive, they burn alike."""
    turned = list(reversed(grants))
    assert burn(grants, amount, at, feature) == burn(turned, amount, at, feature)
    assert len({burn_order(grant) for grant in grants}) == len(grants)


@quick
@given(grant_lists(), st.integers(0, 60), moments, features)
def test_burning_conserves(grants: list[Grant], amount: int, at: datetime, feature: str) -> None:
    """What burns and what is missing is what was asked; nothing burns that is not active, in scope and there."""
    slices, missing = burn(grants, amount, at, feature)
    by_id = {grant.grant_id: grant for grant in grants}
    assert sum(part.amount for part in slices) + missing == amount
    usable = sum(grant.amount for grant in grants if grant.active(at) and grant.serves(feature))
    assert missing == max(0, amount - usable)
    for part in slices:
        assert 0 < part.amount <= by_id[part.grant_id].amount
        assert by_id[part.grant_id].active(at)
        assert by_id[part.grant_id].serves(feature)
    order = [burn_order(by_id[part.grant_id]) for part in slices]
    assert order == sorted(order)


@quick
@given(grant_lists(), fact_lists(), st.data(), st.booleans())
def test_facts_converge(grants: list[Grant], facts: list[Fact], data: st.DataObject, paid: bool) -> None:
    """The same set of facts and grants in any order of arrival gives the same slices and overage."""
    once = burn_facts(grants, facts, overage_is_paid=paid)
    shuffled = data.draw(st.permutations(facts))
    assert burn_facts(data.draw(st.permutations(grants)), shuffled, overage_is_paid=paid) == once


@quick
@given(grant_lists(), fact_lists(), st.booleans())
def test_facts_burn_what_there_is(grants: list[Grant], facts: list[Fact], paid: bool) -> None:
    """No grant pays more than it has, for a feature out of scope, or a fact that it neither saw nor came after."""
    by_id = {grant.grant_id: grant for grant in grants}
    spent: dict[str, int] = {}
    for burned in burn_facts(grants, facts, overage_is_paid=paid):
        assert sum(part.amount for part in burned.slices) + burned.overage == burned.fact.amount
        for part in burned.slices:
            grant = by_id[part.grant_id]
            spent[part.grant_id] = spent.get(part.grant_id, 0) + part.amount
            assert grant.serves(burned.fact.feature)
            assert grant.active(burned.fact.at) or (paid and grant.effective_at > burned.fact.at)
    assert all(amount <= by_id[grant_id].amount for grant_id, amount in spent.items())


@quick
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 30)), max_size=4), fact_lists())
def test_limits_in_turn(changes: list[tuple[int, int]], facts: list[Fact]) -> None:
    """One grant whose limit changes, beside a count by hand: at each instant what may be burned is the limit of then
    less what was burned, and a raise pays what is open, the oldest first. The grant needs to know only those that
    were higher than all after them.
    """
    limits = {NOW: 10} | {NOW + timedelta(hours=hour): limit for hour, limit in changes}
    burned, open_ = 0, dict[str, int]()
    limit = 0
    turns = [(at, 0, "", limit) for at, limit in limits.items()]
    turns += [(fact.at, 1, fact.key, fact.amount) for fact in facts]
    for _, is_fact, key, amount in sorted(turns):
        if is_fact:
            open_[key] = amount
        else:
            limit = amount
        for one in [key] if is_fact else list(open_):
            part = max(0, min(open_[one], limit - burned))
            burned += part
            open_[one] -= part
    found = burn_facts([_lowered(sorted(limits.items()))], facts)
    assert {one.fact.key: one.overage for one in found} == open_


def _lowered(limits: list[tuple[datetime, int]]) -> Grant:
    earlier: list[Step] = []
    for (_, before), (at, after) in itertools.pairwise(limits):
        earlier = [step for step in earlier if step.amount > after]
        if after < before:
            earlier.append(Step(at, before))
    return Grant(grant_id="g", amount=limits[-1][1], effective_at=NOW, created_at=NOW, earlier=tuple(earlier))


@quick
@given(grant_lists(), fact_lists())
def test_facts_pay_in_order(grants: list[Grant], facts: list[Fact]) -> None:
    """A fact's own grants pay it before later ones do; overage is paid first in, first out."""
    by_id = {grant.grant_id: grant for grant in grants}
    burned = burn_facts(grants, facts)
    for one in burned:
        own = [by_id[part.grant_id].active(one.fact.at) for part in one.slices]
        assert own == sorted(own, reverse=True)
    for i, earlier in enumerate(burned):
        for later in burned[i + 1 :]:
            if earlier.overage and earlier.fact.feature == later.fact.feature:
                assert not any(_later_capacity(by_id[p.grant_id], earlier, later) for p in later.slices)


def _later_capacity(grant: Grant, earlier: Burned, later: Burned) -> bool:
    """Did a grant that could have paid the earlier fact pay the later one?"""
    return grant.effective_at > earlier.fact.at and grant.effective_at >= later.fact.at


@quick
@given(grant_lists(), fact_lists())
def test_more_facts_never_unmake_earlier_ones(grants: list[Grant], facts: list[Fact]) -> None:
    """A fact later than all others leaves what the others burned of their own grants as it was."""
    last = Fact(NOW + timedelta(days=9), "z", 10, "chat")
    before = burn_facts(grants, facts, overage_is_paid=False)
    after = burn_facts(grants, [*facts, last], overage_is_paid=False)
    assert after[:-1] == before
