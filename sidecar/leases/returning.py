"""What goes back to the control plane: written in the outbox first, then sent along with the next request."""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook, Withdrawn
from sidecar.leases.ports import Journal
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown

_log = structlog.stdlib.get_logger(__name__)

CRUMBS_SECONDS: Final = 5.0
"""So long a return is sent along with requests; by then it was uploaded."""


class Returning:
    """`write` is called from any thread, everything else from the keeper's."""

    def __init__(self, book: LeaseBook, journal: Journal, clock: Clock, metrics: Metrics) -> None:
        """Nothing goes back yet."""
        self._book = book
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._crumbs: dict[BalanceRef, list[tuple[float, session.LeaseReturn]]] = {}

    def write(self, withdrawn: Sequence[Withdrawn], *, why: str) -> Sequence[session.LeaseReturn]:
        """Writes returns. What could not be written is free again; what is unknown waits for the file to be
        read. Raises NotWritten and OutcomeUnknown.
        """
        if not withdrawn:
            return []
        amounts = [session.LeaseAmount(lease_id=w.lease_id, amount=w.amount) for w in withdrawn]
        try:
            returns = self._journal.record_returns(amounts)
        except NotWritten:
            self._put_back(withdrawn)
            raise
        except OutcomeUnknown as error:
            error.resolution.then(lambda applied: None if applied else self._put_back(withdrawn))
            raise
        self._metrics.lease_returns.labels(why).inc(len(returns))
        return returns

    def try_to_write(self, withdrawn: Sequence[Withdrawn], *, why: str) -> None:
        """Writes returns that nobody waits for; on trouble they are tried again with the next step."""
        try:
            returns = self.write(withdrawn, why=why)
        except (NotWritten, OutcomeUnknown) as error:
            _log.warning("returns can not be written", cause=str(error))
            return
        now = self._clock.monotonic()
        for w, written in zip(withdrawn, returns, strict=True):
            self._crumbs.setdefault(w.ref, []).append((now, written))

    def take_crumbs(self, refs: Iterable[BalanceRef]) -> list[session.LeaseReturn]:
        """Returns of these balances that a request should carry."""
        return [written for ref in refs for _, written in self._crumbs.pop(ref, [])]

    def tidy(self, now: float) -> None:
        """Forgets what was uploaded long ago."""
        for ref in list(self._crumbs):
            fresh = [(at, written) for at, written in self._crumbs[ref] if now - at < CRUMBS_SECONDS]
            if fresh:
                self._crumbs[ref] = fresh
            else:
                del self._crumbs[ref]

    def clear(self) -> None:
        """An earlier incarnation's are not ours to send."""
        self._crumbs.clear()

    def _put_back(self, withdrawn: Sequence[Withdrawn]) -> None:
        with self._book.lock:
            self._book.put_back(withdrawn)
