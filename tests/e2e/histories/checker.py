"""Holds the books against what callers were told. Pure: a history and books in, what is wrong with them out.

It knows what a caller may rely on, and nothing of how Purser works.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Final

from tests.e2e.histories.books import Balance, Booked, Books
from tests.e2e.histories.history import (
    Account,
    Answer,
    Asked,
    Call,
    Granted,
    History,
    LostDisk,
    Outage,
    Told,
    Verb,
)
from tests.e2e.histories.selling import oversold_as_told

_LATE: Final = re.compile(r"#late\d*$")
"""Ends the keys of what a reservation used beyond what it had charged when it ended."""
_ON_A_LOST_DISK: Final = Answer(told=Told.UNKNOWN, why="accepted, on a disk that was destroyed")
_WRITES_NOTHING: Final = frozenset({Verb.CHECK})
_HOLDS: Final = frozenset({Verb.RESERVE, Verb.EXTEND, Verb.SETTLE, Verb.RELEASE})
_SEATS: Final = frozenset({Verb.ADD, Verb.REMOVE})
_BLAME: Final = frozenset({"INTERNAL", "MALFORMED", "KEY_CONFLICT", "RESERVATION_CONFLICT"})
"""Reasons of errors that callers who send nothing wrong must not hear."""


@dataclass(frozen=True)
class Story:
    """A history, sorted. What was accepted on a disk that was destroyed before it was booked is unknown in `calls`."""

    heard: Sequence[Call]
    """As callers heard it."""
    calls: Sequence[Call]
    accounts: Mapping[str, Account]
    grants: Sequence[Granted]
    lost_disks: Sequence[LostDisk]
    outages: Sequence[Outage]

    @cached_property
    def uses(self) -> Mapping[str, list[Call]]:
        """By key: what makes one event, whatever is said later."""
        return _by_key(call for call in self.calls if call.asked.verb not in _HOLDS | _WRITES_NOTHING)

    @cached_property
    def holds(self) -> Mapping[str, list[Call]]:
        """By reservation."""
        return _by_key(call for call in self.calls if call.asked.verb in _HOLDS)


def check(history: History, books: Books) -> list[str]:
    """What is wrong, in words; empty: every promise held."""
    told = story(history)
    return [line for rule in RULES for line in rule(told, books)]


def tally(history: History, books: Books) -> dict[str, int]:
    """What a history consisted of; what was lost with disks is counted apart."""
    told = story(history)
    counts = Counter(f"{call.asked.verb} {call.told}" for call in told.heard)
    booked = {event.key for event in books.events}
    on_lost = {call.asked.key for call in told.calls if call.answer is _ON_A_LOST_DISK}
    counts["repeats told to be duplicates"] = sum(call.answer.is_duplicate for call in told.heard)
    counts["events in the books"] = len(books.events)
    if told.lost_disks:
        counts["keys accepted on disks that were destroyed"] = len(on_lost)
        counts["of these not in the books"] = len(on_lost - booked)
    return dict(sorted(counts.items()))


def story(history: History) -> Story:
    """The history as the rules read it."""
    heard = sorted(history.calls, key=lambda call: call.asked_at)
    return Story(
        heard=heard,
        calls=[_if_it_lasts(call, history.lost_disks) for call in heard],
        accounts=history.accounts,
        grants=history.grants,
        lost_disks=history.lost_disks,
        outages=history.outages,
    )


def _if_it_lasts(call: Call, lost_disks: Iterable[LostDisk]) -> Call:
    lost = call.told is Told.ACCEPTED and any(_went_with(call, disk) for disk in lost_disks)
    return replace(call, answer=_ON_A_LOST_DISK) if lost else call


def _went_with(call: Call, disk: LostDisk) -> bool:
    """Was it told there, and known nowhere else when the disk went?"""
    asked = call.asked
    if asked.sidecar != disk.sidecar or call.told_at is None or call.told_at > disk.at:
        return False
    if asked.verb in _WRITES_NOTHING:
        return False
    if asked.verb is Verb.SETTLE:
        return (call.answer.recorded_as or asked.key) not in disk.booked
    if asked.verb in _HOLDS:
        return True  # that it was held stands nowhere else
    return not disk.is_remote and asked.key not in disk.booked


def _by_key(calls: Iterable[Call]) -> dict[str, list[Call]]:
    found: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        found[call.asked.key].append(call)
    return dict(found)


def _reservation(event: Booked) -> str:
    return _LATE.sub("", event.key)


def _any(calls: Iterable[Call], *told: Told) -> bool:
    return any(call.told in told for call in calls)


# Events


def each_once(_told: Story, books: Books) -> Iterator[str]:
    """A key is in the books once."""
    for key, times in Counter(event.key for event in books.events).items():
        if times > 1:
            yield f"doubled: {key} is in the books {times} times"


def nothing_lost(told: Story, books: Books) -> Iterator[str]:
    """What anybody accepted is there."""
    booked = {event.key for event in books.events}
    for key, calls in told.uses.items():
        if key not in booked and _any(calls, Told.ACCEPTED):
            yield f"lost: {key} was accepted and is not in the books: {_told(calls)}"


def nothing_invented(told: Story, books: Books) -> Iterator[str]:
    """What is there was accepted, or nobody heard what became of it; and it is what was asked."""
    for event in books.events:
        reservation = _reservation(event)
        if reservation in told.holds:
            yield from _is_of(event, told.holds[reservation][0].asked, told)
            continue
        calls = told.uses.get(event.key)
        if calls is None:
            yield f"invented: {event.key} is in the books, and nobody asked for it"
            continue
        if not _any(calls, Told.ACCEPTED, Told.UNKNOWN):
            yield f"invented: {event.key} is in the books, and was only {_told(calls)}"
        asked = calls[0].asked
        yield from _is_of(event, asked, told)
        if event.points != asked.points:
            yield f"changed: {event.key} was for {asked.points} points and is {event.points} in the books"
        if asked.verb in _SEATS and (event.change.lower(), event.holder) != (asked.verb, asked.holder):
            yield f"changed: {event.key} was to {asked.verb} {asked.holder}, not {event.change} {event.holder}"


def _is_of(event: Booked, asked: Asked, told: Story) -> Iterator[str]:
    if event.customer_id != asked.customer_id:
        yield f"changed: {event.key} was asked for {asked.customer_id} and is {event.customer_id}'s"
        return
    price = told.accounts[asked.customer_id].price
    cost = event.points * price if told.accounts[asked.customer_id].balance.startswith("wallet") else None
    if not event.change and event.cost != cost:
        yield f"changed: {event.key} costs {cost} by the catalog and {event.cost} in the books"
    if asked.verb is Verb.REPORT and event.decided:
        yield f"changed: {event.key} was reported and is decided usage in the books"
    if asked.verb is Verb.CONSUME and not event.decided:
        yield f"changed: {event.key} was consumed and is a fact in the books"


def duplicates_are_repeats(told: Story, _books: Books) -> Iterator[str]:
    """Nobody is told that a key was there before when it was not."""
    first = {call.asked.key: call.number for call in reversed(told.heard)}
    for call in told.heard:
        if call.answer.is_duplicate and first[call.asked.key] == call.number:
            yield f"mistaken: {call.asked.key} was called a duplicate the first time it was sent"


def nobody_is_blamed(told: Story, _books: Books) -> Iterator[str]:
    """Who sends nothing wrong hears nothing of the kind, and no sidecar is at a loss."""
    for call in told.heard:
        if _BLAME & set(call.answer.why.split()):
            yield f"mistaken: {call.asked.verb} {call.asked.key} ended with {call.answer.why}"


def checks_are_answered(told: Story, _books: Books) -> Iterator[str]:
    """In time, whatever is wrong around it, while the process lives and nobody has asked it to end."""
    away = list(_away(told))
    for call in told.heard:
        is_unanswered = call.told_at is not None and call.told in {Told.UNKNOWN, Told.FAILED}
        if (
            call.asked.verb is Verb.CHECK
            and is_unanswered
            and not any(_is_within(call, *one) for one in away)
        ):
            yield f"unanswered: check {call.asked.key} at {call.asked.sidecar} ended with {call.answer.why}"


def _is_within(call: Call, sidecar: str, since: float, until: float) -> bool:
    assert call.told_at is not None, "it has ended"
    return sidecar == call.asked.sidecar and since <= call.told_at and call.asked_at <= until


def _away(told: Story) -> Iterator[tuple[str, float, float]]:
    """Which sidecar, from when, until it was first heard to answer again."""
    for outage in told.outages:
        back = math.inf
        if outage.launched_at is not None:
            back = min(
                (
                    call.told_at
                    for call in told.heard
                    if call.asked.sidecar == outage.sidecar
                    and call.asked_at > outage.launched_at
                    and call.told_at is not None
                    and call.told in {Told.ACCEPTED, Told.REFUSED}
                ),
                default=math.inf,
            )
        yield outage.sidecar, outage.since, back


def no_dead_letters(told: Story, books: Books) -> Iterator[str]:
    """All that was accepted could be booked."""
    yield from (f"dead letter: {letter}" for letter in books.dead_letters)


# Reservations


def reservations_are_known(told: Story, _books: Books) -> Iterator[str]:
    """What was reserved is known where it was reserved."""
    for key, calls in told.holds.items():
        reserved = next(
            (call for call in calls if call.asked.verb is Verb.RESERVE and _is_accepted(call)), None
        )
        if reserved is None or reserved.told_at is None:
            continue
        for call in calls:
            is_later = call.asked.sidecar == reserved.asked.sidecar and call.asked_at > reserved.told_at
            unknown = (
                _is_accepted(call) and not call.answer.state
            ) or "RESERVATION_UNKNOWN" in call.answer.why
            if is_later and unknown and call.asked.verb is not Verb.RESERVE:
                yield f"lost: reservation {key} was acknowledged and is unknown to {call.asked.verb}"


def reservations_are_charged_once(told: Story, books: Books) -> Iterator[str]:
    """The highest totals that were taken, in the one event and what came late; nothing without a settle."""
    booked: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in books.events:
        booked[_reservation(event)] += event.points
    for key, calls in told.holds.items():
        settles = [call for call in calls if call.asked.verb is Verb.SETTLE]
        least = max((call.asked.points for call in settles if _is_accepted(call)), default=0)
        unknown = {call.asked.points for call in settles if call.told is Told.UNKNOWN}
        possible = {least, *(points for points in unknown if points > least)}
        if booked[key] not in possible:
            wanted = " or ".join(map(str, sorted(possible)))
            yield f"changed: reservation {key} is charged {booked[key]} points, and was settled with {wanted}"


def _is_accepted(call: Call) -> bool:
    return call.told is Told.ACCEPTED


# Balances


def nothing_oversold_as_told(told: Story, _books: Books) -> Iterator[str]:
    """At no moment was more allowed than there was."""
    yield from oversold_as_told(told.heard, told.accounts, told.grants)


def nothing_oversold_in_books(told: Story, books: Books) -> Iterator[str]:
    """Decided usage stays within what was given, and overage is of facts."""
    estimates = {
        key: max((call.asked.points for call in calls if _holds_more(call)), default=0)
        for key, calls in told.holds.items()
    }
    decided: defaultdict[str, Decimal] = defaultdict(Decimal)
    facts: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in (event for event in books.events if not event.change):
        within = min(event.points, Decimal(estimates.get(event.key, event.points)))
        within = within if event.decided else Decimal(0)
        decided[event.customer_id] += within
        facts[event.customer_id] += event.points - within
    for account in told.accounts.values():
        balance = books.balances.get((account.customer_id, account.balance), Balance())
        used, over = decided[account.customer_id] * account.price, facts[account.customer_id] * account.price
        if used > balance.granted:
            yield f"oversold: {account.customer_id} decided {used} of {balance.granted}, as the books have it"
        if balance.overage > over:
            yield f"oversold: {account.customer_id} has an overage of {balance.overage}, its facts are {over}"


def _holds_more(call: Call) -> bool:
    return call.asked.verb in {Verb.RESERVE, Verb.EXTEND} and call.told in {Told.ACCEPTED, Told.UNKNOWN}


def balances_add_up(told: Story, books: Books) -> Iterator[str]:
    """What was granted is somewhere, and what was spent was used."""
    used: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in books.events:
        used[event.customer_id] += event.points
    for account in told.accounts.values():
        name, spent = f"{account.customer_id} {account.balance}", used[account.customer_id] * account.price
        balance = books.balances.get((account.customer_id, account.balance))
        if balance is None:
            if spent:
                yield f"unbalanced: {name} is not in the books, and {spent} was used"
            continue
        mine = [one for one in told.grants if one.customer_id == account.customer_id]
        least = account.limit + sum(one.amount for one in mine if one.is_known)
        most = account.limit + sum(one.amount for one in mine)
        if not least <= balance.granted <= most:
            yield f"unbalanced: {name} was granted {least} to {most}, and the books say {balance.granted}"
        if balance.spent + balance.overage != spent:
            yield f"unbalanced: {name} has {balance.spent} spent and {balance.overage} over, {spent} was used"
        out = balance.leased + balance.quarantined + balance.presumed
        if balance.available + out + balance.spent + balance.ended != balance.granted:
            yield f"unbalanced: the terms of {name} are not what was granted: {balance}"


def nothing_stays_out(told: Story, books: Books) -> Iterator[str]:
    """When everybody has gone in order, but for what went into quarantine with a disk."""
    if not books.is_closed:
        return
    gone = {name for disk in told.lost_disks for name in disk.incarnations}
    for account in told.accounts.values():
        which = account.customer_id, account.balance
        balance, leases = books.balances.get(which, Balance()), books.in_quarantine.get(which, {})
        excused = sum((amount for holder, amount in leases.items() if holder in gone), Decimal(0))
        out = balance.leased + balance.presumed + max(balance.quarantined - excused, Decimal(0))
        if out:
            yield (
                f"stranded: {out} of {' '.join(which)} is out ({balance.leased} leased, {balance.presumed} presumed, "
                f"{balance.quarantined} in quarantine), and all sidecars have ended in order"
            )


def equations_hold(_told: Story, books: Books) -> Iterator[str]:
    """The books' own."""
    yield from (f"equation: {line}" for line in books.equations)


