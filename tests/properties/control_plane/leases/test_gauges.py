"""What a holder holds is a function of the set of its changes, and forgetting what can not matter keeps it so."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from control_plane.leases.gauges import Change, State, held_by, needed

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn) -> Sequence[Change]:
    """Changes of one holder in some order of arrival; several may be of one instant."""
    kinds = st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3), st.sampled_from(State))
    return [
        Change(
            balance_id="seats",
            holder_id="ann",
            event_key=f"k{number}",
            at=BEGINNING + timedelta(seconds=second),
            quantity=quantity,
            adds=adds,
            state=state,
        )
        for number, (second, adds, quantity, state) in enumerate(draw(st.lists(kinds, max_size=9)))
    ]


@given(histories(), st.randoms(use_true_random=False))
def test_any_order_of_arrival_ends_the_same(history: Sequence[Change], random: object) -> None:
    """Arriving one by one, with the needless forgotten after each, they come to what all of them together come to."""
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    kept: list[Change] = []
    for change in shuffled:
        kept = needed([*kept, change])
    assert held_by(kept) == held_by(history)


@given(histories(), st.sampled_from([State.BOOKED, State.LAPSED]), st.data())
def test_only_a_verdict_that_is_given_takes(
    history: Sequence[Change], end: State, data: st.DataObject
) -> None:
    """However verdicts end, one by one, their holder never holds more for it."""
    open_ones = [one for one in history if one.is_unconfirmed]
    for change in data.draw(st.permutations(open_ones)):
        before = held_by(history)
        change.state = end
        assert held_by(history) <= before


@given(histories())
def test_a_verdict_that_lapses_leaves_what_is_booked(history: Sequence[Change]) -> None:
    """Whatever verdicts stood meanwhile, without them a holder holds what its booked changes say."""
    kept = needed(history)
    booked = [one for one in history if one.state is State.BOOKED]
    assert held_by(one for one in kept if one.state is State.BOOKED) == held_by(booked)


@given(histories())
def test_what_is_kept_is_little(history: Sequence[Change]) -> None:
    """Of what is booked the last SET stays, and each ADD after it that is larger than all later ones."""
    booked = [one for one in needed(history) if one.state is State.BOOKED]
    assert sum(not one.adds for one in booked) <= 1
    assert len({one.quantity for one in booked if one.adds}) == sum(one.adds for one in booked)
