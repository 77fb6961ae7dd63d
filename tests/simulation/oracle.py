"""What callers were told, kept outside of the system, and held against its books."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from purser.v1 import decision_pb2 as answers
from tests.simulation.contents import Contents

EXPIRY_SECONDS: Final = 10.0
"""So long after its time a reservation may still be open: clocks drift, and its sidecar looks now and then."""


class Told(StrEnum):
    """How one call ended, for its caller."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"
    """A status that says that nothing was written."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A disk no longer has what it had."""

    node: str
    at: float
    is_remote: bool
    """What was acknowledged is in the books."""
    is_unnoticed: bool
    """Nobody can know."""
    is_doubtful: bool
    """Or perhaps nobody can."""


@dataclass(slots=True, kw_only=True)
class Use:
    """One idempotency key, and everything that was said about it."""

    key: str
    customer_id: str
    amount: int
    is_fact: bool
    asked_at: float
    seat: str = ""
    """Of a gauge event: who holds."""
    adds: bool = False
    told: list[tuple[float, Told, str]] = field(default_factory=list)
    """When and how calls ended, and at which sidecar."""
    losses: "list[Loss]" = field(default_factory=list)
    """Disks that had it, and lost it."""

    @property
    def _lost(self) -> "list[Loss]":
        """Those that were lost after all that was acknowledged there, and nowhere else."""
        if not self.losses:
            return []
        accepted = [(at, node) for at, told, node in self.told if told is Told.ACCEPTED]
        return [
            loss for loss in self.losses if all(loss.node == node and at <= loss.at for at, node in accepted)
        ]

    @property
    def may_be_lost(self) -> bool:
        """Has who acknowledged it lost its disk since, before it was in the books?"""
        return any(not loss.is_remote for loss in self._lost)

    @property
    def is_only_booked(self) -> bool:
        """The same, when it was in the books already."""
        return any(loss.is_remote for loss in self._lost)

    @property
    def is_forgotten(self) -> bool:
        """And has the control plane heard nothing of that time? Then nobody can know that it was spent."""
        return any(loss.is_unnoticed for loss in self._lost)

    @property
    def is_doubtful(self) -> bool:
        """May that be so? A log in which pages are garbage ends there, and nobody sees that it went on."""
        return any(loss.is_doubtful for loss in self._lost)

    @property
    def was_accepted(self) -> bool:
        """By anybody, with `ACCEPTED` or `DUPLICATE`."""
        return any(told is Told.ACCEPTED for _, told, _ in self.told)

    @property
    def may_be_booked(self) -> bool:
        """Is there a call that may have been written?"""
        return any(told in {Told.ACCEPTED, Told.UNKNOWN} for _, told, _ in self.told)

    @property
    def is_certain(self) -> bool:
        """Does its caller know what became of it, and nobody's disk stands against it?"""
        return bool(self.told) and self.told[-1][1] is not Told.UNKNOWN and not self.may_be_lost


@dataclass(slots=True, kw_only=True)
class Held:
    """A reservation that was acknowledged."""

    key: str
    customer_id: str
    node: int
    amount: int
    since: float
    ends_at: float
    """Not before then does it end by itself: its caller's clock is true."""
    settled: int = 0
    """The highest totals whose settle was acknowledged."""
    decided: int = 0
    """The same, of those that came before it ended: the rest are facts."""
    asked: int | None = None
    """The highest totals that anybody tried to settle. None: nobody did."""
    is_ending: bool = False
    """A release or a final settle was asked for."""
    is_open: bool = True
    """Its end was not heard of."""
    is_set_back: bool = False
    """Its sidecar's disk went back to an earlier state: what was settled since may be forgotten, and it open again."""
    booked: int = 0
    """What the books had of it when that happened."""
    may_be_lost: bool = False
    is_forgotten: bool = False
    is_doubtful: bool = False

    def is_of(self, key: str) -> bool:
        """Is it the key of an event that settles it?"""
        return key == self.key or key.startswith(f"{self.key}#late")

    def promised(self, at: float) -> int:
        """What it is certain to have of its balance."""
        if self.is_ending or at >= self.ends_at:
            return min(self.decided, self.amount)
        return self.amount