# Seats


def seats_are_enough(told: Story, _books: Books) -> Iterator[str]:
    """Never do more surely have a seat than there are."""
    by_customer: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for (customer_id, _), calls in _by_holder(told.calls).items():
        since: float | None = None
        for call in calls:
            if call.asked.verb is Verb.REMOVE and since is not None:
                by_customer[customer_id] += [(since, 1), (call.asked_at, -1)]
                since = None
            elif call.asked.verb is Verb.ADD and _is_accepted(call) and since is None:
                since = call.told_at
        if since is not None:
            by_customer[customer_id].append((since, 1))
    for customer_id, steps in by_customer.items():
        held, limit = 0, told.accounts[customer_id].seats
        for at, step in sorted(steps):
            held += step
            if held > limit:
                yield f"oversold: at {at:.3f} {held} surely had one of the {limit} seats of {customer_id}"
                break


def seats_are_held_as_told(told: Story, books: Books) -> Iterator[str]:
    """In the end those have one who were last told so; nobody holds one when all of them have given theirs back."""
    held: Counter[str] = Counter()
    unsure: Counter[str] = Counter()
    for (customer_id, _), calls in _by_holder(told.calls).items():
        match _is_held(calls):
            case None:
                unsure[customer_id] += 1
            case is_held:
                held[customer_id] += is_held
    for account in (one for one in told.accounts.values() if one.seats):
        name = account.customer_id
        booked = books.balances.get((name, "gauge:seats"), Balance()).spent
        if not held[name] <= booked <= held[name] + unsure[name]:
            yield f"changed: {held[name]} were told to have a seat of {name}, and {booked} are held"
        if books.left_seats.get(name):
            yield f"stranded: {books.left_seats[name]} seats of {name} are held by nobody who was told so"


