"""Threads that loop over a step until they are stopped."""

import threading
from collections.abc import Callable
from typing import Final

import structlog

_log = structlog.stdlib.get_logger(__name__)

AFTER_ERROR_SECONDS: Final = 1.0


class Loop:
    """Calls `step` again and again in a thread of its own; it answers how many seconds to rest, and `kick`
    ends the rest.
    """

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        """Does not start yet."""
        self._name = name
        self._step = step
        self._kicked = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts; once."""
        self._thread.start()

    def kick(self) -> None:
        """There is something to do. Does not block."""
        self._kicked.set()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Lets a step that runs come to its end. False: it did not, in time."""
        self._stopping = True
        self._kicked.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            self._kicked.clear()
            try:
                seconds = self._step()
            except Exception:  # noqa: BLE001
                # A bug must not end the uploads for good; it is loud, and the next step starts from what is stored.
                _log.exception("step failed", loop=self._name)
                seconds = AFTER_ERROR_SECONDS
            if seconds > 0 and not self._stopping:
                self._kicked.wait(seconds)
