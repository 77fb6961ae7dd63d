"""Requests on their way to the control plane, and the callers that wait for them."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.terms import Acquired, Grade

GIVEN_UP_SECONDS: Final = 600.0
"""A request without an answer is repeated this long; what it may have leased is then left to the close of the
session.
"""


class Waiter:
    """One call that waits for some balances. Answered from the keeper's thread."""

    def __init__(self, keys: Iterable[tuple[BalanceRef, str]]) -> None:
        """Waits for an answer to each of these."""
        self._open = set(keys)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.outcome: dict[tuple[BalanceRef, str], Acquired] = {}

    @property
    def is_done(self) -> bool:
        """Has everything been answered?"""
        return self._done.is_set()

    def answer(self, key: tuple[BalanceRef, str], acquired: Acquired) -> None:
        """Only the first answer of a balance counts."""
        with self._lock:
            if key in self._open:
                self._open.discard(key)
                self.outcome[key] = acquired
            if not self._open:
                self._done.set()

    def wait(self, seconds: float) -> None:
        """Blocks until everything is answered; what is not by then is UNREACHABLE."""
        self._done.wait(max(0.0, seconds))
        with self._lock:
            for key in self._open:
                self.outcome[key] = Acquired(
                    Grade.UNREACHABLE, message="the control plane did not answer in time"
                )
            self._open.clear()


@dataclass(slots=True)
class Ticket:
    """One balance that a call waits for."""

    waiter: Waiter
    ref: BalanceRef
    feature: str
    missing: int
    """What it lacked when it was decided, which may be more than what is free now leaves open: several features
    of one call may spend the same.
    """
    needed: int
    """The whole charge."""
    deadline: float
    is_asked: bool = False
    """The request that is on its way was made for it, too: its refusal is this call's."""

    def lacks(self, free: int) -> int:
        """What it lacks when so much is free."""
        return max(1, self.missing, self.needed - free)


@dataclass(slots=True)
class Wanted:
    """What one want of a request is for."""

    ref: BalanceRef
    feature: str
    need: int
    next_period: bool


@dataclass(slots=True)
class Request:
    """A request under one id, as long as it is not answered."""

    message: session.AcquireLeasesRequest
    wanted: list[Wanted]
    sent_at: float
    """When it was sent first: its leases count from here, however often it is repeated."""
    timeout_seconds: float
    tries: int = 0
    retry_at: float = 0.0
    is_out: bool = True
    is_in_vain: bool = False
    """It has just failed, and is not yet asked again: nobody has to wait for it."""
    cut_at: dict[BalanceRef, int] = field(default_factory=dict)
    """Cuts that came meanwhile: the highest revision of each balance."""


@dataclass(slots=True)
class Remembered:
    """A refusal, and how long it holds."""

    acquired: Acquired
    missing: int
    """It was for so much: less may still be there."""
    version: int
    until: float


def wire_ref(ref: BalanceRef) -> session.BalanceRef:
    """The reference as the wire says it."""
    return session.BalanceRef(customer_id=ref.customer_id, subject_id=ref.subject_id, balance=ref.balance)


def from_wire(ref: session.BalanceRef) -> BalanceRef:
    """The inverse of `wire_ref`."""
    return BalanceRef(ref.customer_id, ref.subject_id, ref.balance)