def _by_holder(calls: Iterable[Call]) -> dict[tuple[str, str], list[Call]]:
    found: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in calls:
        if call.asked.verb in _SEATS:
            found[call.asked.customer_id, call.asked.holder].append(call)
    return dict(found)


def _is_held(calls: Sequence[Call]) -> bool | None:
    """By what its holder was told; None: nobody knows."""
    is_held: bool | None = False
    for call in calls:
        if _is_accepted(call):
            is_held = call.asked.verb is Verb.ADD
        elif call.told is Told.UNKNOWN:
            is_held = None  # until something later is heard for sure
    return is_held


def _told(calls: Sequence[Call]) -> str:
    return ", ".join(f"{call.told} at {call.asked.sidecar} ({call.answer.why})" for call in calls)


Rule = Callable[[Story, Books], Iterator[str]]
RULES: Final[tuple[Rule, ...]] = (
    each_once,
    nothing_lost,
    nothing_invented,
    duplicates_are_repeats,
    nobody_is_blamed,
    checks_are_answered,
    no_dead_letters,
    reservations_are_known,
    reservations_are_charged_once,
    nothing_oversold_as_told,
    nothing_oversold_in_books,
    balances_add_up,
    nothing_stays_out,
    equations_hold,
    seats_are_enough,
    seats_are_held_as_told,
)
