"""Properties of reservations: see `sidecar/engine/README.md`."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.reservation import (
    AlreadyEnded,
    MeasureFell,
    Reservation,
    Said,
    Step,
    expire,
    release,
    settle,
)
from sidecar.engine.values import Event
from tests.properties.engine.worlds import NOW, quick

ESTIMATE = Event(event_name="llm", occurred_at=NOW, customer_id="c", measures={"out": Decimal(100)})
END = NOW + timedelta(minutes=5)
moves = st.lists(
    st.tuples(
        st.sampled_from(["settle", "settle", "final", "release", "expire"]), st.none() | st.integers(0, 30)
    ),
    max_size=12,
)


def move(reservation: Reservation, what: str, total: int | None) -> Step:
    """One step, or none where it is refused. `total` None: a settle says nothing but that it happened."""
    try:
        if what == "release":
            return release(reservation)
        if what == "expire":
            return expire(reservation, END)
        said = Said({} if total is None else {"out": Decimal(total)})
        return settle(reservation, said, final=what == "final")
    except (AlreadyEnded, MeasureFell):
        return Step(reservation, None, changed=False)


@quick
@given(moves)
def test_reservations_charge_once(steps: list[tuple[str, int | None]]) -> None:
    """In whatever order, what is charged in all is the highest totals settled, by one event and late facts."""
    reservation = Reservation(reservation_id="r", estimate=ESTIMATE, feature="", expires_at=END)
    recorded: list[Step] = []
    highest = Decimal(0)
    for what, total in steps:
        before = reservation
        step = move(reservation, what, total)
        reservation = step.reservation
        if step.event is not None:
            recorded.append(step)
        if what in {"settle", "final"} and step.changed:
            highest = max(highest, Decimal(total or 0))
        assert step.changed or reservation == before
        for name, value in before.settled.items():
            assert reservation.settled[name] >= value
    events = [step.event for step in recorded if step.event is not None]
    assert sum(not step.is_fact for step in recorded) <= 1
    assert len({event.idempotency_key for event in events}) == len(events)
    charged = sum((event.measures.get("out", Decimal(0)) for event in events), Decimal(0))
    assert charged == (Decimal(0) if reservation.is_open else highest)
    assert bool(events) == (reservation.was_settled and not reservation.is_open)


@quick
@given(moves)
def test_a_repeat_changes_nothing(steps: list[tuple[str, int | None]]) -> None:
    """Each step again is the same answer, and no second event."""
    reservation = Reservation(reservation_id="r", estimate=ESTIMATE, feature="", expires_at=END)
    for what, total in steps:
        reservation = move(reservation, what, total).reservation
        again = move(reservation, what, total)
        assert again.event is None or (what == "final" and reservation.is_open)
        assert again.reservation == reservation
