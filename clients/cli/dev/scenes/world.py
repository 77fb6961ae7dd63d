"""What the scenes play with, and who plays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from clients.cli.dev.books import Books
from clients.cli.dev.callers import Callers
from clients.cli.dev.cluster import Cluster
from clients.cli.dev.stage import Stage

RATE_CARD: Final = "llm"
"""Of the example catalog: it prices every event of the story."""
WINDOW: Final = "8192"
LOOK_SECONDS: Final = 0.05
DRAIN_SECONDS: Final = 60.0

RACE_BALANCE: Final = Decimal(500)
OUTAGE_BALANCE: Final = Decimal(20)


class TookTooLong(TimeoutError):
    """Something that must happen by itself did not."""


class TookAnotherTurn(RuntimeError):
    """A scene can not go on: something was refused that its customer has."""


@dataclass(frozen=True, slots=True)
class World:
    """What the scenes play with."""

    cluster: Cluster
    books: Books
    callers: Callers
    stage: Stage
    seed: int
    catalog: str

    def actor(self, role: str) -> str:
        """The id of a scene's own customer."""
        return ACTORS[role][0]


ACTORS: Final = {
    "race": ("kite", "prepaid"),
    "outage": ("lark", "prepaid"),
    "stream": ("moss", "payg"),
    "limit": ("nova", "free"),
}
"""Role: customer id and plan."""


def eventually(holds: Callable[[], bool], what: str, seconds: float = DRAIN_SECONDS) -> float:
    """Waits until it holds: how many seconds it took.

    Raises:
        TookTooLong: it does not, in that time.
    """
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TookTooLong(f"after {seconds:.0f} s it still does not hold that {what}")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def drained(world: World, customer_id: str) -> bool:
    """Are all events that were acknowledged for this customer in the books?"""
    told = len(world.callers.heard.of_customer(customer_id))
    return told == 0 or world.books.event_count(customer_id, RATE_CARD) >= told


def counted(counter: Counter[str]) -> str:
    """`12 RATE_LIMITED, 3 LIMIT_REACHED`, most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common()) or "none"
