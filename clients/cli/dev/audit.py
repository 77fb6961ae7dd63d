"""Compares three things: what callers were told, what the books say, and what the oracle makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Final

from clients.cli.dev.books import Balance, Booked
from clients.cli.dev.heard import Acknowledged, Heard
from clients.cli.dev.oracle import Oracle
from clients.cli.dev.people import INCLUDED

WALLET: Final = "wallet:usd"
HARD: Final = {"free": INCLUDED, "pro": WALLET, "prepaid": WALLET}
"""Plan to the balance that decided usage may not exceed."""
TOKENS: Final = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Account:
    """All that is known of one customer in the end."""

    customer_id: str
    plan: str
    told: Sequence[Acknowledged]
    booked: Sequence[Booked]
    balances: Mapping[str, Balance]


@dataclass(slots=True)
class Audit:
    """What was found. Every list is empty when the promises held."""

    events_in_ledger: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    oversold: dict[str, Decimal] = field(default_factory=dict)
    unbalanced: list[str] = field(default_factory=list)
    paid: dict[str, Decimal] = field(default_factory=dict)
    """By customer: from the wallet, or billed in arrears."""


def audit(accounts: Sequence[Account], oracle: Oracle, heard: Heard) -> Audit:
    """Goes through every customer's events and balances."""
    found = Audit()
    for account in accounts:
        _events(found, account)
        _costs(found, account, oracle)
        _balances(found, account, oracle, heard)
    return found


def _events(found: Audit, account: Account) -> None:
    told = {event.key for event in account.told}
    booked = [event.key for event in account.booked]
    found.events_in_ledger += len(set(booked))
    found.missing += [f"{account.customer_id}/{key}" for key in sorted(told - set(booked))]
    found.extra += [f"{account.customer_id}/{key}" for key in sorted(set(booked) - told)]
    found.twice += [f"{account.customer_id}/{key}" for key in sorted(set(booked)) if booked.count(key) > 1]


def _costs(found: Audit, account: Account, oracle: Oracle) -> None:
    told = {event.key: event for event in account.told}
    total = Decimal(0)
    for event in account.booked:
        total += (event.cost or 0) if HARD.get(account.plan) == WALLET else event.billed
        if event.key not in told:
            continue
        cost, billed = expected(account.plan, told[event.key], oracle)
        if (event.cost, event.billed) != (cost, billed):
            books = f"{event.cost} in the books, billed {event.billed}"
            found.mismatches.append(
                f"{account.customer_id}/{event.key}: {books}; by the catalog {cost:f}, billed {billed:f}"
            )
    found.paid[account.customer_id] = total


def expected(plan: str, told: Acknowledged, oracle: Oracle) -> tuple[Decimal, Decimal]:
    """What the books must say of an event, to the last digit: its cost, and which part of that is billed in arrears."""
    cost = oracle.cost(told.measures, told.model)
    if plan == "payg":
        billed = cost
    elif plan == "hybrid":
        billed = cost * Fraction(told.beyond) / Fraction(told.included) if told.beyond else Fraction(0)
    else:
        billed = Fraction(0)
    return oracle.rounded(cost), oracle.rounded(billed)


def _balances(found: Audit, account: Account, oracle: Oracle, heard: Heard) -> None:
    name = HARD.get(account.plan)
    balance = account.balances.get(name or "")
    if name is None or balance is None:
        return
    used = sum((_used(account.plan, event, oracle) for event in account.told), Decimal(0))
    facts = heard.fact_overage.get((account.customer_id, name), Decimal(0))
    facts += sum(
        (_used(account.plan, event, oracle) for event in account.told if not event.decided), Decimal(0)
    )
    over = max(
        balance.overage - facts,
        used - facts - balance.granted,
        balance.spent + balance.presumed - balance.granted,
    )
    if over > 0:
        found.oversold[f"{account.customer_id} {name}"] = over
    if balance.spent + balance.overage != used:
        found.unbalanced.append(
            f"{account.customer_id} {name}: {balance.spent} spent + {balance.overage} overage, {used} used"
        )


def _used(plan: str, event: Acknowledged, oracle: Oracle) -> Decimal:
    if HARD[plan].startswith("allowance"):
        return Decimal(tokens(event.measures))
    return oracle.rounded(oracle.cost(event.measures, event.model))


def tokens(measures: Mapping[str, str]) -> int:
    """Input and output."""
    return sum(int(measures.get(name, 0)) for name in TOKENS)
