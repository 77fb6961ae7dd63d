"""One reservation's life: reserve → settle* → settled | released | expired. Measures are cumulative and never fall."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple

from sidecar.engine.values import EXACT, ZERO, Event

_NOTHING: Final[Mapping[str, str]] = {}


class ReservationState(IntEnum):
    """Where it stands; numbers as in `purser.v1.ReservationState`."""

    UNSPECIFIED = 0
    OPEN = 1
    SETTLED = 2
    RELEASED = 3
    EXPIRED = 4


class MeasureFell(ValueError):
    """A settle says less of a measure than an earlier one did."""

    def __init__(self, measure: str, before: Decimal, now: Decimal) -> None:
        super().__init__(f"{measure} was {before} and can not fall to {now}")
        self.measure = measure


class AlreadyEnded(ValueError):
    """The reservation has ended with other totals."""

    def __init__(self, reservation_id: str, state: ReservationState) -> None:
        super().__init__(f"reservation {reservation_id!r} is {state.name.lower()}")
        self.state = state


class Said(NamedTuple):
    """What a settle says. What it leaves out is as it was."""

    measures: Mapping[str, Decimal]
    """Totals so far. None at all is a settle, too: a meter that counts events needs no measure."""
    attributes: Mapping[str, str] = _NOTHING
    app_id: str = ""
    correlation_id: str = ""

    def replaced(self, event: Event) -> Event:
        """The event with the attributes and ids that were said."""
        return event._replace(
            attributes={**event.attributes, **self.attributes},
            app_id=self.app_id or event.app_id,
            correlation_id=self.correlation_id or event.correlation_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A hold for one call whose cost is not known yet."""

    reservation_id: str
    estimate: Event
    """What it holds for. Its measures are an estimate; its ids and attributes hold until a settle replaces them."""
    feature: str
    expires_at: datetime
    state: ReservationState = ReservationState.OPEN
    was_settled: bool = False
    """Something happened: its end makes an event, whatever the totals."""
    settled: Mapping[str, Decimal] = field(default_factory=dict)
    """The highest totals so far."""
    late: int = 0
    """Facts made beside its event: after its end, or because another event has its key."""

    @property
    def is_open(self) -> bool:
        """True: it holds."""
        return self.state is ReservationState.OPEN

    @property
    def charged(self) -> Event:
        """The one event that it makes, keyed by its id, with the totals so far."""
        return self.estimate._replace(idempotency_key=self.reservation_id, measures=self.settled)


class Step(NamedTuple):
    """What a step makes of a reservation."""

    reservation: Reservation
    event: Event | None
    """Set: the event to record now. At most one step of a reservation's life has it, and a late settle one more."""
    is_fact: bool = False
    """True: what it says happened beyond the reservation's end."""
    changed: bool = True
    """False: a repeat; nothing is to be written."""


def settle(reservation: Reservation, said: Said, *, final: bool) -> Step:
    """Says what was used so far; `final` makes the event.

    Raises MeasureFell, and AlreadyEnded for anything else than was said before after the final one, or anything at all
    after a release. After expiry what exceeds the totals charged becomes a fact with key `<id>#late`; a further one
    `<id>#late2`, and so on.
    """
    if reservation.state is ReservationState.EXPIRED:
        return _late(reservation, said)
    estimate = said.replaced(reservation.estimate)
    if not reservation.is_open:
        same = reservation.state is ReservationState.SETTLED and estimate == reservation.estimate
        if not same or any(
            reservation.settled.get(name, ZERO) != value for name, value in said.measures.items()
        ):
            raise AlreadyEnded(reservation.reservation_id, reservation.state)
        return Step(reservation, None, changed=False)
    after = replace(
        reservation,
        estimate=estimate,
        was_settled=True,
        settled=_raised(reservation.settled, said.measures),
        state=ReservationState.SETTLED if final else ReservationState.OPEN,
    )
    return Step(after, after.charged if final else None, changed=after != reservation)


def extend(reservation: Reservation, *, estimate: Event | None, expires_at: datetime | None) -> Step:
    """A larger estimate, once it was found to be covered, or a new end. Raises AlreadyEnded."""
    if not reservation.is_open:
        raise AlreadyEnded(reservation.reservation_id, reservation.state)
    after = replace(
        reservation,
        estimate=estimate or reservation.estimate,
        expires_at=expires_at or reservation.expires_at,
    )
    return Step(after, None, changed=after != reservation)


def release(reservation: Reservation) -> Step:
    """Gives it up: what it had settled is charged. Twice is once; raises AlreadyEnded after another end."""
    if reservation.state is ReservationState.RELEASED:
        return Step(reservation, None, changed=False)
    if not reservation.is_open:
        raise AlreadyEnded(reservation.reservation_id, reservation.state)
    return _end(reservation, ReservationState.RELEASED)


def expire(reservation: Reservation, at: datetime) -> Step:
    """Ends it if its time has come: what it had settled is charged; without a settle there is no event."""
    if not reservation.is_open or at < reservation.expires_at:
        return Step(reservation, None, changed=False)
    return _end(reservation, ReservationState.EXPIRED)


def settle_unknown(reservation_id: str, event: Event) -> Event:
    """The fact that a settle of an unknown reservation makes: all of it, under the reservation's id."""
    return event._replace(idempotency_key=reservation_id)


def key_taken(reservation: Reservation) -> Step:
    """Another event has the key of the one that it makes: what was used is a fact under the next key of its own."""
    assert not reservation.is_open, "only an end makes an event"
    after = replace(reservation, late=reservation.late + 1)
    return Step(after, after.charged._replace(idempotency_key=_late_key(after)), is_fact=True)


def _end(reservation: Reservation, state: ReservationState) -> Step:
    after = replace(reservation, state=state)
    return Step(after, after.charged if reservation.was_settled else None)


def _late(reservation: Reservation, said: Said) -> Step:
    raised = _raised(reservation.settled, said.measures)
    excess = {
        name: EXACT.subtract(value, reservation.settled.get(name, ZERO)) for name, value in raised.items()
    }
    assert all(value >= 0 for value in excess.values()), "totals do not fall"
    beyond = {name: value for name, value in excess.items() if value}
    if reservation.was_settled and not beyond:
        return Step(reservation, None, changed=False)
    after = replace(
        reservation,
        estimate=said.replaced(reservation.estimate),
        was_settled=True,
        settled=raised,
        late=reservation.late + 1,
    )
    return Step(
        after, after.charged._replace(idempotency_key=_late_key(after), measures=beyond), is_fact=True
    )


def _late_key(reservation: Reservation) -> str:
    return f"{reservation.reservation_id}#late{reservation.late if reservation.late > 1 else ''}"


def _raised(before: Mapping[str, Decimal], now: Mapping[str, Decimal]) -> dict[str, Decimal]:
    for name, value in now.items():
        earlier = before.get(name, ZERO)
        if value < earlier:
            raise MeasureFell(name, earlier, value)
    return {**before, **now}
