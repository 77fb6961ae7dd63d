"""A reservation's life, by example."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.engine.reservation import (
    AlreadyEnded,
    MeasureFell,
    Reservation,
    ReservationState,
    Said,
    expire,
    extend,
    key_taken,
    release,
    settle,
    settle_unknown,
)
from sidecar.engine.values import Event

NOW = datetime(2026, 3, 10, tzinfo=UTC)
END = NOW + timedelta(minutes=5)
ESTIMATE = Event(
    event_name="llm_inference",
    occurred_at=NOW,
    customer_id="acme",
    measures={"output_tokens": Decimal(1000)},
    attributes={"model": "text-gen-v3"},
)
FRESH = Reservation(reservation_id="r1", estimate=ESTIMATE, feature="chat", expires_at=END)


def out(tokens: int) -> dict[str, Decimal]:
    """So many output tokens so far."""
    return {"output_tokens": Decimal(tokens)}


def said(tokens: int, **attributes: str) -> Said:
    """A settle that says so."""
    return Said(out(tokens), attributes)


def test_chunks_make_one_event() -> None:
    """Fifty cumulative settles and a final one: one event, keyed by the reservation, with the last totals."""
    reservation = FRESH
    for chunk in range(50):
        step = settle(reservation, said(chunk * 10), final=False)
        assert step.event is None
        reservation = step.reservation
    step = settle(reservation, said(500, model="text-gen-v4"), final=True)
    assert step.event is not None
    assert (step.event.idempotency_key, step.event.measures) == ("r1", out(500))
    assert step.event.attributes == {"model": "text-gen-v4"}
    assert step.reservation.state is ReservationState.SETTLED


def test_measures_never_fall() -> None:
    """A smaller total is refused; the same total again changes nothing."""
    reservation = settle(FRESH, said(10), final=False).reservation
    assert not settle(reservation, said(10), final=False).changed
    with pytest.raises(MeasureFell):
        settle(reservation, said(9), final=False)


def test_after_the_final_settle() -> None:
    """The same again is the same answer, another is refused, and so are release and extension."""
    settled = settle(FRESH, said(10), final=True).reservation
    assert settle(settled, said(10), final=True) == (settled, None, False, False)
    for other in (said(11), said(10, model="text-gen-v4"), Said(out(10), app_id="other")):
        with pytest.raises(AlreadyEnded):
            settle(settled, other, final=True)
    assert not settle(settled, said(10, model="text-gen-v3"), final=True).changed
    with pytest.raises(AlreadyEnded):
        release(settled)
    with pytest.raises(AlreadyEnded):
        extend(settled, estimate=None, expires_at=END)
    assert not expire(settled, END).changed


def test_expiry() -> None:
    """Without a settle there is no event; with one, its totals; a late settle makes a fact of the rest."""
    assert not expire(FRESH, END - timedelta(microseconds=1)).changed
    assert expire(FRESH, END).event is None
    used = settle(FRESH, said(10), final=False).reservation
    expired = expire(used, END)
    assert expired.event is not None
    assert expired.event.measures == out(10)
    late = settle(expired.reservation, said(15), final=True)
    assert late.event is not None
    assert (late.is_fact, late.event.idempotency_key, late.event.measures) == (True, "r1#late", out(5))
    assert settle(late.reservation, said(15), final=True).event is None
    more = settle(late.reservation, said(16), final=True)
    assert more.event is not None
    assert (more.event.idempotency_key, more.event.measures) == ("r1#late2", out(1))


def test_release_and_extend() -> None:
    """A release charges what was settled, twice is once; an extension replaces estimate and end."""
    used = settle(FRESH, said(10), final=False).reservation
    released = release(used)
    assert released.event is not None
    assert release(released.reservation).event is None
    with pytest.raises(AlreadyEnded):
        settle(released.reservation, said(11), final=False)
    longer = extend(FRESH, estimate=None, expires_at=END + timedelta(minutes=1))
    assert (longer.reservation.expires_at, longer.reservation.estimate) == (
        END + timedelta(minutes=1),
        ESTIMATE,
    )


def test_a_settle_without_measures_is_a_settle() -> None:
    """What counts events needs no measure: however such a reservation ends, there is one event, and only one."""
    once = settle(FRESH, Said({}), final=False).reservation
    for step in (settle(FRESH, Said({}), final=True), release(once), expire(once, END)):
        assert step.event is not None
        assert step.event.measures == {}
    expired = expire(once, END).reservation
    assert settle(expired, Said({}), final=True).event is None
    never = expire(FRESH, END).reservation
    late = settle(never, Said({}), final=True)
    assert late.event is not None
    assert (late.is_fact, late.event.idempotency_key) == (True, "r1#late")
    assert settle(late.reservation, Said({}), final=True).event is None


def test_a_taken_key_loses_nothing() -> None:
    """Where another event has its key, the whole of it is a fact under `<id>#late`; where that is taken too, under
    the next.
    """
    ended = settle(FRESH, said(10), final=True).reservation
    first = key_taken(ended)
    second = key_taken(first.reservation)
    for step, key in ((first, "r1#late"), (second, "r1#late2")):
        assert step.event is not None
        assert (step.is_fact, step.event.idempotency_key, step.event.measures) == (True, key, out(10))


def test_an_unknown_reservation_is_a_fact() -> None:
    """All of it, under the reservation's id."""
    assert settle_unknown("r9", ESTIMATE).idempotency_key == "r9"
