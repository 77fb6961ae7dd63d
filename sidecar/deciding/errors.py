"""What can be wrong with a request, as facts. `sidecar/rpc/status.py` says which gRPC status each one becomes."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong: its path in the request (`event.measures["input_tokens"]`), and why with the mend."""

    field: str
    description: str


class Malformed(Exception):
    """The request is malformed, and has changed nothing."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class KeyConflict(Exception):
    """An idempotency key was used before with other content."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"idempotency key {key!r} was used before with other content; use a new key for a new event"
        )


class ReservationConflict(Exception):
    """A reservation id was used before with other content."""

    def __init__(self, reservation_id: str) -> None:
        self.reservation_id = reservation_id
        super().__init__(f"reservation {reservation_id!r} was made before with other content; use a new id")


class ReservationEnded(Exception):
    """The reservation has ended, and this request would change it."""

    def __init__(self, reservation_id: str, state: str) -> None:
        self.reservation_id = reservation_id
        self.state = state
        super().__init__(f"reservation {reservation_id!r} is {state.lower()} and changes no more")


class ReservationUnknown(Exception):
    """No such reservation is known here, and the request needs one."""

    def __init__(self, reservation_id: str) -> None:
        self.reservation_id = reservation_id
        super().__init__(f"no reservation {reservation_id!r} is known to this sidecar; reserve it first")


class Draining(Exception):
    """The sidecar is shutting down and takes no new work."""

    def __init__(self) -> None:
        super().__init__("this sidecar is shutting down; ask its successor")
