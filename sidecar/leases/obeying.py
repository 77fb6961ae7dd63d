"""Obeying recalls: what the control plane wants back goes into the outbox as returns, and is answered.

A recall for a limit that was lowered takes everything of an earlier revision at once. One for a caller elsewhere takes
what is idle; what has just come, or is still on its way, is not: then the recall stays for a moment, and is answered
again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

import structlog

from purser.sync.v1 import feed_pb2 as feed
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook, Withdrawn
from sidecar.leases.requests import from_wire
from sidecar.leases.returning import Returning
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown

_log = structlog.stdlib.get_logger(__name__)

PENDING_SECONDS: Final = 1.0
"""Whoever waits for what is recalled elsewhere does not wait for longer."""

Answer = Callable[[feed.Recalled], None]
"""Called from the keeper's thread, perhaps more than once; must not block."""


@dataclass(slots=True)
class _Pending:
    recall: feed.Recall
    ref: BalanceRef
    answer: Answer
    until: float
    last_seq: int = 0
    told: tuple[str, ...] | None = None


class Obeying:
    """`post` is called from any thread, everything else from the keeper's."""

    def __init__(
        self, book: LeaseBook, returning: Returning, in_flight: Callable[[BalanceRef], bool]
    ) -> None:
        """`in_flight`: is a lease of this balance asked for, and not answered?"""
        self._book = book
        self._returning = returning
        self._in_flight = in_flight
        self._posted: SimpleQueue[tuple[feed.Recall, Answer]] = SimpleQueue()
        self._pending: list[_Pending] = []

    def post(self, recall: feed.Recall, answer: Answer) -> None:
        """The next step obeys it."""
        self._posted.put((recall, answer))

    @property
    def is_pending(self) -> bool:
        """Will a recall be obeyed further by a step soon?"""
        return bool(self._pending)

    def step(self, now: float) -> bool:
        """Obeys what is due; True: something was returned. What can not be written is not answered."""
        while not self._posted.empty():
            recall, answer = self._posted.get()
            self._pending.append(_Pending(recall, from_wire(recall.ref), answer, now + PENDING_SECONDS))
        pending, self._pending = self._pending, []
        has_returned = False
        for one in pending:
            try:
                has_returned |= self._obey(one, now)
            except (NotWritten, OutcomeUnknown) as error:
                # Unanswered, the recall stands: the leases end by themselves.
                _log.warning("a recall could not be obeyed", recall_id=one.recall.recall_id, cause=str(error))
        return has_returned

    def clear(self) -> None:
        """An earlier incarnation's leases are not ours to return."""
        self._pending.clear()

    def _obey(self, one: _Pending, now: float) -> bool:
        with self._book.lock:
            withdrawn = self._withdraw(one, now)
            lease_ids = self._book.settled_in(one.ref, now)
            is_fresh = self._book.is_fresh(one.ref, now)
        returns = self._returning.write(withdrawn, why="recall")
        one.last_seq = max([one.last_seq, *(written.uid.seq for written in returns)])
        if lease_ids != one.told or returns:
            one.told = lease_ids
            one.answer(
                feed.Recalled(recall_id=one.recall.recall_id, last_seq=one.last_seq, lease_ids=lease_ids)
            )
        if one.recall.idle_only and now < one.until and (is_fresh or self._in_flight(one.ref)):
            self._pending.append(one)
        return bool(returns)

    def _withdraw(self, one: _Pending, now: float) -> list[Withdrawn]:
        if one.recall.idle_only:
            return self._book.withdraw_idle(one.ref, now)
        return self._book.cut(one.ref, one.recall.revision)
