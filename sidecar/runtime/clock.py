"""Time as a parameter: the wall clock for what is shown, CLOCK_BOOTTIME for what is counted."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

# BOOTTIME goes on while the machine sleeps: a nap must not prolong a lease. Where it is missing (macOS) MONOTONIC does.
_COUNTING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Never blocks, never raises."""

    def now(self) -> datetime:
        """This machine's wall clock: aware, UTC. It may be wrong, and may jump."""

    def monotonic(self) -> float:
        """Seconds since some instant of this boot; never goes back, and goes on while the machine sleeps."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """The wall clock in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """CLOCK_BOOTTIME in seconds."""
        return time.clock_gettime(_COUNTING)


class ManualClock:
    """A clock that stands until it is moved: for tests and simulations."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC), monotonic: float = 1000.0) -> None:
        """Stands at these."""
        self._lock = threading.Lock()
        self._now = now
        self._monotonic = monotonic

    def now(self) -> datetime:
        """Where the wall clock stands."""
        return self._now

    def monotonic(self) -> float:
        """Where the counting clock stands."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both on."""
        assert seconds >= 0
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def shift_wall(self, seconds: float) -> None:
        """Somebody set the wall clock: the counting one does not notice."""
        with self._lock:
            self._now += timedelta(seconds=seconds)


def microseconds(at: datetime) -> int:
    """Microseconds since 1970 of an aware instant: how instants are stored."""
    return (at - EPOCH) // timedelta(microseconds=1)


def from_microseconds(value: int) -> datetime:
    """The inverse of `microseconds`."""
    return EPOCH + timedelta(microseconds=value)
