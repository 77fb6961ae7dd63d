"""How old the view is, and what time it is at the control plane."""

from datetime import UTC, datetime, timedelta

from sidecar.engine.decision import ViewSource
from sidecar.runtime.clock import ManualClock
from sidecar.view.pulse import Beat, Pulse

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_heartbeat_ahead_of_the_view_confirms_nothing_yet() -> None:
    """It counts from when it came, once the view has reached its revision."""
    pulse = Pulse()
    pulse.reached(5)
    pulse.beat(Beat(5, NOW, 10.0))
    pulse.beat(Beat(6, NOW + timedelta(seconds=10), 20.0))
    assert pulse.age_seconds(21.0) == 11.0
    pulse.reached(6)
    assert pulse.age_seconds(21.0) == 1.0


def test_sources() -> None:
    """FALLBACK without a view, PERSISTED from disk, LIVE while heartbeats arrive, then CACHED."""
    pulse = Pulse()
    assert pulse.source(0.0) is ViewSource.FALLBACK
    pulse.restore(NOW - timedelta(hours=2), wall_now=NOW, monotonic=100.0)
    assert pulse.source(100.0) is ViewSource.PERSISTED
    assert pulse.age_seconds(101.0) == 7201.0
    pulse.connected(True)
    pulse.beat(Beat(0, NOW, 200.0))
    assert pulse.source(201.0) is ViewSource.LIVE
    assert pulse.source(206.0) is ViewSource.CACHED
    pulse.connected(False)
    assert pulse.source(201.0) is ViewSource.CACHED


def test_the_quickest_heartbeat_tells_the_time() -> None:
    """What travels arrives late, never early: a slow heartbeat does not put the clock back."""
    pulse = Pulse()
    pulse.beat(Beat(0, NOW, 10.0))
    pulse.beat(Beat(0, NOW + timedelta(seconds=1), 11.5))
    assert pulse.control_now(ManualClock(NOW, 12.0)) == NOW + timedelta(seconds=2)


def test_a_heartbeat_that_was_held_up_confirms_what_was_then() -> None:
    """A network that was silent for 12 s lets go of three at once: the view is as old as the last of them is."""
    pulse = Pulse()
    pulse.connected(True)
    pulse.beat(Beat(0, NOW, 10.0))
    for second in (1, 2, 3):
        pulse.beat(Beat(0, NOW + timedelta(seconds=second), 25.0))
    assert pulse.age_seconds(25.0) == 12.0
    assert pulse.source(25.0) is ViewSource.CACHED
    pulse.beat(Beat(0, NOW + timedelta(seconds=15), 25.0))
    assert pulse.age_seconds(25.0) == 0.0


def test_a_new_connection_begins_anew() -> None:
    """What was sent on the one before tells nothing of how long this one's first message took."""
    pulse = Pulse()
    pulse.connected(True)
    pulse.beat(Beat(0, NOW, 10.0))
    pulse.connected(False)
    pulse.connected(True)
    pulse.beat(Beat(0, NOW + timedelta(seconds=1), 30.0))
    assert pulse.age_seconds(30.0) == 0.0
    assert pulse.source(30.0) is ViewSource.LIVE


def test_a_clock_that_was_set_back_makes_no_view_older_than_messages_get() -> None:
    """An hour back at the control plane is 15 s here, until its new time is learned."""
    pulse = Pulse()
    pulse.beat(Beat(0, NOW, 10.0))
    pulse.beat(Beat(0, NOW - timedelta(hours=1), 11.0))
    assert pulse.age_seconds(11.0) == 15.0
    for second in range(60):
        pulse.beat(Beat(0, NOW + timedelta(seconds=second - 3600), 12.0 + second))
    assert pulse.age_seconds(71.0) == 0.0


def test_before_the_first_heartbeat_it_is_our_own_time() -> None:
    """Nobody has said anything else."""
    assert Pulse().control_now(ManualClock(NOW, 5.0)) == NOW
