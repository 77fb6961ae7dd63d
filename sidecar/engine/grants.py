"""In which order grants burn, and what a set of facts makes of them: what the ledger and the leases share."""

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sidecar.engine.values import ZERO


class Step(NamedTuple):
    """A grant's amount until an instant."""

    until: datetime
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One grant occurrence, with what may be burned of it now: for facts, the capacity that no lease holds."""

    grant_id: str
    amount: int
    """Above or equal 0, at the unit's scale: what is left to burn."""
    effective_at: datetime
    created_at: datetime
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    priority: int = 0
    scope: frozenset[str] = frozenset()
    """Features that may burn it. Empty: all."""
    cost_basis: Decimal = ZERO
    beyond_limit: bool = False
    """True: a soft limit's cap; burned last, whatever else it says."""
    earlier: tuple[Step, ...] = ()
    """What it had until it was lowered, time and again: instants in their order, amounts that fall, all above `amount`.
    What was burned before stays burned. One that is raised has always had that much: a raise pays what is open, the
    oldest first."""

    def active(self, at: datetime) -> bool:
        """Is the instant in `[effective_at, min(expires_at, voided_at))`?"""
        return (
            self.effective_at <= at
            and (self.expires_at is None or at < self.expires_at)
            and (self.voided_at is None or at < self.voided_at)
        )

    def serves(self, feature: str) -> bool:
        """May this feature burn it?"""
        return not self.scope or feature in self.scope


class Slice(NamedTuple):
    """A part of one grant occurrence."""

    grant_id: str
    amount: int


class Fact(NamedTuple):
    """Usage that no lease covers: it burns what was active at its instant."""

    at: datetime
    key: str
    """The idempotency key: the order among facts of one instant."""
    amount: int
    feature: str


class Burned(NamedTuple):
    """How one fact is paid."""

    fact: Fact
    slices: tuple[Slice, ...]
    """In the order in which they paid: what was active at the fact's instant first, later capacity after it."""
    overage: int
    """What nothing pays (yet)."""


class BurnOrder(NamedTuple):
    """The sort key of a grant: what sorts first burns first. Total, because the id is part of it."""

    beyond_limit: bool
    priority: int
    breadth: int
    """Features in scope; all features count as endless."""
    expires_at: datetime
    paid: bool
    effective_at: datetime
    created_at: datetime
    grant_id: str


_EVERYTHING: Final = 2**31
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def burn_order(grant: Grant) -> BurnOrder:
    """Priority → narrowest scope → expires sooner → given before paid → effective earlier → created earlier → id."""
    return BurnOrder(
        grant.beyond_limit,
        grant.priority,
        len(grant.scope) or _EVERYTHING,
        grant.expires_at or _NEVER,
        grant.cost_basis > 0,
        grant.effective_at,
        grant.created_at,
        grant.grant_id,
    )


def burn(grants: Iterable[Grant], amount: int, at: datetime, feature: str) -> tuple[tuple[Slice, ...], int]:
    """Takes an amount from grants that are active and serve the feature; returns the slices and what is missing."""
    ordered = sorted((grant for grant in grants if grant.active(at)), key=burn_order)
    left = {grant.grant_id: grant.amount for grant in ordered}
    assert len(left) == len(ordered), "grant ids are unique"
    return _spend(ordered, left, amount, feature)


def _spend(
    ordered: Iterable[Grant], left: dict[str, int], amount: int, feature: str
) -> tuple[tuple[Slice, ...], int]:
    """Takes from `left`, grant by grant."""
    assert amount >= 0, "only what is there burns"
    slices: list[Slice] = []
    rest = amount
    for grant in ordered:
        part = min(rest, left[grant.grant_id]) if grant.serves(feature) else 0
        if part > 0:
            left[grant.grant_id] -= part
            slices.append(Slice(grant.grant_id, part))
            rest -= part
        if not rest:
            break
    assert sum(part.amount for part in slices) + rest == amount, (
        "what burns and what is missing is what was asked"
    )
    return tuple(slices), rest


def burn_facts(
    grants: Iterable[Grant], facts: Iterable[Fact], *, overage_is_paid: bool = True
) -> tuple[Burned, ...]:
    """What a set of facts makes of grants: a function of the set alone, whatever order either arrives in.

    `amount` of each grant is its capacity that no lease holds. A fact burns what is active at its instant. What nothing
    covers is overage; a grant that starts later pays it when it starts, first in, first out, as far as it serves the
    fact's feature (`overage_is_paid` False turns that off). Grants of another period are not to be passed: they pay
    nothing of this one's. Returned in order of facts: instant, then key.
    """
    replay = _Replay(grants, facts, overage_is_paid=overage_is_paid)
    for number, fact in enumerate(replay.facts):
        replay.start(fact.at)
        replay.burn(number)
    replay.start(_NEVER)
    return replay.burned()


