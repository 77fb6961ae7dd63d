"""Verdicts that came to nothing, until the control plane has heard so: else they last as long as this process."""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.ports import AcquirePort, SessionPort
from sidecar.leases.requests import wire_ref
from sidecar.runtime.clock import Clock
from sidecar.runtime.trouble import Refused, Unreachable

CALL_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 1.0
AT_ONCE: Final = 100


@dataclass(slots=True)
class GivingUp:
    """Says it at once, and again until it was heard. Thread-safe; nothing here blocks.

    What is lost with the process is let go when a later one closes its session.
    """

    port: AcquirePort
    sessions: SessionPort
    clock: Clock
    make_id: Callable[[], str]
    wake: Callable[[], None] = lambda: None
    """Has `step` called soon."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pending: dict[str, tuple[session.Holder, BalanceRef]] = field(default_factory=dict)
    """By request id, who asked, and for what."""
    _is_out: bool = False
    _again_at: float = 0.0

    @property
    def is_pending(self) -> bool:
        """Is there something that was not heard, and somebody to tell it?"""
        return self.has_any and self.sessions.opened is not None

    @property
    def has_any(self) -> bool:
        """Is there something that was not heard?"""
        return bool(self._pending)

    def add(self, ref: BalanceRef, request_id: str) -> None:
        """What this request was told, if anything, came to nothing."""
        with self._lock:
            self._pending[request_id] = (self.sessions.holder, ref)
        self.step()
        self.wake()

    def step(self) -> None:
        """Sends what is due, one message at a time."""
        opened = self.sessions.opened
        now = self.clock.monotonic()
        with self._lock:
            if (
                not self._pending
                or self._is_out
                or now < self._again_at
                or opened is None
                or self.port.is_down
            ):
                return
            holder, epoch = opened
            self._forget_others(holder)
            some = [(name, ref) for name, (_, ref) in self._pending.items()][:AT_ONCE]
            self._is_out = bool(some)
        if some:
            request = session.AcquireLeasesRequest(
                holder=holder,
                epoch=epoch,
                request_id=self.make_id(),
                given_up=[session.GivenUp(ref=wire_ref(ref), request_id=name) for name, ref in some],
            )
            names = [name for name, _ in some]
            self.port.acquire(request, CALL_SECONDS, lambda answer: self._answered(names, answer))

    def _forget_others(self, holder: session.Holder) -> None:
        """What an earlier incarnation of this process asked for is not ours to give up: its session is closed."""
        for name, (asker, _) in list(self._pending.items()):
            if (asker.outbox_id, asker.incarnation_id) != (holder.outbox_id, holder.incarnation_id):
                del self._pending[name]

    def _answered(
        self, names: Collection[str], answer: session.AcquireLeasesResponse | Unreachable | Refused
    ) -> None:
        was_heard = isinstance(answer, session.AcquireLeasesResponse)
        with self._lock:
            self._is_out = False
            self._again_at = 0.0 if was_heard else self.clock.monotonic() + AGAIN_SECONDS
            for name in names if was_heard else ():
                self._pending.pop(name, None)
        if isinstance(answer, Refused) and answer.code == "FAILED_PRECONDITION":
            self.sessions.superseded()
        if was_heard and self._pending:
            self.wake()
