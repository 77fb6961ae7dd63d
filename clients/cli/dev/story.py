"""The story from its first scene to its checks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from clients.cli.dev import audit, oracle
from clients.cli.dev.books import Balance
from clients.cli.dev.checks import Played, check
from clients.cli.dev.outcome import Check, Row
from clients.cli.dev.people import PEOPLE, Person, PlannedCall
from clients.cli.dev.scenes.killed import killed
from clients.cli.dev.scenes.lowered import lowered
from clients.cli.dev.scenes.race import race
from clients.cli.dev.scenes.streaming import streaming
from clients.cli.dev.scenes.unplugged import unplugged
from clients.cli.dev.scenes.world import (
    ACTORS,
    OUTAGE_BALANCE,
    RACE_BALANCE,
    RATE_CARD,
    WINDOW,
    World,
    drained,
    eventually,
)

INCLUDED: Final = 1_000_000
"""Tokens that a hybrid customer has per month in the example catalog."""
EARLIER_AT_MOST: Final = 100_000
"""Tokens in one event of earlier this month: no window is larger."""
BEFORE_THE_KILL: Final = Fraction(2, 3)

TITLES: Final = (
    "A catalog, five plans, fourteen customers, two sidecars",
    "Twenty callers race for six slots",
    "LLM requests stream, and settle under way",
    "The control plane is unplugged",
    "A sidecar is killed in mid-stream",
    "A limit is lowered for everybody",
    "What callers were told, against the books",
)
SET_UP, RACE, STREAMING, UNPLUGGED, KILLED, LOWERED, CHECKED = TITLES


@dataclass(frozen=True, slots=True)
class Told:
    """The story's end."""

    checks: Sequence[Check]
    rows: Sequence[Row]
    audit: audit.Audit
    seconds: int


def play(world: World, calls: Sequence[PlannedCall]) -> Told:
    """Plays every scene, then checks.

    Raises:
        TookTooLong, NobodyAnswers, ServerFailed, BooksRefused: the cluster fails the story itself.
    """
    began = time.monotonic()
    world.stage.scene(SET_UP)
    prices = oracle.read(world.catalog, RATE_CARD)
    before = set_up(world, calls, prices)
    world.stage.scene(RACE)
    raced = race(world)
    world.stage.scene(STREAMING)
    first = int(len(calls) * BEFORE_THE_KILL)
    streaming(world, calls[:first])
    world.stage.scene(UNPLUGGED)
    away = unplugged(world)
    world.stage.scene(KILLED)
    kill = killed(world, calls[first:])
    world.stage.scene(LOWERED)
    _everything_drained(world)
    after = {person.customer_id: world.books.balances(person.customer_id) for person in PEOPLE}
    lower = lowered(world)
    world.stage.scene(CHECKED)
    _everything_drained(world)
    found = audit.audit(_accounts(world, after), prices, world.callers.heard)
    letters = world.books.dead_letters()
    judged = check(Played(raced, away, kill, lower, world.callers.heard, found, letters))
    world.stage.say(f"{sum(each.held for each in judged)} of {len(judged)} checks held")
    rows = [_row(world, person, before, after, found) for person in PEOPLE]
    return Told(judged, rows, found, round(time.monotonic() - began))


Standing = dict[str, dict[str, Balance]]


def set_up(world: World, calls: Sequence[PlannedCall], prices: oracle.Oracle) -> Standing:
    """Publishes the catalog and makes the customers, each with what the story needs: their balances then."""
    revision = world.books.publish(world.catalog)
    world.stage.say(f"published examples/catalogs/example.yaml: revision {revision}")
    for person in PEOPLE:
        world.books.customer(person.customer_id, person.plan)
        if person.plan == "prepaid":
            world.books.grant(person.customer_id, "usd", _half_of_cost(person, calls, prices))
    for customer_id, plan in ACTORS.values():
        world.books.customer(customer_id, plan)
    world.books.grant(ACTORS["race"][0], "usd", RACE_BALANCE)
    world.books.grant(ACTORS["outage"][0], "usd", OUTAGE_BALANCE)
    world.stage.say(
        f"{len(PEOPLE) + len(ACTORS)} customers; the prepaid ones can pay half of what they will ask for"
    )
    hybrids = [person for person in PEOPLE if person.plan == "hybrid"]
    for person in hybrids:
        _report_earlier(world, person, calls)
    _everything_drained(world)
    world.stage.say("hybrid ones reported earlier usage: their allowance lasts for half of it too")
    return {person.customer_id: world.books.balances(person.customer_id) for person in PEOPLE}