class _Fall(NamedTuple):
    """By how much a grant is lowered."""

    at: datetime
    grant_id: str
    amount: int


def _at_first(grant: Grant) -> int:
    return grant.earlier[0].amount if grant.earlier else grant.amount


def _falls(grant: Grant) -> Iterator[_Fall]:
    followed_by = (*(step.amount for step in grant.earlier), grant.amount)[1:]
    for step, then in zip(grant.earlier, followed_by, strict=True):
        assert then <= step.amount, "what it had earlier is more"
        yield _Fall(step.until, grant.grant_id, step.amount - then)


class _Replay:
    """Grants and facts on the way through time."""

    __slots__ = (
        "facts", "falls", "grants", "left", "lowered", "overage_is_paid", "owed", "paid", "present", "started",
    )  # fmt: skip

    def __init__(self, grants: Iterable[Grant], facts: Iterable[Fact], *, overage_is_paid: bool) -> None:
        self.grants = sorted(grants, key=lambda grant: (grant.effective_at, burn_order(grant)))
        self.facts = sorted(facts)
        self.left = {grant.grant_id: _at_first(grant) for grant in self.grants}
        """What may be burned. Below 0 where a lowered grant had more, and that was burned."""
        self.falls = sorted(fall for grant in self.grants for fall in _falls(grant))
        self.lowered = 0
        self.overage_is_paid = overage_is_paid
        self.paid: list[list[Slice]] = [[] for _ in self.facts]
        self.owed: dict[int, int] = {}
        """Fact number to overage; in the order of facts."""
        self.present: list[Grant] = []
        self.started = 0
        assert len(self.left) == len(self.grants), "grant ids are unique"
        told_apart = {(fact.at, fact.key, fact.feature) for fact in self.facts}
        assert len(told_apart) == len(self.facts), "facts are told apart by instant, key and feature"

    def start(self, until: datetime) -> None:
        """Starts grants up to an instant, in burn order where several start at once; each pays what is owed by then, of
        what it has then. Lowers those that are lowered by then.
        """
        while self.started < len(self.grants) and self.grants[self.started].effective_at <= until:
            grant = self.grants[self.started]
            self.started += 1
            self.lower(grant.effective_at)
            if grant.active(grant.effective_at):
                insort(self.present, grant, key=burn_order)
                if self.overage_is_paid and not grant.beyond_limit:
                    self.pay(grant)
        self.lower(until)

    def lower(self, until: datetime) -> None:
        """Lowers grants up to an instant."""
        while self.lowered < len(self.falls) and self.falls[self.lowered].at <= until:
            fall = self.falls[self.lowered]
            self.lowered += 1
            self.left[fall.grant_id] -= fall.amount

    def pay(self, grant: Grant) -> None:
        """Pays what is owed from a grant that has just started, first in, first out."""
        for number in tuple(self.owed):
            slices, rest = _spend((grant,), self.left, self.owed[number], self.facts[number].feature)
            self.paid[number] += slices
            self.owed[number] = rest
            if not rest:
                del self.owed[number]

    def burn(self, number: int) -> None:
        """Burns one fact from what is active at its instant."""
        fact = self.facts[number]
        self.present = [grant for grant in self.present if grant.active(fact.at)]
        slices, rest = _spend(self.present, self.left, fact.amount, fact.feature)
        self.paid[number] += slices
        if rest:
            self.owed[number] = rest

    def burned(self) -> tuple[Burned, ...]:
        """The result; checks that nothing was made or lost."""
        found = tuple(
            Burned(fact, tuple(self.paid[i]), self.owed.get(i, 0)) for i, fact in enumerate(self.facts)
        )
        for burned in found:
            assert sum(part.amount for part in burned.slices) + burned.overage == burned.fact.amount, (
                "conserved"
            )
        spent = dict.fromkeys(self.left, 0)
        for burned in found:
            for part in burned.slices:
                spent[part.grant_id] += part.amount
        assert all(spent[grant.grant_id] <= _at_first(grant) for grant in self.grants), (
            "no grant burns more than it ever had"
        )
        return found
