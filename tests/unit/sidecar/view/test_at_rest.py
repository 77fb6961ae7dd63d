"""Customers at rest: who is, who is not, and what asking about one makes again."""

import threading
from dataclasses import replace

from sidecar.engine.values import BalanceRef
from sidecar.view.entries import CustomerEntry
from sidecar.view.memory import View
from tests.unit.sidecar.view.states import NOW, catalog, customer, view


def _known(in_use_max: int, *names: str, at_rest: bool = False) -> View:
    held = view(in_use_max=in_use_max)
    held.apply(revision=1, catalogs=[catalog()], advance=True)
    for name in names:
        held.apply(revision=1, customers=[customer(name, hint=2)], at_rest=at_rest, advance=True)
    return held


def _entry(held: View, name: str) -> CustomerEntry:
    entry = held.customer(name)
    assert entry is not None
    return entry


def _ref(name: str) -> BalanceRef:
    return BalanceRef(name, "", "allowance:calls")


def test_as_many_as_there_is_room_for_are_in_use() -> None:
    """Of more customers than that, those asked about first come to rest: nothing but their state is left of them."""
    held = _known(2, "a", "b", "c", "d")
    assert held.in_use == 2
    resting = [name for name in "abcd" if _entry(held, name).compiled is None]
    assert resting == ["a", "b"]
    assert all(_entry(held, name).hints for name in resting)


def test_who_is_asked_about_is_in_use_again() -> None:
    """With entitlements that are equal and not the same: what was derived from the former ones is not for these."""
    held = _known(1, "a")
    before = held.compiled(_entry(held, "a"), NOW)
    held.apply(revision=2, customers=[customer("b")], advance=True)
    assert not held.is_current("a", before)
    after = held.compiled(_entry(held, "a"), NOW)
    assert after.entitlements == before.entitlements
    assert after.stamp != before.stamp
    assert held.is_current("a", after)
    assert held.compiled(_entry(held, "a"), NOW) is after
    assert held.made_again == 1


def test_who_is_asked_about_all_the_time_stays_in_use() -> None:
    """Others pass through beside it."""
    held = _known(3, "a")
    compiled = held.compiled(_entry(held, "a"), NOW)
    for number in range(20):
        assert held.is_current("a", compiled)
        held.apply(revision=2, customers=[customer(f"other-{number}")], advance=True)
    assert held.is_current("a", compiled)


def test_what_is_read_at_the_start_is_at_rest() -> None:
    """Nobody has asked about it."""
    held = _known(10, "a", "b", at_rest=True)
    assert held.in_use == 0
    assert held.compiled(_entry(held, "a"), NOW).entitlements.features
    assert held.in_use == 1


def test_hints_wake_nobody() -> None:
    """They are taken over, told and stored, and the customer stays at rest."""
    held = _known(10, "a", at_rest=True)
    told: list[int] = []
    held.on_counted(lambda standing, _all, _earlier: told.extend(hint.used for hint in standing))
    hint = customer("a", hint=5).hints[0]
    held.apply_hints([hint], counted_through=7)
    assert held.in_use == 0
    assert told == [5]
    (state,), _ = held.states_of(["a"], [])
    assert list(state.hints) == [hint]
    found = held.hint(_ref("a"))
    assert found is not None
    assert (found.used, found.counted_through) == (5, 7)
    assert held.in_use == 1


def test_a_new_state_wakes_nobody() -> None:
    """It is looked at as any other, and rests as the former one did; who is in use stays so."""
    held = _known(1, "a", "b")
    held.apply(revision=2, customers=[customer("a", suspended=True), customer("b")], advance=True)
    assert _entry(held, "a").compiled is None
    assert _entry(held, "b").compiled is not None
    found = held.hint(_ref("a"))
    assert found is not None
    assert found.used == 2


def test_what_was_hinted_at_before_it_was_known_is_not_forgotten() -> None:
    """Parents are hinted at without being held."""
    held = _known(10)
    hint = customer("parent", hint=4).hints[0]
    held.apply_hints([hint], counted_through=0)
    before = held.hint(_ref("parent"))
    held.apply(revision=1, customers=[customer("parent")], advance=True)
    after = held.hint(_ref("parent"))
    assert before is not None
    assert after == replace(before)


def test_a_resting_customer_that_makes_room_leaves_nothing() -> None:
    """Nor does one in use."""
    held = view(bound=2, in_use_max=1)
    for revision, name in enumerate("abcdef", start=1):
        held.apply(revision=revision, catalogs=[catalog()], customers=[customer(name, hint=1)], advance=True)
    gone = [name for name in "abcdef" if held.customer(name) is None]
    assert len(gone) == 4
    assert all(held.hint(_ref(name)) is None for name in gone)
    assert held.in_use == 1


def test_many_readers_wake_many_customers() -> None:
    """Whoever asks, while others come to rest and the feed goes on: the answer is the customer's own."""
    names = [f"c{number}" for number in range(12)]
    held = _known(2, *names)
    done, wrong = threading.Event(), list[str]()

    def read(first: int) -> None:
        number = first
        while not done.is_set():
            name = names[number % len(names)]
            entry = _entry(held, name)
            hint = held.hint(_ref(name))
            if held.compiled(entry, NOW).entitlements.customer_id != name or hint is None or hint.used < 2:
                wrong.append(name)
            number += 5

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    for version in range(3, 60):
        held.apply(
            revision=version, customers=[customer(name, hint=version) for name in names[::3]], advance=True
        )
        held.apply_hints([customer(name, hint=version).hints[0] for name in names], counted_through=0)
    done.set()
    for reader in readers:
        reader.join(30)
    assert not wrong
    assert held.in_use <= 2
    assert [found.used for name in names if (found := held.hint(_ref(name)))] == [59] * len(names)
