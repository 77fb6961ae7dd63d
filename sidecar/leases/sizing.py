"""What to ask for ahead of callers, and what to give back: by demand. The book's lock is held."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook, Withdrawn
from sidecar.leases.demand import Demand

INTERVAL_SECONDS: Final = 0.25
SLICE: Final = 200
"""So many demands are looked at while the book is locked; decisions go on in between."""
RENEW_AHEAD_SECONDS: Final = 10.0
"""A lease that ends within this long does not count as at hand."""
RATE_AHEAD_SECONDS: Final = 4.0
NEXT_PERIOD_AHEAD_SECONDS: Final = 60.0
NEXT_PERIOD_LATEST_SECONDS: Final = 5.0
DUE_SECONDS: Final = 2.0

Demands = Sequence[tuple[BalanceRef, str, Demand]]


def demand_key(ref: BalanceRef, feature: str) -> str:
    """Wallets are leased for a feature, because of scopes; other balances for whoever comes."""
    return feature if ref.balance.startswith("wallet:") else ""


def renewals(
    book: LeaseBook, demands: Demands, now: float, *, asked: set[BalanceRef]
) -> Iterator[tuple[BalanceRef, str, int]]:
    """What is below half of its target, and how much is missing to all of it."""
    for ref, feature, demand in demands:
        if ref in asked:
            continue
        target = demand.target(now)
        if target <= 0:
            continue
        ahead = RATE_AHEAD_SECONDS if ref.balance.startswith("rate:") else RENEW_AHEAD_SECONDS
        free = book.free(ref, feature, now, ahead)
        if free * 2 < target:
            yield ref, feature, target - free


def shrink(book: LeaseBook, demands: Demands, now: float, *, keep: set[BalanceRef]) -> list[Withdrawn]:
    """Gives back what is more than twice the target; a demand that has come to rest gives back all and is forgotten."""
    withdrawn: list[Withdrawn] = []
    for ref, feature, demand in demands:
        if ref in keep or demand.is_new:
            demand.target(now)
            continue
        target = demand.target(now)
        free = book.free(ref, feature, now)
        if free > 2 * target and not ref.balance.startswith("rate:"):
            withdrawn += book.withdraw(ref, free - target)
        if target == 0:
            book.forget_demand(ref, feature)
    return withdrawn


def next_periods(
    book: LeaseBook,
    demands: Demands,
    now: float,
    *,
    asked: set[BalanceRef],
    known: dict[BalanceRef, float],
    random: Random,
) -> list[tuple[BalanceRef, str, int]]:
    """Balances whose period ends soon, each once per period and at an instant of its own, so that midnight is
    no stampede.
    """
    for ref in [r for r, at in known.items() if at + NEXT_PERIOD_AHEAD_SECONDS < now]:
        del known[ref]
    due = []
    for ref, feature, demand in demands:
        end = book.period_end(ref, now)
        if ref in asked or end is None or end - now > NEXT_PERIOD_AHEAD_SECONDS:
            continue
        if ref not in known:
            known[ref] = now + random.uniform(0.0, max(0.0, end - now - NEXT_PERIOD_LATEST_SECONDS))
        target = demand.target(now)
        if target > 0 and known[ref] <= now < known[ref] + DUE_SECONDS:
            known[ref] = now - DUE_SECONDS
            asked.add(ref)
            due.append((ref, feature, target))
    return due