class Oracle:
    """All that was said in one history."""

    def __init__(self) -> None:
        self.uses: dict[str, Use] = {}
        self.holds: dict[str, Held] = {}
        self.given: defaultdict[str, int] = defaultdict(int)
        """What may be decided for each customer, in all."""
        self.grant_ends: dict[str, float] = {}
        """When grants of credits end; nothing is spent of them after that."""
        self.revisions: list[tuple[float, int]] = []
        """When changes were made, and their revisions, in order."""
        self.suspensions: defaultdict[str, list[tuple[int, bool]]] = defaultdict(list)
        """From which revision on a customer is suspended, or is not."""
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.is_promise_void = False
        """A restored control plane does not cover leases that its backup has not seen and nobody presents."""
        self.is_restored = False
        """Revisions may have come twice."""

    def ask(self, use: Use) -> Use:
        """A call is made with this key, perhaps again."""
        return self.uses.setdefault(use.key, use)

    def told(self, use: Use, at: float, told: Told, node: str) -> None:
        """A caller heard this."""
        use.told.append((at, told, node))
        self.counts[told.value] += 1
        if told is Told.ACCEPTED and not self.is_promise_void:
            if use.seat:
                self._check_seats(use)
            else:
                self.check_spent(use.customer_id, at)

    def check_spent(self, customer_id: str, at: float) -> None:
        """What was decided, and what reservations hold, is never more than was given."""
        if customer_id not in self.given:
            return
        spent, held = self._spent_and_held(customer_id, at, with_doubtful=True)
        if spent + held > self.given[customer_id]:
            self.violations.append(
                f"oversold: {customer_id} has {spent} decided and {held} held, of {self.given[customer_id]}"
            )

    def check_refused(self, use: Use) -> None:
        """Somebody is told that nothing is left: others have got it all, or may yet get it."""
        others = sum(
            other.amount
            for other in self.uses.values()
            if other is not use
            and other.customer_id == use.customer_id
            and (not other.told or other.may_be_booked)
        )
        if others + use.amount <= self.given[use.customer_id]:
            self.violations.append(
                f"refused: {use.key}, when {others} of {self.given[use.customer_id]} were asked for by others"
            )

    def check_kept(self, customer_id: str, balance: str, kept: int, at: float) -> None:
        """Nor more than the books `kept` for leases: what is free again there can be given to somebody else, whether
        anybody asks for it in this history or not.
        """
        spent, held = self._spent_and_held(customer_id, at, with_doubtful=False)
        if spent + held > kept:
            self.violations.append(
                f"free again: {customer_id} has {spent} decided and {held} held, and {balance} keeps {kept}"
            )

    def _spent_and_held(self, customer_id: str, at: float, *, with_doubtful: bool) -> tuple[int, int]:
        """What a disk has lost counts, too: its caller was told. Doubtful is also a reservation whose end was not
        heard of: it may have become a fact.
        """
        spent = sum(
            use.amount
            for use in self.uses.values()
            if use.customer_id == customer_id
            and use.was_accepted
            and not (use.is_fact or use.is_forgotten or use.key in self.holds)
            and (with_doubtful or not use.is_doubtful)
        )
        held = sum(
            hold.promised(at)
            for hold in self.holds.values()
            if hold.customer_id == customer_id
            and not hold.is_forgotten
            and (with_doubtful or not (hold.is_doubtful or (hold.is_ending and hold.is_open)))
        )
        return spent, held

    def _check_seats(self, use: Use) -> None:
        """Who holds a seat for certain: added, and no removal that could have come after."""
        certain = set()
        for added in self.uses.values():
            if (
                not (added.adds and added.was_accepted)
                or added.is_forgotten
                or added.customer_id != use.customer_id
            ):
                continue
            removals = (
                other
                for other in self.uses.values()
                if other.seat == added.seat and other.customer_id == added.customer_id and not other.adds
            )
            if all(
                other.told and other.is_certain and other.told[-1][0] < added.asked_at for other in removals
            ):
                certain.add(added.seat)
        if len(certain) > self.given[use.customer_id]:
            self.violations.append(
                f"oversold: {sorted(certain)} hold seats of {use.customer_id}, of {self.given[use.customer_id]}"
            )

    def decided(self, customer_id: str, asked_at: float, decision: answers.Decision, *, late: float) -> None:
        """An answer says how old its view is: so it knows what was changed before. `late`: so long it may take until a
        change arrives that was read.
        """
        fresh = decision.freshness
        if self.is_restored or not fresh.HasField("age"):
            return
        seen_until = asked_at - fresh.age.ToTimedelta().total_seconds() - late
        made = bisect_left(self.revisions, (seen_until, 0))
        if made and self.revisions[made - 1][1] > fresh.revision:
            self.violations.append(
                f"an answer asked for at {asked_at:.3f} says that its view of revision {fresh.revision} is "
                f"{fresh.age.ToTimedelta().total_seconds():.3f} s old, when {self.revisions[made - 1]} was there"
            )
        is_suspended = False
        for revision, suspended in self.suspensions[customer_id]:
            if revision <= fresh.revision:
                is_suspended = suspended
        if is_suspended and decision.allowed:
            self.violations.append(
                f"{customer_id} is suspended, and was allowed something at revision {fresh.revision}"
            )

    def hold_is_unknown(self, held: Held, node: str) -> None:
        """A sidecar has forgotten what it had acknowledged."""
        if not held.may_be_lost:
            self.violations.append(
                f"{held.key} was reserved at {node} for {held.amount} and is not known there"
            )

    def lost_disk(self, loss: Loss, had: Contents, has: Contents, booked: Mapping[str, int]) -> None:
        """Only what a sidecar's disk `had` and `has` no more may be gone, and of that only what was not `booked`."""
        lost = had.records - has.records
        in_books = replace(loss, is_remote=True, is_unnoticed=False, is_doubtful=False)
        for key in lost & self.uses.keys():
            self.uses[key].losses.append(in_books if key in booked else loss)
        for held in self.holds.values():
            mine = held.key in had.reservations and loss.node.endswith(f"-{held.node}")
            changed = had.reservations.get(held.key) != has.reservations.get(held.key)
            if mine and (changed or any(held.is_of(key) for key in lost)):
                held.is_set_back = held.is_open = True
                held.booked = sum(amount for key, amount in booked.items() if held.is_of(key))
                held.may_be_lost |= held.key not in has.reservations
                held.is_forgotten |= loss.is_unnoticed  # or what was settled of it since
                held.is_doubtful |= loss.is_doubtful

    def may_be_held(self, customer_id: str, at: float) -> int:
        """By reservations whose end was not heard of and whose time has not run out; a disk that went back may hold
        again what had ended.
        """
        return sum(
            held.amount
            for held in self.holds.values()
            if held.customer_id == customer_id and held.is_open and at < held.ends_at + EXPIRY_SECONDS
        )

    # At the end

    def check_books(self, booked: dict[str, tuple[str, int]], at: float) -> None:
        """`booked`: key → (customer, amount) of every event in the books, each once."""
        left = dict(booked)
        for held in self.holds.values():
            mine = [key for key in left if held.is_of(key)]
            self._check_hold(held, sum(left.pop(key)[1] for key in mine), at)
        for use in self.uses.values():
            if use.key in self.holds:
                continue
            found = left.pop(use.key, None)
            if found is None:
                if use.was_accepted and not (use.may_be_lost or (use.is_only_booked and self.is_restored)):
                    self.violations.append(
                        f"lost: {use.key} was accepted ({use.told}) and is not in the books"
                    )
            elif found != (use.customer_id, use.amount):
                self.violations.append(f"changed: {use.key} is {found}, and was {use}")
            elif not use.may_be_booked:
                self.violations.append(f"invented: {use.key} is in the books, and was only {use.told}")
        self.violations += [f"invented: nobody asked for {key}" for key in left]

    def _check_hold(self, held: Held, total: int, at: float) -> None:
        is_booked = at > held.ends_at + EXPIRY_SECONDS or not held.is_open
        # Forgotten by a spoiled disk, what was settled late is settled once more, as unknown, under another key.
        most = (held.asked or 0) + (held.settled if held.is_set_back else 0)
        least = held.settled if is_booked else 0
        if held.is_set_back:
            least = 0 if self.is_restored else held.booked
        if not least <= total <= most:
            self.violations.append(
                f"{held.key} is booked with {total}: {held.settled} was acknowledged, {held.asked} asked for"
            )

    def check_seats(self, holders: dict[str, int], customer_id: str) -> None:
        """Who holds is who was told so last."""
        changes: defaultdict[str, list[Use]] = defaultdict(list)
        for use in self.uses.values():
            if use.seat and use.customer_id == customer_id:
                changes[use.seat].append(use)
        for seat, uses in changes.items():
            done = [use for use in uses if use.may_be_booked]
            if not done or not all(use.was_accepted and use.is_certain for use in done):
                continue
            last = max(done, key=lambda use: use.asked_at)
            if any(use is not last and use.told[-1][0] >= last.asked_at for use in done):
                continue  # they came at the same time: either may have been the last
            if bool(holders.get(seat)) is not last.adds:
                self.violations.append(f"{seat} holds {holders.get(seat, 0)}, and was told otherwise: {last}")

    def check_rate(self, customer_id: str, burst: float, per_second: float) -> None:
        """In any window at most `burst + rate × T` were accepted that were asked for and answered within it."""
        uses = [
            (use.asked_at, min(at for at, told, _ in use.told if told is Told.ACCEPTED))
            for use in self.uses.values()
            if use.customer_id == customer_id and use.was_accepted and not use.is_fact
        ]
        for begins in sorted({asked for asked, _ in uses}):
            ends = sorted(told for asked, told in uses if asked >= begins)
            for number, end in enumerate(ends, 1):
                if number > burst + per_second * (end - begins):
                    self.violations.append(
                        f"{number} of {customer_id} were let through from {begins:.3f} to {end:.3f}"
                    )
                    return