def _half_of_cost(person: Person, calls: Sequence[PlannedCall], prices: oracle.Oracle) -> Decimal:
    costs = (prices.cost(call.total, call.attributes["model"]) for call in _of(person, calls))
    return max(prices.rounded(sum(costs, Fraction(0)) / 2), Decimal(1).scaleb(-prices.scale))


def _report_earlier(world: World, person: Person, calls: Sequence[PlannedCall]) -> None:
    """So many tokens that the allowance runs out half-way."""
    to_come = sum(audit.tokens(call.total) for call in _of(person, calls))
    earlier, number = max(0, INCLUDED - to_come // 2), 0
    while earlier > 0:
        measures = {
            "input_tokens": str(min(earlier, EARLIER_AT_MOST)),
            "output_tokens": "0",
            "context_window": WINDOW,
        }
        world.callers.report(0, person.customer_id, f"{person.customer_id}-earlier-{number}", measures)
        earlier -= EARLIER_AT_MOST
        number += 1


def _of(person: Person, calls: Sequence[PlannedCall]) -> list[PlannedCall]:
    return [call for call in calls if call.customer_id == person.customer_id]


def _everybody() -> list[tuple[str, str]]:
    return [*((person.customer_id, person.plan) for person in PEOPLE), *ACTORS.values()]


def _everything_drained(world: World) -> None:
    waiting = [customer for customer, _ in _everybody()]

    def all_drained() -> bool:
        while waiting and drained(world, waiting[-1]):
            waiting.pop()
        world.stage.tick(f"waiting for the last usage of {len(waiting)} customers to reach the books")
        return not waiting

    try:
        eventually(all_drained, "all that was acknowledged is in the books")
    except TimeoutError:  # the checks then say what is missing
        world.stage.say(f"still missing usage of {', '.join(waiting)}")
    world.stage.tick("")


def _accounts(world: World, after: Standing) -> list[audit.Account]:
    return [
        audit.Account(
            customer_id,
            plan,
            world.callers.heard.of_customer(customer_id),
            world.books.events(customer_id),
            after.get(customer_id) or world.books.balances(customer_id),
        )
        for customer_id, plan in _everybody()
    ]


def _row(world: World, person: Person, before: Standing, after: Standing, found: audit.Audit) -> Row:
    heard, customer = world.callers.heard, person.customer_id
    refused = dict(heard.refused[customer]) if customer in heard.refused else {}
    return Row(
        customer=customer,
        plan=person.plan,
        requests=heard.allowed[customer] + sum(refused.values()),
        allowed=heard.allowed[customer],
        refused=refused,
        tokens=heard.tokens[customer],
        cost=f"{found.paid.get(customer, Decimal(0)):.6f}",
        before=_left(person, before),
        after=_left(person, after),
    )


SHOWN: Final = {
    "free": "allowance:chat",
    "hybrid": "allowance:chat",
    "pro": "wallet:usd",
    "prepaid": "wallet:usd",
}
"""Plan to the balance that its row shows; payg has none."""


def _left(person: Person, standing: Standing) -> str:
    balance = standing[person.customer_id].get(SHOWN.get(person.plan, ""))
    if balance is None:
        return ""
    return f"{balance.left:.4f} usd" if balance.unit == "usd" else f"{balance.left.normalize():,f} tokens"
