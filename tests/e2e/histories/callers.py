"""Apps under load: threads that ask for everything, write down what they are told, and ask again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.e2e.histories.history import Account, Asked, Call, History, Told, Verb
from tests.e2e.histories.line import Line

TTL_SECONDS: Final = 6.0
KEPT: Final = 100
"""Keys of the past that a caller may send again."""
FINISH_SECONDS: Final = 90.0
_NOT_NOW: Final = frozenset({"CONTROL_PLANE_UNREACHABLE", "VIEW_TOO_OLD"})
"""Refusals that are none for who has time."""


@dataclass(slots=True)
class Hold:
    """A reservation that its caller goes on with."""

    asked: Asked
    line: Line
    disks_lost: int
    """Of its sidecar, before it was made."""
    estimate: int
    settled: int = 0
    """Totals that were sent last."""


@dataclass(slots=True)
class Seat:
    """A holder, and what its caller believes of it."""

    customer_id: str
    holder: str
    is_held: bool = False
    unheard: Asked | None = None
    """A change of which it does not know what became."""
    disks_lost: int = 0
    """Of all sidecars, before what it was told last."""


class Caller(threading.Thread):
    """One app. It speaks to all sidecars, and has holders of seats of its own."""

    def __init__(
        self, name: str, lines: Sequence[Line], history: History, *, seed: str, pace_seconds: float
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self._lines, self._history, self._pace_seconds = lines, history, pace_seconds
        self._random = Random(f"{seed} {name}")
        self._stopping = threading.Event()
        self._numbers = 0
        self._past: deque[Asked] = deque(maxlen=KEPT)
        self._unfinished: dict[str, Asked] = {}
        """Uses whose outcome is unknown, by key."""
        self._holds: list[Hold] = []
        self._seats: dict[tuple[str, str], Seat] = {}

    # Its life

    def run(self) -> None:
        """Asks until it is stopped."""
        acts, weights = list(_ACTS), list(_ACTS.values())
        try:
            while not self._stopping.wait(self._random.expovariate(1 / self._pace_seconds)):
                act = self._random.choices(acts, weights)[0]
                act(self, self._random.choice(list(self._history.accounts.values())))
        except BaseException as error:  # noqa: BLE001 -- said by who waits for this thread
            self.failure = error

    def stop(self) -> None:
        """After the call under way."""
        self._stopping.set()

    def finish(self, give_up: Callable[[], bool]) -> None:
        """Everything is mended: asks until every outcome is known, and ends what it holds."""
        while not give_up():
            self._repeat_unknown()
            for hold in list(self._holds):
                self._end(hold)
            for seat in [one for one in self._seats.values() if self._is_unsure(one)]:
                self._change(seat, Verb.REMOVE)
            if not (self._unfinished or self._holds or any(map(self._is_unsure, self._seats.values()))):
                return
            threading.Event().wait(0.05)
        raise AssertionError(f"{self.name} still does not know of {[*self._unfinished, *self._holds]}")

    def give_seats_back(self, give_up: Callable[[], bool]) -> None:
        """All that it was told to have; a replica that is just coming back is asked again."""
        while held := [one for one in self._seats.values() if one.is_held]:
            assert not give_up(), f"{self.name} can not give back {held}"
            for seat in held:
                self._change(seat, Verb.REMOVE)

    # Uses

    def consume(self, account: Account) -> None:
        """Decided usage."""
        self._use(self._asked(Verb.CONSUME, account.customer_id, points=self._points()))

    def check(self, account: Account) -> None:
        """May it be done? It is not done then."""
        line = self._any_line()
        asked = self._asked(Verb.CHECK, account.customer_id, points=self._points())
        self._ask(replace(asked, sidecar=line.name), line)

    def report(self, account: Account) -> None:
        """Facts, one or several in a call."""
        line, size = self._any_line(), self._random.choice([1, 1, 2, 5])
        batch = [
            replace(self._asked(Verb.REPORT, account.customer_id, points=self._points()), sidecar=line.name)
            for _ in range(size)
        ]
        self._report(batch, line)

    def repeat(self, _account: Account) -> None:
        """A key of the past, through any sidecar."""
        if self._past:
            self._use(self._random.choice(self._past))

    def repeat_unknown(self, _account: Account) -> None:
        """What a careful app does when it did not hear."""
        if self._unfinished:
            self._use(self._random.choice(list(self._unfinished.values())))

    def _use(self, asked: Asked) -> Told:
        line = self._any_line()
        asked = replace(asked, sidecar=line.name)
        if asked.verb is Verb.REPORT:
            return self._report([asked], line)[0].told
        return self._ended(self._ask(asked, line)).told

    def _report(self, batch: Sequence[Asked], line: Line) -> list[Call]:
        calls = [self._history.ask(asked) for asked in batch]
        for call, answer in zip(calls, line.report(batch), strict=True):
            self._history.tell(call, answer)
            self._ended(call)
        return calls

    def _ended(self, call: Call) -> Call:
        self._past.append(call.asked)
        if call.told is Told.UNKNOWN:
            self._unfinished[call.asked.key] = call.asked
        elif call.told is Told.ACCEPTED or (call.told is Told.REFUSED and call.answer.why not in _NOT_NOW):
            self._unfinished.pop(call.asked.key, None)
        return call

    def _repeat_unknown(self) -> None:
        for asked in list(self._unfinished.values()):
            self._use(asked)

    # Reservations, which stay at the sidecar that has them

    def reserve(self, account: Account) -> None:
        """Holds an estimate; goes on with those that it was told of."""
        line, points = self._any_line(), self._points()
        disks_lost = self._disks_lost(line)
        asked = self._asked(Verb.RESERVE, account.customer_id, points=points)
        call = self._ask(replace(asked, sidecar=line.name, ttl_seconds=TTL_SECONDS), line)
        if call.told is Told.UNKNOWN and self._random.random() < 0.5:
            call = self._ask(call.asked, line)
        if call.told is Told.ACCEPTED:
            self._holds.append(Hold(call.asked, line, disks_lost, points))

    def go_on(self, _account: Account) -> None:
        """Settles some, extends, ends, or forgets one of its reservations."""
        if not self._holds:
            return
        hold = self._random.choice(self._holds)
        if self._is_gone(hold):
            self._holds.remove(hold)
            return
        match self._random.choice(["settle", "settle", "extend", "end", "end", "forget"]):
            case "settle" if hold.settled < hold.estimate:
                self._settle(hold, self._random.randint(hold.settled + 1, hold.estimate), is_final=False)
            case "extend":
                hold.estimate += self._random.choice([1, 5])
                self._ask(self._of(hold, Verb.EXTEND, points=hold.estimate), hold.line)
            case "forget":
                self._holds.remove(hold)
            case _:
                self._end(hold)

    def _settle(self, hold: Hold, points: int, *, is_final: bool) -> Call:
        hold.settled = points
        asked = self._of(hold, Verb.SETTLE, points=points)
        return self._ask(replace(asked, is_final=is_final), hold.line)

    def _end(self, hold: Hold) -> None:
        """For good, by a settle or a release; the same again until it is known."""
        if self._is_gone(hold):
            self._holds.remove(hold)
            return
        dice = Random(hold.asked.key)
        if dice.random() < 0.8:
            # Sometimes more was used than was held.
            points = max(hold.settled, 1, hold.asked.points + dice.choice([-1, 0, 0, 0, 2]))
            call = self._settle(hold, points, is_final=True)
        else:
            call = self._ask(self._of(hold, Verb.RELEASE), hold.line)
        if call.told is Told.ACCEPTED or "RESERVATION_" in call.answer.why:
            self._holds.remove(hold)

    def _is_gone(self, hold: Hold) -> bool:
        """With its disk."""
        return self._disks_lost(hold.line) > hold.disks_lost

    def _disks_lost(self, line: Line) -> int:
        return sum(lost.sidecar == line.name for lost in list(self._history.lost_disks))

    def _of(self, hold: Hold, verb: Verb, *, points: int = 0) -> Asked:
        return replace(hold.asked, verb=verb, points=points, ttl_seconds=0.0)

    # Seats

    def seat(self, account: Account) -> None:
        """Takes one, or gives one back; who did not hear asks the same again first."""
        if not account.seats:
            return
        holder = f"{self.name}-{self._random.choice('ab')}"
        seat = self._seats.setdefault((account.customer_id, holder), Seat(account.customer_id, holder))
        if seat.unheard is not None and self._random.random() < 0.7:
            self._change(seat, seat.unheard.verb, again=seat.unheard)
        else:
            self._change(seat, Verb.REMOVE if seat.is_held else Verb.ADD)

    def _change(self, seat: Seat, verb: Verb, *, again: Asked | None = None) -> None:
        line, disks_lost = self._any_line(), len(self._history.lost_disks)
        asked = again or replace(self._asked(verb, seat.customer_id), holder=seat.holder)
        call = self._ask(replace(asked, sidecar=line.name), line)
        if call.told is Told.ACCEPTED:
            seat.is_held, seat.unheard, seat.disks_lost = verb is Verb.ADD, None, disks_lost
        elif call.told is Told.UNKNOWN:
            seat.unheard = call.asked

    def _is_unsure(self, seat: Seat) -> bool:
        """Of what it did not hear, or what may have gone with a disk."""
        return seat.unheard is not None or seat.disks_lost < len(self._history.lost_disks)

    # One call

    def _asked(self, verb: Verb, customer_id: str, *, points: int = 0) -> Asked:
        self._numbers += 1
        return Asked(
            verb=verb, sidecar="", customer_id=customer_id, key=f"{self.name}-{self._numbers}", points=points
        )

    def _ask(self, asked: Asked, line: Line) -> Call:
        call = self._history.ask(asked)
        self._history.tell(call, line.make(asked))
        return call

    def _any_line(self) -> Line:
        return self._random.choice(self._lines)

    def _points(self) -> int:
        return self._random.choice([1, 1, 1, 2, 3, 10])


_ACTS: Final[Mapping[Callable[[Caller, Account], None], int]] = {
    Caller.check: 4,
    Caller.consume: 10,
    Caller.report: 3,
    Caller.reserve: 3,
    Caller.go_on: 6,
    Caller.seat: 2,
    Caller.repeat: 2,
    Caller.repeat_unknown: 2,
}


class Callers:
    """Several of them."""

    def __init__(
        self,
        sidecars: Mapping[str, str],
        history: History,
        *,
        number: int,
        seed: str,
        pace_seconds: float,
        prefix: str = "",
    ) -> None:
        """`sidecars`: addresses by name; `pace_seconds`: between two calls of a caller; `prefix`: of its keys."""
        self._lines = [Line(name, address) for name, address in sidecars.items()]
        self._callers = [
            Caller(f"{prefix}app{one}", self._lines, history, seed=seed, pace_seconds=pace_seconds)
            for one in range(number)
        ]

    def start(self) -> None:
        """From now on."""
        for caller in self._callers:
            caller.start()

    def stop(self) -> None:
        """They end their calls, and make no others by themselves."""
        for caller in self._callers:
            caller.stop()
        for caller in self._callers:
            caller.join(30)
        self.raise_failures()

    def raise_failures(self) -> None:
        """A caller that broke is no caller."""
        for caller in self._callers:
            if caller.failure is not None:
                raise AssertionError(f"{caller.name} broke") from caller.failure

    def finish(self) -> None:
        """Everything is mended: until every outcome is known, and nothing is held. All at once: after much trouble
        each has hundreds of calls to repeat.
        """
        deadline = time.monotonic() + FINISH_SECONDS
        with ThreadPoolExecutor(len(self._callers)) as several:
            list(several.map(lambda one: one.finish(lambda: time.monotonic() > deadline), self._callers))

    def give_seats_back(self) -> None:
        """All of them."""
        deadline = time.monotonic() + FINISH_SECONDS
        for caller in self._callers:
            caller.give_seats_back(lambda: time.monotonic() > deadline)

    def close(self) -> None:
        """No more calls."""
        for caller in self._callers:
            caller.stop()
        for line in self._lines:
            line.close()
