"""A whole history: load, faults by a seed, mending, drain, and the books held against it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from tests.e2e.histories.faults import FAULTS, Hurt, Scene
from tests.e2e.histories.history import History
from tests.e2e.histories.installation import Installation, Weakness

WEAKNESSES: Final = (Weakness.FULL, Weakness.FAILING, Weakness.CLOCK, Weakness.FULL | Weakness.FAILING)
DRAIN_SECONDS: Final = 90.0
NEVER: Final = ("equation:", "doubled:", "dead letter:")
"""So begins what no late upload mends; each is read in one transaction."""
TOP_UP_SECONDS: Final = 3.0
NEW_CUSTOMER_SECONDS: Final = 15.0
READY_SECONDS: Final = 60.0
BETWEEN_SECONDS: Final = 3.5
"""Two faults begin so far apart, on average; each lasts twice that, so several go on at a time."""
LONGER_SECONDS: Final = 60.0
"""So much longer trouble goes on, where a kind of fault has not taken place yet."""
FELT_SECONDS: Final = 0.25
"""Between two looks at who is felt: some take a program or a call to find out."""


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


@dataclass(slots=True)
class Kinds:
    """Which fault is next: each kind in turn, by chance, and one that was not felt before its turn again."""

    names: Sequence[str]
    random: Random
    felt: Counter[str] = field(default_factory=Counter)
    _round: list[str] = field(default_factory=list)

    def next(self) -> str:
        """Of those that are left of this round."""
        if not self._round:
            self._round = self.random.sample(self.names, len(self.names))
        return self._round.pop()

    def next_missing(self) -> str:
        """Of those that never took place: when there is no time left for rounds."""
        return self.random.choice(self.missing)

    def ended(self, name: str, *, is_felt: bool) -> None:
        """It is over, or there was nothing to hurt."""
        if is_felt:
            self.felt[name] += 1
        elif name not in self._round:
            self._round.insert(0, name)

    @property
    def missing(self) -> list[str]:
        """Kinds that never took place."""
        return [name for name in self.names if not self.felt[name]]


@dataclass(order=True, slots=True)
class UnderWay:
    """A fault that lasts."""

    mends_at: float
    number: int
    name: str = field(compare=False)
    hurt: Hurt = field(compare=False)
    is_felt: bool = field(default=False, compare=False)

    def feel(self) -> None:
        """Looks again whether anybody has felt it."""
        self.is_felt = self.is_felt or self.hurt.felt()


class Soak:
    """Many faults at once, for a time."""

    def __init__(self, folder: Path, seed: str, installation: Installation, kinds: Sequence[str]) -> None:
        self.history = History(folder / "history.jsonl")
        self._log = folder / "faults.log"
        self._seed = seed
        self._installation = installation
        self._random = Random(f"{seed} faults")
        self._kinds = Kinds(kinds, self._random)
        self._under_way: list[UnderWay] = []
        self._numbers = count()
        self._feels_at = 0.0
        self.said: list[str] = []
        self.deaths: Counter[str] = Counter()
        """Processes that could not start and ended by themselves, which they may, and were started again: by why."""

    def run(self, seconds: float) -> dict[str, int]:
        """From the first call to the books; how much there was of everything, each kind of fault at least once.

        Raises AssertionError with every violation.
        """
        with load(self._installation, self.history, seed=self._seed, callers=8, pace_seconds=0.03) as made:
            self._trouble(made, seconds)
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
        self.said += [f"{name} never took place in {seconds:.0f} s" for name in self._kinds.missing]
        assert not self.said, "\n".join(self.said)
        deaths = {f"processes that ended by themselves: {why}": times for why, times in self.deaths.items()}
        felt = {f"{name} took place": self._kinds.felt[name] for name in self._kinds.names}
        return {**tally(self.history, books), **felt, **deaths}

    def _trouble(self, made: Load, seconds: float) -> None:
        over = threading.Event()
        people = threading.Thread(target=made.go_on_until, args=(over,), name="people")
        people.start()
        scene = Scene(self._installation, self.history, self._random, said=self.said)
        try:
            ends_at = time.monotonic() + seconds
            while (now := time.monotonic()) < ends_at + LONGER_SECONDS:
                is_late = now > ends_at
                if is_late and not self._is_missing():
                    break
                self._begin(self._kinds.next_missing() if is_late else self._kinds.next(), scene)
                self._pass(self._random.expovariate(1 / BETWEEN_SECONDS))
                made.callers.raise_failures()
        finally:
            over.set()
            while self._under_way:
                self._mend_next()
            for ending in scene.ending:
                ending.join(120)
            people.join(120)

    def _begin(self, name: str, scene: Scene) -> None:
        self._note(f"{name} begins")
        hurt = FAULTS[name](scene)
        self._note(f"{name}: {hurt}")
        if hurt is None:
            self._kinds.ended(name, is_felt=False)
        else:
            mends_at = time.monotonic() + self._random.expovariate(1 / (2 * BETWEEN_SECONDS))
            heappush(self._under_way, UnderWay(mends_at, next(self._numbers), name, hurt))

    def _is_missing(self) -> bool:
        """Is there a kind that nobody has felt, also of those under way?"""
        return bool(set(self._kinds.missing) - {one.name for one in self._under_way if one.is_felt})

    def _pass(self, seconds: float) -> None:
        """Time, in which faults end."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            while self._under_way and self._under_way[0].mends_at <= now:
                self._mend_next()
            self._restart_the_dead()
            if now > self._feels_at:
                self._feels_at = now + FELT_SECONDS
                for one in self._under_way:
                    one.feel()
            threading.Event().wait(0.05)

    def _mend_next(self) -> None:
        over = heappop(self._under_way)
        over.feel()
        over.hurt.mend()
        self._kinds.ended(over.name, is_felt=over.is_felt)
        self._note(f"{over.name} {over.hurt} is mended, and was {'felt' if over.is_felt else 'not felt'}")

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
        """What may end by itself may do so in the last moment, too."""

        def all_are_ready() -> bool:
            self._restart_the_dead()
            return all(server.is_ready() for server in self._servers())

        eventually(all_are_ready, seconds=READY_SECONDS, what="all servers are ready")

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
