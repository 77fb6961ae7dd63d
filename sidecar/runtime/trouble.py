"""What can go wrong below the decisions, as facts: with the disk, the way to the control plane, and too many calls.

They stand here because neighbouring rooms, which do not know each other, must tell them apart.
"""

import threading
from collections.abc import Callable
from typing import Final

ERROR_DOMAIN: Final = "purser.dev"
"""Of the `ErrorInfo` that our own servers put into every error; what a connection says has none."""


class NotWritten(Exception):
    """Nothing was written: the store can not take new writes now. `retry_after_seconds` is a guess at when it can."""

    def __init__(self, cause: str, *, retry_after_seconds: float = 1.0) -> None:
        """`cause` in words, for people."""
        self.cause = cause
        self.retry_after_seconds = retry_after_seconds
        super().__init__(cause)


class Overloaded(Exception):
    """More calls are in flight, or wait, than this sidecar takes on."""

    def __init__(self, pool: str) -> None:
        """`pool`: which calls."""
        self.pool = pool
        super().__init__(f"too many calls are in flight ({pool}); try again in a moment")


class Resolution:
    """How a write whose outcome was unknown turned out, once the file has been read back."""

    def __init__(self) -> None:
        """Not known yet."""
        self._lock = threading.Lock()
        self._applied: bool | None = None
        self._waiting: list[Callable[[bool], None]] = []

    @property
    def applied(self) -> bool | None:
        """True: it is in the file. False: it is not, and never will be. None: not known yet."""
        return self._applied

    def then(self, call: Callable[[bool], None]) -> None:
        """Calls back once with the outcome: at once, or later from the writer's thread. `call` must not block."""
        with self._lock:
            if self._applied is None:
                self._waiting.append(call)
                return
        call(self._applied)

    def resolve(self, applied: bool) -> None:
        """The file was read back. Only the first time counts. Everybody is called; what one of them raised is raised
        at the end.
        """
        with self._lock:
            if self._applied is not None:
                return
            self._applied = applied
            waiting, self._waiting = self._waiting, []
        failed: list[Exception] = []
        for call in waiting:
            try:
                call(applied)
            except Exception as error:  # noqa: BLE001 those behind it must hear of it all the same
                failed.append(error)
        if failed:
            raise failed[0]


class OutcomeUnknown(Exception):
    """The commit failed in a way that leaves open whether it happened; `resolution` tells once the file was read back.

    What the write would have spent stays spent until then. The caller may repeat with the same key.
    """

    def __init__(self, cause: str, resolution: Resolution) -> None:
        """`cause` in words."""
        self.cause = cause
        self.resolution = resolution
        super().__init__(f"whether it was recorded is not known yet ({cause}); repeat it with the same key")


class Unreachable(Exception):
    """The control plane did not answer in time, at all, or with sense: what was asked may have happened or not."""

    def __init__(self, code: str, message: str = "") -> None:
        """`code`: the gRPC status's name."""
        self.code = code
        super().__init__(f"{code}: {message}")


class Refused(Exception):
    """The control plane answered with an error: nothing of it has happened. `code` is the gRPC status's name."""

    def __init__(self, code: str, message: str) -> None:
        """`message` as it came."""
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


class AnotherInstallation(Refused):
    """Who answers at the control plane's address keeps other books than those that this outbox belongs to."""

    def __init__(self, message: str) -> None:
        """`message` as it came, or as it was found out."""
        super().__init__("FAILED_PRECONDITION", message)


class Superseded(Refused):
    """This incarnation may open no more, or has to open again before anything else."""

    def __init__(self, message: str) -> None:
        """`message` as it came."""
        super().__init__("FAILED_PRECONDITION", message)


class SequenceGap(Refused):
    """A batch began above the cursor + 1; `expected_seq` is what should come (0: it was not said)."""

    def __init__(self, message: str, *, expected_seq: int) -> None:
        """`message` as it came."""
        self.expected_seq = expected_seq
        super().__init__("OUT_OF_RANGE", message)
