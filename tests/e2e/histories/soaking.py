"""A whole history: load, faults by a seed, mending, drain, and the books held against it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from tests.e2e.fleet import ServerProcess, eventually
from tests.e2e.histories.books import Books, read_balances
from tests.e2e.histories.callers import TTL_SECONDS, Callers
from tests.e2e.histories.checker import check, tally
from tests.e2e.histories.deaths import why_it_may
from tests.e2e.histories.faults import FAULTS, Mend, Scene
from tests.e2e.histories.history import History
from tests.e2e.histories.installation import Installation, Weakness

WEAKNESSES: Final = (Weakness.FULL, Weakness.FAILING, Weakness.CLOCK, Weakness.FULL | Weakness.FAILING)
DRAIN_SECONDS: Final = 90.0
NEVER: Final = ("equation:", "doubled:", "dead letter:")
"""So begins what no late upload mends; each is read in one transaction."""
TOP_UP_SECONDS: Final = 3.0
NEW_CUSTOMER_SECONDS: Final = 15.0
BETWEEN_SECONDS: Final = 3.5
"""Two faults begin so far apart, on average; each lasts twice that, so several go on at a time."""


@dataclass(slots=True)
class Load:
    """Callers, and what they live on."""

    installation: Installation
    history: History
    callers: Callers
    prefix: str
    _tops_up: int = 0

    def found(self) -> None:
        """Customers: one with much in its wallet, one with little, one with an allowance."""
        for name, points in (("rich", 1_000_000), ("tight", 60)):
            self.installation.prepaid(self.history, f"{self.prefix}{name}")
            self.installation.top_up(self.history, f"{self.prefix}{name}", points)
        self.installation.metered(self.history, f"{self.prefix}ring")

    def go_on_until(self, is_over: threading.Event) -> None:
        """Little by little, so that there is always somebody whose balance is about to end."""
        began = time.monotonic()
        customers = count(1)
        next_customer = NEW_CUSTOMER_SECONDS
        while not is_over.wait(TOP_UP_SECONDS):
            self.installation.top_up(self.history, f"{self.prefix}tight", 60)
            if time.monotonic() - began > next_customer:
                next_customer += NEW_CUSTOMER_SECONDS
                self.installation.metered(self.history, f"{self.prefix}ring-{next(customers)}")


@contextlib.contextmanager
def load(
    installation: Installation,
    history: History,
    *,
    seed: str,
    callers: int,
    pace_seconds: float,
    prefix: str = "",
) -> Iterator[Load]:
    """Callers that ask while the block lasts; they end before its end, or with it."""
    sidecars = {machine.name: machine.sidecar.address for machine in installation.machines}
    several = Callers(sidecars, history, number=callers, seed=seed, pace_seconds=pace_seconds, prefix=prefix)
    try:
        made = Load(installation, history, several, prefix)
        made.found()
        several.start()
        yield made
    finally:
        several.close()


def wait(seconds: float) -> None:
    """For something in other processes that nobody can see, but that takes so long and no longer."""
    threading.Event().wait(seconds)


def books_match(
    installation: Installation,
    history: History,
    *,
    is_closed: bool = False,
    left_seats: Mapping[str, Decimal] | None = None,
    seconds: float = DRAIN_SECONDS,
) -> Books:
    """Waits until the books have everything: what is still wrong with them then is wrong. What may not be wrong for a
    moment, and was, stays wrong.

    Raises AssertionError with all of it.
    """
    found: list[str] = []
    never: dict[str, None] = {}
    books: Books

    def is_right() -> bool:
        nonlocal books
        books = installation.books(history, is_closed=is_closed)
        books = replace(books, left_seats=left_seats or {})
        found[:] = check(history, books)
        never.update(dict.fromkeys(line for line in found if line.startswith(NEVER)))
        return not found

    try:
        eventually(is_right, seconds=seconds, what="the books match what callers were told")
    except AssertionError:
        raise AssertionError("\n".join({**never, **dict.fromkeys(found)})) from None
    assert not never, "\n".join(never)
    return books


def seats_come_back(made: Load) -> dict[str, Decimal]:
    """Who was told to have a seat gives it back; whatever is held then is held by nobody."""
    made.callers.give_seats_back()
    customers = [one.customer_id for one in made.history.accounts.values() if one.seats]

    def left() -> dict[str, Decimal]:
        held = {name: read_balances(made.installation, name).get("gauge:seats") for name in customers}
        return {name: balance.spent for name, balance in held.items() if balance and balance.spent}

    with contextlib.suppress(AssertionError):  # said by who looks at what is left
        eventually(lambda: not left(), seconds=20, what="all seats are free")
    return left()


class Soak:
    """Many faults at once, for a time."""

    def __init__(self, folder: Path, seed: str, installation: Installation) -> None:
        self.history = History(folder / "history.jsonl")
        self._log = folder / "faults.log"
        self._seed = seed
        self._installation = installation
        self._random = Random(f"{seed} faults")
        self._mends: list[tuple[float, int, str, Mend]] = []
        self._numbers = count()
        self.said: list[str] = []
        self.deaths: Counter[str] = Counter()
        """Processes that could not start and ended by themselves, which they may, and were started again: by why."""

    def run(self, seconds: float, *, kinds: Sequence[str] = tuple(FAULTS)) -> dict[str, int]:
        """From the first call to the books; how much there was of everything.

        Raises AssertionError with every violation.
        """
        with load(self._installation, self.history, seed=self._seed, callers=8, pace_seconds=0.03) as made:
            self._trouble(made, seconds, kinds)
            made.callers.stop()
            self._mend_all()
            self._say("all is mended")
            made.callers.finish()
            self._say("callers know of everything")
            books_match(self._installation, self.history)
            self._say("the books match")
            left_seats = seats_come_back(made)
            self._say("seats are free")
            wait(TTL_SECONDS)  # until no hold is open that its caller has forgotten
            self._stop_all()
            self._say("sidecars have ended")
            books = books_match(self._installation, self.history, is_closed=True, left_seats=left_seats)
        assert not self.said, "\n".join(self.said)
        deaths = {f"processes that ended by themselves: {why}": times for why, times in self.deaths.items()}
        return {**tally(self.history, books), **deaths}

    def _trouble(self, made: Load, seconds: float, kinds: Sequence[str]) -> None:
        over = threading.Event()
        people = threading.Thread(target=made.go_on_until, args=(over,), name="people")
        people.start()
        scene = Scene(self._installation, self.history, self._random, said=self.said)
        try:
            ends_at = time.monotonic() + seconds
            while time.monotonic() < ends_at:
                name = self._random.choice(kinds)
                self._note(f"{name} begins")
                done = FAULTS[name](scene)
                self._note(f"{name}: {done and done[0]}")
                if done is not None:
                    mends_at = time.monotonic() + self._random.expovariate(1 / (2 * BETWEEN_SECONDS))
                    heappush(self._mends, (mends_at, next(self._numbers), f"{name} {done[0]}", done[1]))
                self._pass(self._random.expovariate(1 / BETWEEN_SECONDS))
                made.callers.raise_failures()
        finally:
            over.set()
            while self._mends:
                self._mend_next()
            for ending in scene.ending:
                ending.join(120)
            people.join(120)

    def _pass(self, seconds: float) -> None:
        """Time, in which faults end."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            while self._mends and self._mends[0][0] <= now:
                self._mend_next()
            self._restart_the_dead()
            threading.Event().wait(0.05)

    def _mend_next(self) -> None:
        _, _, what, mend = heappop(self._mends)
        mend()
        self._note(f"{what} is mended")

    def _restart_the_dead(self) -> None:
        for server in self._servers():
            status = server.ended_by_itself
            if status is not None:
                said = server.said()
                why = why_it_may(status, said)
                self._note(f"{server.name} ended by itself with status {status}: {why or said[-4000:]}")
                if why is None:
                    self.said.append(f"{server.name} ended by itself with status {status}:\n{said[-2000:]}")
                else:
                    self.deaths[why] += 1
                server.launch()

    def _servers(self) -> list[ServerProcess]:
        return [*self._installation.replicas, *(one.sidecar for one in self._installation.machines)]

    def _mend_all(self) -> None:
        self._restart_the_dead()
        for server in self._servers():
            server.wait_until_ready()

    def _stop_all(self) -> None:
        for machine in self._installation.machines:
            status = machine.sidecar.terminate()
            if status != 0:
                self.said.append(f"{machine.name} was asked to stop in peace and ended with status {status}")

    def _say(self, what: str) -> None:
        self._note(what)
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {time.monotonic():.3f} {what}\n")
