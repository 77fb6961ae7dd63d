"""How old the view is, and what time it is at the control plane: both learned from heartbeats."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sidecar.engine.decision import Freshness, ViewSource
from sidecar.runtime.clock import Clock

LIVE_WITHIN_SECONDS: Final = 5.0
"""Without a heartbeat for this long a connected feed is not called LIVE any more."""

TRANSIT_MAX_SECONDS: Final = 15.0
"""A connection on which nothing has come for so long is broken by its keepalive: what comes is no older."""

_WAITING_MAX: Final = 1_000
_OFFSETS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat: the control plane's clock when it was sent, and ours (monotonic seconds) when it came, or would have
    come if it had not been delayed.
    """

    revision: int
    control_now: datetime
    received_at: float


class Pulse:
    """Keeps the last heartbeat that the view has caught up with. Written by the follower, read by everyone
    without a lock.
    """

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self._lock = threading.Lock()
        self._waiting: deque[Beat] = deque(maxlen=_WAITING_MAX)
        self._revision = 0
        self._confirmed: Beat | None = None
        self._offsets: deque[tuple[float, datetime]] = deque(maxlen=_OFFSETS_MAX)
        self._beats: deque[tuple[float, datetime]] = deque(maxlen=_OFFSETS_MAX)
        self._offset: tuple[float, datetime] | None = None
        self._restored = False
        self._persisted: tuple[datetime, float] | None = None
        self._connected = False
        self._connecting = False
        self._returns = 0

    def connecting(self) -> None:
        """The first attempt in this process begins."""
        self._connecting = True

    def connected(self, is_connected: bool) -> None:
        """The feed came or went."""
        self._connecting = False
        if is_connected and not self._connected:
            self._returns += 1
            self._beats.clear()
        self._connected = is_connected

    @property
    def returns(self) -> int:
        """How often the feed has come (back): a number for each outage."""
        return self._returns

    @property
    def confirmed_at(self) -> float | None:
        """Monotonic seconds since when the view is confirmed by a heartbeat in this process; None: there was none."""
        beat = self._confirmed
        return None if beat is None else beat.received_at

    @property
    def is_connected(self) -> bool:
        """Is the feed connected?"""
        return self._connected

    @property
    def is_connecting(self) -> bool:
        """Has the first attempt in this process not come to anything yet? Who asks now will soon know more."""
        return self._connecting

    def restore(self, as_of: datetime | None, *, wall_now: datetime, monotonic: float) -> None:
        """A view was read that was confirmed last at `as_of`; what passed since is known by this machine's
        clock only.
        """
        self._restored = True
        if as_of is not None:
            passed = max(0.0, (wall_now - as_of).total_seconds())
            self._persisted = (as_of, monotonic - passed)

    def beat(self, beat: Beat) -> None:
        """A heartbeat came. It confirms what was there when it was sent: one that waited in a silent network is as old
        as quicker ones tell.
        """
        with self._lock:
            self._learn(beat.control_now, beat.received_at)
            self._beats.append((beat.received_at, beat.control_now))
            beat = replace(beat, received_at=beat.received_at - self._delayed(beat))
            if beat.revision <= self._revision:
                self._confirmed = beat
                self._waiting.clear()
            else:
                self._waiting.append(beat)

    def reached(self, revision: int) -> None:
        """The view stands at `revision` now: heartbeats that waited for it count from when they came."""
        with self._lock:
            self._revision = revision
            while self._waiting and self._waiting[0].revision <= revision:
                self._confirmed = self._waiting.popleft()

    def started_over(self) -> None:
        """The control plane was restored: what it had confirmed does not hold any more."""
        with self._lock:
            self._revision = 0
            self._waiting.clear()

    def as_of(self) -> datetime | None:
        """When the control plane last confirmed the view, by its clock; None: never."""
        beat = self._confirmed
        if beat is not None:
            return beat.control_now
        return None if self._persisted is None else self._persisted[0]

    def age_seconds(self, monotonic: float) -> float | None:
        """Seconds since the view was last confirmed; None: never."""
        beat = self._confirmed
        if beat is not None:
            return max(0.0, monotonic - beat.received_at)
        return None if self._persisted is None else max(0.0, monotonic - self._persisted[1])

    def freshness(self, monotonic: float) -> Freshness:
        """Revision, age and source of the view as it stands."""
        age = self.age_seconds(monotonic)
        span = None if age is None else timedelta(seconds=age)
        return Freshness(self._revision, self.as_of(), span, self.source(monotonic))

    def source(self, monotonic: float) -> ViewSource:
        """LIVE, CACHED, PERSISTED or, when there never was a view, FALLBACK."""
        beat = self._confirmed
        if beat is not None:
            fresh = self._connected and monotonic - beat.received_at <= LIVE_WITHIN_SECONDS
            return ViewSource.LIVE if fresh else ViewSource.CACHED
        return ViewSource.PERSISTED if self._restored else ViewSource.FALLBACK

    def control_now(self, clock: Clock) -> datetime:
        """The control plane's clock, carried on by ours since its last heartbeat; before the first one, this
        machine's.
        """
        known = self._offset
        if known is None:
            return clock.now()
        heard_at, control_at = known
        return control_at + timedelta(seconds=clock.monotonic() - heard_at)

    def heard_clock(self, control_now: datetime, received_at: float) -> None:
        """The control plane's clock came with an answer."""
        with self._lock:
            self._learn(control_now, received_at)

    def _delayed(self, beat: Beat) -> float:
        """Seconds that it was longer on its way than the quickest one of late on this connection; a clock there that
        was set back must not make it older than anything can be that comes.
        """
        heard_at, control_at = _quickest(self._beats)
        expected_at = heard_at + (beat.control_now - control_at).total_seconds()
        return min(max(0.0, beat.received_at - expected_at), TRANSIT_MAX_SECONDS)

    def _learn(self, control_now: datetime, received_at: float) -> None:
        # What travels arrives late, never early: of the last ones the one that puts the clock furthest on is
        # the nearest.
        self._offsets.append((received_at, control_now))
        self._offset = _quickest(self._offsets)


def _quickest(heard: Iterable[tuple[float, datetime]]) -> tuple[float, datetime]:
    return max(heard, key=lambda one: one[1] - timedelta(seconds=one[0]))
