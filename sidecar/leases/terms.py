"""The words of leasing: what is taken, how an acquiring went. Amounts are integers in the balance's scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from sidecar.engine.values import BalanceRef


class Draw(Protocol):
    """What the book reads of the engine's `Draw`."""

    @property
    def ref(self) -> BalanceRef: ...

    @property
    def feature(self) -> str: ...

    @property
    def within(self) -> int: ...

    @property
    def beyond(self) -> int: ...


class Shortfall(Protocol):
    """What the keeper reads of the engine's `Shortfall`: the call needs `needed` in all, the book lacked `missing`."""

    @property
    def ref(self) -> BalanceRef: ...

    @property
    def feature(self) -> str: ...

    @property
    def missing(self) -> int: ...

    @property
    def needed(self) -> int: ...


class Taken(NamedTuple):
    """A part of one draw, taken from one lease. So much of `amount` as `beyond` lies beyond the limit, in a
    soft cap.
    """

    ref: BalanceRef
    feature: str
    lease_id: str
    amount: int
    beyond: int
    is_rate: bool
    """True: tokens of a rate. The books know nothing of them: leave them out of records and holds."""


class NotCovered(Exception):
    """The book does not hold what a draw asks for; nothing was taken. Decide again with fresh funds."""

    def __init__(self, ref: BalanceRef) -> None:
        """`ref`: the first balance that was short."""
        self.ref = ref
        super().__init__(f"{ref.balance} of {ref.customer_id} does not cover it")


class Grade(IntEnum):
    """How the acquiring of one balance went; a later one outweighs an earlier where several stand together."""

    GRANTED = 0
    """Something was installed, or somebody else's request brought it: decide again."""
    EXHAUSTED = 1
    """Final, and the control plane's own word: there is no more."""
    HELD_BY_OTHERS = 2
    """Others hold it and were asked for it: worth another try after `retry_after_seconds`."""
    NO_SUCH_BALANCE = 3
    """Not entitled, as of the reply: the view may be behind."""
    UNREACHABLE = 4
    """The control plane is away, or did not answer before the deadline."""


class Acquired(NamedTuple):
    """The outcome for one balance and feature."""

    grade: Grade
    retry_after_seconds: float | None = None
    message: str = ""
    """In words, for the explanation."""


UNREACHABLE: Final = Acquired(Grade.UNREACHABLE, message="the control plane can not be reached")

AcquireOutcome = Mapping[tuple[BalanceRef, str], Acquired]
"""By (ref, feature) as in the shortfalls. Whatever it says: decide again, and let it say why if that refuses."""


@dataclass(frozen=True, slots=True)
class RemoteVerdict:
    """What the control plane decided about a gauge, a `max` or a `latest`. It counts there already."""

    allowed: bool
    used: int
    limit: int | None
    """None: unlimited."""
    request_id: str = ""
    """Names it when it is given up. Empty: there is nothing to give up."""
    frees: int = 0
    """What of a gauge is shown as used until its event is booked, and is not any more."""
    may_free: bool = False
    """A SET or REMOVE: what it frees is free once its event is booked."""


@dataclass(frozen=True, slots=True)
class RemoteFailure:
    """No verdict. With UNREACHABLE it may have been booked all the same: a repeat with the same key is safe."""

    grade: Grade
    message: str = ""
