"""The checker finds nothing in an honest history, and every kind of lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.histories.books import Balance, Booked, Books
from tests.e2e.histories.checker import check, tally
from tests.e2e.histories.history import Account, Answer, Asked, Call, History, Outage, Told, Verb

PRICE = Decimal("0.003")
WALLET = ("acme", "wallet:credit")
GAUGE = ("acme", "gauge:seats")


class Written(History):
    """A history that is written in one line a call; a call takes a second."""

    def call(self, verb: Verb, key: str, told: Told = Told.ACCEPTED, **fields: Any) -> Call:
        """Who says nothing else means acme, and the first sidecar."""
        answered = {name: fields.pop(name) for name in tuple(fields) if name in Answer.__slots__}
        asked = Asked(verb=verb, key=key, **{"sidecar": "one", "customer_id": "acme", **fields})
        call = self.ask(asked)
        self.tell(call, Answer(told=told, **answered))
        call.asked_at, call.told_at = 100.0 + call.number, 100.5 + call.number
        return call


@dataclass
class World:
    """An honest history with its books."""

    history: Written
    books: Books

    def change_event(self, key: str, **fields: Any) -> None:
        """The books say something else of it."""
        events = [replace(event, **fields) if event.key == key else event for event in self.books.events]
        self.books = replace(self.books, events=tuple(events))

    def drop_event(self, key: str) -> None:
        """The books do not have it."""
        self.books = replace(self.books, events=tuple(e for e in self.books.events if e.key != key))

    def add_event(self, key: str, points: int = 1, **fields: Any) -> None:
        """The books have more."""
        self.books = replace(self.books, events=(*self.books.events, _event(key, points, **fields)))

    def change_balance(self, which: tuple[str, str], **fields: Decimal) -> None:
        """The books say something else of it."""
        balances = {**self.books.balances, which: replace(self.books.balances[which], **fields)}
        self.books = replace(self.books, balances=balances)


def _event(key: str, points: int = 1, **fields: Any) -> Booked:
    return Booked(key=key, customer_id="acme", points=Decimal(points), cost=points * PRICE, **fields)


@pytest.fixture
def world() -> World:
    """Everything once: what was taken, refused, repeated, unknown, held, and seats."""
    history = Written()
    history.has_account(Account("acme", "wallet:credit", PRICE, Decimal(0), seats=1))
    granted = history.grants_amount("g1", "acme", 100 * PRICE)
    granted.asked_at = 1.0
    history.granted(granted)
    history.call(Verb.CONSUME, "k1", points=3)
    history.call(Verb.CONSUME, "k1", sidecar="two", points=3, is_duplicate=True)
    history.call(Verb.CONSUME, "refused", Told.REFUSED, points=500, why="INSUFFICIENT_CREDITS")
    history.call(Verb.CONSUME, "unknown", Told.UNKNOWN, points=2)
    history.call(Verb.REPORT, "fact", points=4)
    history.call(Verb.RESERVE, "r1", points=10, ttl_seconds=60.0, state="OPEN")
    history.call(Verb.SETTLE, "r1", points=2, state="OPEN")
    history.call(Verb.SETTLE, "r1", Told.UNKNOWN, points=6, is_final=True)
    history.call(Verb.RESERVE, "r2", points=5, ttl_seconds=60.0, state="OPEN")
    history.call(Verb.RELEASE, "r2", state="RELEASED")
    history.call(Verb.ADD, "s1", holder="ann")
    history.call(Verb.REMOVE, "s2", holder="ann")
    history.call(Verb.ADD, "s3", holder="bob")
    history.call(Verb.CHECK, "c1", points=3)
    events = (
        _event("k1", 3),
        _event("unknown", 2),
        _event("fact", 4, decided=False),
        _event("r1", 6),
        Booked(key="s1", customer_id="acme", change="ADD", holder="ann"),
        Booked(key="s2", customer_id="acme", change="REMOVE", holder="ann"),
        Booked(key="s3", customer_id="acme", change="ADD", holder="bob"),
    )
    wallet = Balance(granted=100 * PRICE, available=85 * PRICE, spent=15 * PRICE)
    books = Books(events, {WALLET: wallet, GAUGE: Balance(spent=Decimal(1))}, is_closed=True)
    return World(history, books)


def test_an_honest_history(world: World) -> None:
    """Nothing is wrong with it, and its tally says what it had."""
    assert check(world.history, world.books) == []
    counts = tally(world.history, world.books)
    assert (counts["consume accepted"], counts["consume unknown"], counts["events in the books"]) == (2, 1, 7)


def test_what_nobody_heard_of_may_be_or_not(world: World) -> None:
    """Of an unknown outcome both is right; of an unknown settle, what was taken before it."""
    world.drop_event("unknown")
    world.change_event("r1", points=Decimal(2), cost=2 * PRICE)
    world.change_balance(WALLET, spent=9 * PRICE, available=91 * PRICE)
    assert check(world.history, world.books) == []


def test_what_a_destroyed_disk_had_is_counted_apart(world: World) -> None:
    """What was accepted there alone may be gone, and nothing else; the books may have it all the same."""
    lost = world.history.call(Verb.REPORT, "gone", sidecar="three", points=1)
    assert [line.split(":")[0] for line in check(world.history, world.books)] == ["lost"]
    world.history.loses_disk("three")
    world.history.lost_disks[:] = [replace(world.history.lost_disks[0], at=(lost.told_at or 0) + 1)]
    assert check(world.history, world.books) == []
    assert tally(world.history, world.books)["of these not in the books"] == 1
    world.drop_event("k1")
    assert any("lost: k1" in line for line in check(world.history, world.books))


def test_what_was_booked_before_its_disk_was_destroyed_is_not_excused(world: World) -> None:
    """A use, a seat, and what a reservation was settled with: whose key was in the books is missed there."""
    for verb, key, fields in (
        (Verb.REPORT, "gone", {"points": 1}),
        (Verb.ADD, "seat", {"holder": "cleo"}),
        (Verb.RESERVE, "r3", {"points": 1, "ttl_seconds": 60.0, "state": "OPEN"}),
        (Verb.SETTLE, "r3", {"points": 1, "is_final": True, "state": "SETTLED"}),
        (Verb.SETTLE, "r3", {"points": 2, "is_final": True, "recorded_as": "r3#late"}),
    ):
        world.history.call(verb, key, sidecar="three", **fields)
    last = world.history.calls[-1]
    world.history.loses_disk("three", booked=["gone", "seat", "r3", "somebody else's"])
    (lost,) = world.history.lost_disks
    assert lost.booked == {"gone", "seat", "r3"}
    world.history.lost_disks[:] = [replace(lost, at=(last.told_at or 0) + 1)]
    found = check(world.history, world.books)
    assert {line.split(" was accepted")[0] for line in found if line.startswith("lost")} == {
        "lost: gone",
        "lost: seat",
    }
    assert "changed: reservation r3 is charged 0 points, and was settled with 1 or 2" in found
    assert any(line.startswith("changed: 2 were told to have a seat of acme, and 1") for line in found)


def test_a_check_may_fail_while_its_sidecar_is_away(world: World) -> None:
    """From before the signal until somebody heard the next process; without a next one, for good."""
    unheard = [world.history.call(Verb.CHECK, f"c{n}", Told.UNKNOWN, why="UNAVAILABLE") for n in range(3)]
    outage = Outage("one", since=(unheard[0].told_at or 0) - 0.1)
    world.history.outages.append(outage)
    assert check(world.history, world.books) == []
    outage.launched_at = unheard[1].asked_at - 0.1
    world.history.call(Verb.CHECK, "heard", Told.REFUSED)
    assert check(world.history, world.books) == []
    world.history.call(Verb.CHECK, "late", Told.UNKNOWN, why="UNAVAILABLE")
    assert [line.split(" at ")[0] for line in check(world.history, world.books)] == ["unanswered: check late"]


def test_what_was_acknowledged_remotely_outlives_its_disk(world: World) -> None:
    """A use was in the books; a reservation that was open may be gone all the same."""
    held = world.history.call(Verb.RESERVE, "r3", sidecar="three", points=1, ttl_seconds=60.0, state="OPEN")
    world.history.call(Verb.REPORT, "gone", sidecar="three", points=1)
    world.history.loses_disk("three", is_remote=True)
    world.history.lost_disks[:] = [replace(world.history.lost_disks[0], at=(held.told_at or 0) + 5)]
    world.history.call(Verb.SETTLE, "r3", Told.FAILED, sidecar="three", points=1, why="RESERVATION_UNKNOWN")
    assert [line.split(" was")[0] for line in check(world.history, world.books)] == ["lost: gone"]


def test_what_a_destroyed_disk_had_leased_stays_in_quarantine(world: World) -> None:
    """That much, and no more."""
    world.change_balance(WALLET, available=80 * PRICE, quarantined=5 * PRICE)
    world.books = replace(world.books, in_quarantine={WALLET: {"i1": 2 * PRICE, "i2": 3 * PRICE}})
    world.history.loses_disk("three", incarnations=["i1", "i2"])
    assert [line for line in check(world.history, world.books) if line.startswith("stranded")] == []


def _lie_lost(world: World) -> None:
    world.drop_event("fact")


def _lie_doubled(world: World) -> None:
    world.add_event("k1", 3)


def _lie_invented(world: World) -> None:
    world.add_event("nobody")


def _lie_refused_and_booked(world: World) -> None:
    world.add_event("refused", 500)


def _lie_other_measures(world: World) -> None:
    world.change_event("k1", points=Decimal(2), cost=2 * PRICE)


def _lie_other_price(world: World) -> None:
    world.change_event("k1", cost=Decimal("0.008"))


def _lie_other_customer(world: World) -> None:
    world.change_event("k1", customer_id="ring")


def _lie_fact_as_decided(world: World) -> None:
    world.change_event("fact", decided=True)


def _lie_decided_as_fact(world: World) -> None:
    world.change_event("k1", decided=False)


def _lie_other_holder(world: World) -> None:
    world.change_event("s3", holder="cleo")


def _lie_first_is_duplicate(world: World) -> None:
    world.history.call(Verb.CONSUME, "refused-2", Told.REFUSED, is_duplicate=True)


def _lie_blamed(world: World) -> None:
    world.history.call(Verb.CONSUME, "x", Told.FAILED, why="ALREADY_EXISTS KEY_CONFLICT it was used before")


def _lie_unanswered_check(world: World) -> None:
    world.history.call(Verb.CHECK, "c2", Told.UNKNOWN, why="DEADLINE_EXCEEDED it took too long")


def _lie_failed_check(world: World) -> None:
    world.history.call(Verb.CHECK, "c2", Told.FAILED, why="RESOURCE_EXHAUSTED NOT_WRITTEN no room")


def _lie_unanswered_check_when_it_was_back(world: World) -> None:
    world.history.outages.append(Outage("one", since=1.0, launched_at=2.0))
    _lie_unanswered_check(world)


def _lie_unanswered_check_while_another_was_away(world: World) -> None:
    world.history.outages.append(Outage("two", since=1.0))
    _lie_unanswered_check(world)


def _lie_check_at_a_loss(world: World) -> None:
    world.history.outages.append(Outage("one", since=1.0))
    world.history.call(Verb.CHECK, "c2", Told.UNKNOWN, why="INTERNAL INTERNAL something went wrong")


def _lie_dead_letter(world: World) -> None:
    world.books = replace(world.books, dead_letters=("k9: KEY_CONFLICT",))


def _lie_reservation_forgotten(world: World) -> None:
    world.history.call(Verb.RELEASE, "r1", Told.FAILED, why="NOT_FOUND RESERVATION_UNKNOWN")


def _lie_reservation_forgotten_by_a_settle(world: World) -> None:
    world.history.call(Verb.SETTLE, "r1", points=6, is_final=True, state="", recorded_as="r1")


def _lie_reservation_charged_less(world: World) -> None:
    world.change_event("r1", points=Decimal(1), cost=PRICE)


def _lie_reservation_charged_twice(world: World) -> None:
    world.add_event("r1#late", 6, decided=False)


def _lie_released_and_charged(world: World) -> None:
    world.add_event("r2", 5)


def _lie_told_more_than_there_was(world: World) -> None:
    world.history.grants[0].asked_at = 1000.0


def _lie_held_more_than_there_was(world: World) -> None:
    world.history.call(Verb.RESERVE, "r3", points=98, ttl_seconds=60.0, state="OPEN")


def _lie_decided_overage(world: World) -> None:
    world.change_balance(WALLET, overage=5 * PRICE, spent=10 * PRICE, available=90 * PRICE)


def _lie_decided_more_than_granted(world: World) -> None:
    world.change_balance(WALLET, granted=10 * PRICE)


def _lie_granted_more(world: World) -> None:
    world.change_balance(WALLET, granted=200 * PRICE, available=185 * PRICE)


def _lie_spent_less(world: World) -> None:
    world.change_balance(WALLET, spent=14 * PRICE, available=86 * PRICE)


def _lie_terms(world: World) -> None:
    world.change_balance(WALLET, available=84 * PRICE)


def _lie_stranded(world: World) -> None:
    world.change_balance(WALLET, available=80 * PRICE, quarantined=5 * PRICE)


def _lie_stranded_by_somebody_else(world: World) -> None:
    world.change_balance(WALLET, available=80 * PRICE, quarantined=5 * PRICE)
    world.books = replace(world.books, in_quarantine={WALLET: {"i1": 2 * PRICE, "i2": 3 * PRICE}})
    world.history.loses_disk("three", incarnations=["i1"])


def _lie_leased_when_a_disk_was_lost(world: World) -> None:
    world.change_balance(WALLET, available=80 * PRICE, leased=5 * PRICE)
    world.history.loses_disk("three", incarnations=["i1"])


def _lie_presumed_when_a_disk_was_lost(world: World) -> None:
    world.change_balance(WALLET, available=80 * PRICE, presumed=5 * PRICE)
    world.history.loses_disk("three", incarnations=["i1"])


def _lie_balance_missing(world: World) -> None:
    world.books = replace(world.books, balances={GAUGE: world.books.balances[GAUGE]})


def _lie_equation(world: World) -> None:
    world.books = replace(world.books, equations=("transaction t1 does not sum to zero",))


def _lie_two_on_one_seat(world: World) -> None:
    world.history.call(Verb.ADD, "s4", holder="ann")


def _lie_seat_not_freed(world: World) -> None:
    world.change_balance(GAUGE, spent=Decimal(2))


def _lie_seat_of_nobody(world: World) -> None:
    world.books = replace(world.books, left_seats={"acme": Decimal(1)})


LIES: dict[Callable[[World], None], str] = {
    _lie_lost: "lost: fact",
    _lie_doubled: "doubled: k1",
    _lie_invented: "invented: nobody",
    _lie_refused_and_booked: "invented: refused is in the books, and was only refused",
    _lie_other_measures: "changed: k1 was for 3 points",
    _lie_other_price: "changed: k1 costs 0.009",
    _lie_other_customer: "changed: k1 was asked for acme",
    _lie_fact_as_decided: "changed: fact was reported",
    _lie_decided_as_fact: "changed: k1 was consumed",
    _lie_other_holder: "changed: s3 was to add bob",
    _lie_first_is_duplicate: "mistaken: refused-2",
    _lie_blamed: "mistaken: consume x",
    _lie_unanswered_check: "unanswered: check c2 at one ended with DEADLINE_EXCEEDED",
    _lie_failed_check: "unanswered: check c2 at one ended with RESOURCE_EXHAUSTED",
    _lie_unanswered_check_when_it_was_back: "unanswered: check c2",
    _lie_unanswered_check_while_another_was_away: "unanswered: check c2",
    _lie_check_at_a_loss: "mistaken: check c2",
    _lie_dead_letter: "dead letter: k9",
    _lie_reservation_forgotten: "lost: reservation r1",
    _lie_reservation_forgotten_by_a_settle: "lost: reservation r1",
    _lie_reservation_charged_less: "changed: reservation r1 is charged 1",
    _lie_reservation_charged_twice: "changed: reservation r1 is charged 12",
    _lie_released_and_charged: "changed: reservation r2 is charged 5",
    _lie_told_more_than_there_was: "oversold: at 100.500 acme was allowed",
    _lie_held_more_than_there_was: "oversold: at",
    _lie_decided_overage: "oversold: acme has an overage",
    _lie_decided_more_than_granted: "oversold: acme decided",
    _lie_granted_more: "unbalanced: acme wallet:credit was granted",
    _lie_spent_less: "unbalanced: acme wallet:credit has",
    _lie_terms: "unbalanced: the terms of acme wallet:credit",
    _lie_stranded: "stranded: 0.015 of acme wallet:credit",
    _lie_stranded_by_somebody_else: "stranded: 0.009 of acme wallet:credit",
    _lie_leased_when_a_disk_was_lost: "stranded: 0.015 of acme wallet:credit",
    _lie_presumed_when_a_disk_was_lost: "stranded: 0.015 of acme wallet:credit",
    _lie_balance_missing: "unbalanced: acme wallet:credit is not in the books",
    _lie_equation: "equation: transaction t1",
    _lie_two_on_one_seat: "oversold: at 114.500 2 surely had one of the 1 seats",
    _lie_seat_not_freed: "changed: 1 were told to have a seat",
    _lie_seat_of_nobody: "stranded: 1 seats of acme",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__.removeprefix("_lie_"))
def test_a_lie_is_caught(world: World, lie: Callable[[World], None]) -> None:
    """With words that say what it is."""
    lie(world)
    assert any(line.startswith(LIES[lie]) for line in check(world.history, world.books))


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """From its file, with what was never answered."""
    history = Written(tmp_path / "history.jsonl")
    history.has_account(Account("acme", "wallet:credit", PRICE, Decimal(0), seats=1))
    history.granted(history.grants_amount("g1", "acme", 100 * PRICE))
    asked = Asked(verb=Verb.SETTLE, sidecar="one", customer_id="acme", key="r1", points=2, is_final=True)
    history.tell(history.ask(asked), Answer(told=Told.ACCEPTED, state="SETTLED", covered=2 * PRICE))
    history.ask(asked)
    history.ends("one")
    history.launches("one")
    history.ends("one")
    history.loses_disk("one", booked=["r1"], incarnations=["i1"])
    read = History.read(tmp_path / "history.jsonl")
    assert (read.calls, read.accounts, read.grants) == (history.calls, history.accounts, history.grants)
    assert (read.lost_disks, read.outages) == (history.lost_disks, history.outages)
    assert read.calls[1].told is Told.UNKNOWN
