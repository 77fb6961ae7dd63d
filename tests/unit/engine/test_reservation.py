"""A reservation's life, by example."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.engine.reservation import (
    AlreadyEnded,
    MeasureFell,
    Reservation,
    ReservationState,
    expire,
    extend,
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


def test_chunks_make_one_event() -> None:
    """Fifty cumulative settles and a final one: one event, keyed by the reservation, with the last totals."""
    reservation = FRESH
    for chunk in range(50):
        step = settle(reservation, out(chunk * 10), {}, final=False)
        assert step.event is None
        reservation = step.reservation
    step = settle(reservation, out(500), {"model": "text-gen-v4"}, final=True)
    assert step.event is not None
    assert (step.event.idempotency_key, step.event.measures) == ("r1", out(500))
    assert step.event.attributes == {"model": "text-gen-v4"}
    assert step.reservation.state is ReservationState.SETTLED


def test_measures_never_fall() -> None:
    """A smaller total is refused; the same total again changes nothing."""
    reservation = settle(FRESH, out(10), {}, final=False).reservation
    assert not settle(reservation, out(10), {}, final=False).changed
    with pytest.raises(MeasureFell):
        settle(reservation, out(9), {}, final=False)


def test_after_the_final_settle() -> None:
    """The same again is the same answer, another is refused, and so are release and extension."""
    settled = settle(FRESH, out(10), {}, final=True).reservation
    assert settle(settled, out(10), {}, final=True) == (settled, None, False, False)
    with pytest.raises(AlreadyEnded):
        settle(settled, out(11), {}, final=True)
    with pytest.raises(AlreadyEnded):
        release(settled)
    with pytest.raises(AlreadyEnded):
        extend(settled, estimate=None, expires_at=END)
    assert not expire(settled, END).changed


def test_expiry() -> None:
    """Without a settle there is no event; with one, its totals; a late settle makes a fact of the rest."""
    assert not expire(FRESH, END - timedelta(microseconds=1)).changed
    assert expire(FRESH, END).event is None
    used = settle(FRESH, out(10), {}, final=False).reservation
    expired = expire(used, END)
    assert expired.event is not None
    assert expired.event.measures == out(10)
    late = settle(expired.reservation, out(15), {}, final=True)
    assert late.event is not None
    assert (late.is_fact, late.event.idempotency_key, late.event.measures) == (True, "r1#late", out(5))
    assert settle(late.reservation, out(15), {}, final=True).event is None
    more = settle(late.reservation, out(16), {}, final=True)
    assert more.event is not None
    assert (more.event.idempotency_key, more.event.measures) == ("r1#late2", out(1))


def test_release_and_extend() -> None:
    """A release charges what was settled, twice is once; an extension replaces estimate and end."""
    used = settle(FRESH, out(10), {}, final=False).reservation
    released = release(used)
    assert released.event is not None
    assert release(released.reservation).event is None
    with pytest.raises(AlreadyEnded):
        settle(released.reservation, out(11), {}, final=False)
    longer = extend(FRESH, estimate=None, expires_at=END + timedelta(minutes=1))
    assert (longer.reservation.expires_at, longer.reservation.estimate) == (
        END + timedelta(minutes=1),
        ESTIMATE,
    )


def test_an_unknown_reservation_is_a_fact() -> None:
    """All of it, under the reservation's id."""
    assert settle_unknown("r9", ESTIMATE).idempotency_key == "r9"
