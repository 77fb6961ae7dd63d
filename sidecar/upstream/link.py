"""Is the control plane there? Answered from memory, from what the channel and the calls have seen."""

import threading
from collections.abc import Callable
from typing import Final

import grpc

from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics

DOUBT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 4.0
"""While the feed is open something is heard every second."""


class Link:
    """Told of successes and failures by everyone; `is_down` takes no lock."""

    def __init__(self, clock: Clock, metrics: Metrics, *, silent_seconds: float = SILENT_SECONDS) -> None:
        """Taken to be up until something says otherwise."""
        self._clock = clock
        self._metrics = metrics
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._is_broken = False
        self._doubted_until = 0.0
        self._heard_at = clock.monotonic()
        self._outages = 0
        self._was_down = False
        self._listeners: list[Callable[[], None]] = []
        metrics.upstream_up.set(1)

    @property
    def is_down(self) -> bool:
        """Is it known to be away?"""
        return self._is_broken or self._clock.monotonic() < self._doubted_until

    @property
    def outage(self) -> int:
        """Grows whenever the control plane has come back: tells outages apart."""
        return self._outages

    def on_back(self, call: Callable[[], None]) -> None:
        """What to call when it is back after it was away. Must not block."""
        self._listeners.append(call)

    def worked(self) -> None:
        """It answered, whatever it said."""
        self._heard_at = self._clock.monotonic()
        if not self._was_down:
            return
        with self._lock:
            was_down = self._was_down
            self._is_broken = self._was_down = False
            self._doubted_until = 0.0
            self._outages += was_down
        if was_down:
            self._metrics.upstream_up.set(1)
            for call in self._listeners:
                call()

    def failed(self, code: grpc.StatusCode) -> None:
        """A call came to nothing. One whose time was over means that the control plane is away only where nothing else
        was heard of it either: else it is slow.
        """
        now = self._clock.monotonic()
        is_silent = now - self._heard_at >= self._silent_seconds
        if not (
            code is grpc.StatusCode.UNAVAILABLE or (code is grpc.StatusCode.DEADLINE_EXCEEDED and is_silent)
        ):
            return
        with self._lock:
            self._doubted_until = now + DOUBT_SECONDS
            self._was_down = True
        self._metrics.upstream_up.set(0)

    def channel_is(self, state: grpc.ChannelConnectivity) -> None:
        """The channel's state changed: what lies between two failures is still a failure."""
        if state is grpc.ChannelConnectivity.READY:
            self.worked()
        elif state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
            with self._lock:
                self._is_broken = self._was_down = True
            self._metrics.upstream_up.set(0)
