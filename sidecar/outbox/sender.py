"""The sender: uploads what waits, in order, and never drops anything."""

import threading
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

import structlog

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox.encoding import EncodedBatch
from sidecar.outbox.ports import ReportPort
from sidecar.outbox.shelf import Shelf
from sidecar.runtime.backoff import Backoff
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Refused, SequenceGap, Unreachable

_log = structlog.stdlib.get_logger(__name__)

MAX_RECORDS: Final = 500
MAX_BYTES: Final = 1 << 20
INTERVAL_SECONDS: Final = 0.1
"""So long writes are gathered for a batch."""
REST_SECONDS: Final = 2.0
"""Where nothing was written for an interval; who writes then ends it."""
CALL_SECONDS: Final = 10.0
REFUSALS_SECONDS: Final = 5.0
MAX_REFUSALS: Final = 1_000
PURGE_SECONDS: Final = 60.0


class OpenSession(Protocol):
    """What the sender needs of the sessions."""

    @property
    def opened(self) -> tuple[session.Holder, int] | None: ...

    @property
    def may_upload(self) -> bool: ...

    def superseded(self) -> None: ...


class Sender:
    """One per process; `step` from one thread, `kick` from any."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        port: ReportPort,
        sessions: OpenSession,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        turn: threading.Lock,
    ) -> None:
        """`turn`: see `Sessions`."""
        self._shelf = shelf
        self._port = port
        self._sessions = sessions
        self._clock = clock
        self._metrics = metrics
        self._turn = turn
        self._backoff = Backoff(random)
        self._most = MAX_RECORDS
        self._retry_at = 0.0
        self._refusals_at = 0.0
        self._purge_at = 0.0
        self._was_empty = False
        self._rests = False
        self._gathers = False
        self._wake: Callable[[], None] = lambda: None

    def on_work(self, wake: Callable[[], None]) -> None:
        """What to call when `step` has something to do at once."""
        self._wake = wake

    def kick(self) -> None:
        """Uploads what is there without waiting for the interval."""
        self._rests = self._gathers = False  # `written` may come after it
        self._wake()

    def written(self) -> None:
        """There may be something to upload. Called after each group of writes; heard only while there was nothing."""
        if self._rests:
            self._rests, self._gathers = False, True
            self._wake()

    def reconnected(self) -> None:
        """The way to the control plane is back: what failed before says nothing about now."""
        self._backoff.worked()
        self._retry_at = 0.0
        self._wake()

    def step(self) -> float:
        """Uploads one batch, which may block for a call; how many seconds it may rest unless it is woken. 0:
        there is more.
        """
        now = self._clock.monotonic()
        try:
            self._clean(now)
            if now < self._retry_at:
                return self._retry_at - now
            with self._turn:
                if not self._sessions.may_upload:
                    return INTERVAL_SECONDS
                if self._gathers:
                    self._gathers = False
                    return INTERVAL_SECONDS
                self._rests = self._was_empty  # before it is looked: who writes from here on is heard
                batch, last_seq = self._next_batch()
                self._was_empty = batch is None
                if batch is not None:
                    self._rests = False
                    self._upload(batch, last_seq)
            self._report_refusals(now)
        except (NotWritten, OutcomeUnknown) as error:
            _log.warning("outbox in trouble while uploading", cause=str(error))
            return 1.0
        if batch is None:
            return min(REST_SECONDS if self._rests else INTERVAL_SECONDS, max(0.0, self._purge_at - now))
        return max(0.0, self._retry_at - self._clock.monotonic())

    def _next_batch(self) -> tuple[EncodedBatch | None, int]:
        """From the oldest incarnation that has something left: what is there, up to the limits; and the last number
        that it has written.
        """
        waiting = [i for i in self._shelf.incarnations() if i.cursor < i.last_seq]
        self._metrics.outbox_pending_records.set(sum(i.last_seq - i.cursor for i in waiting))
        for incarnation in waiting:
            batch = self._shelf.read_batch(
                incarnation.incarnation_id, max_records=self._most, max_bytes=MAX_BYTES
            )
            if batch is not None:
                return batch, incarnation.last_seq
        return None, 0

    def _upload(self, batch: EncodedBatch, last_seq: int) -> None:
        try:
            reply = self._port.report_batch(batch, CALL_SECONDS)
        except SequenceGap as gap:
            self._stepped_back(batch, gap)
            return
        except Unreachable as error:
            self._failed(batch, error.code, str(error))
            return
        except Refused as error:
            if error.code in {"FAILED_PRECONDITION", "NOT_FOUND"}:
                self._sessions.superseded()
            self._failed(batch, error.code, str(error))
            return
        last_seq = max(last_seq, batch.last_seq)  # more may have been written between the two looks
        if reply.cursor > last_seq:
            # Taken over, it would swallow what is written next. Whether the disk was rolled back an opening tells.
            self._sessions.superseded()
            self._failed(batch, "INTERNAL", f"it has records up to {reply.cursor} of {last_seq}")
            return
        self._backoff.worked()
        self._retry_at = 0.0
        self._metrics.upload_stuck.set(0)
        self._metrics.upload_records.inc(batch.size)
        self._metrics.upload_duplicates.inc(len(reply.duplicate_seqs))
        self._metrics.upload_dead_letters.inc(len(reply.dead_letters))
        for letter in reply.dead_letters:
            _log.error("record could not be booked", seq=letter.seq, reason=letter.reason)
        self._most = min(MAX_RECORDS, self._most * 2)
        self._shelf.acknowledge(batch.identity.incarnation_id, reply.cursor)

    def _failed(self, batch: EncodedBatch, code: str, message: str) -> None:
        """Half as much next time, down to the one record that may be the cause; that one is tried for ever."""
        self._metrics.upload_failures.labels(code).inc()
        self._most = max(1, batch.size // 2)
        seconds = self._backoff.failed()
        self._retry_at = self._clock.monotonic() + seconds
        is_alone = batch.size == 1 and code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        self._metrics.upload_stuck.set(1 if is_alone else 0)
        log = _log.error if is_alone else _log.warning
        log("upload failed", code=code, error=message, first_seq=batch.first_seq, records=batch.size)

    def _stepped_back(self, batch: EncodedBatch, gap: SequenceGap) -> None:
        """The control plane has less than it acknowledged: it was restored. What it lacks is sent again."""
        _log.warning(
            "the control plane expects an earlier record", expected=gap.expected_seq, sent=batch.first_seq
        )
        self._metrics.upload_failures.labels(gap.code).inc()
        if 0 < gap.expected_seq < batch.first_seq:
            cursors = {batch.identity.incarnation_id: gap.expected_seq - 1}
            self._shelf.rewind(cursors, self._shelf.generation)
        self._sessions.superseded()
        self._retry_at = self._clock.monotonic() + self._backoff.failed()

    def _report_refusals(self, now: float) -> None:
        opened = self._sessions.opened
        if now - self._refusals_at < REFUSALS_SECONDS or opened is None:
            return
        self._refusals_at = now
        counts, samples = self._shelf.take_refusals(MAX_REFUSALS)
        if not (counts or samples):
            return
        try:
            self._port.report_refusals(opened[0], counts, samples, CALL_SECONDS)
        except (Unreachable, Refused) as error:
            _log.info("refusals were not reported", error=str(error), counts=len(counts))

    def _clean(self, now: float) -> None:
        if now < self._purge_at:
            return
        self._purge_at = now + PURGE_SECONDS
        try:
            has_more = self._shelf.purge()
        except (NotWritten, OutcomeUnknown) as error:
            # A full disk takes no purge. What is uploaded makes room, so that goes on.
            _log.warning("nothing was purged", cause=str(error))
            return
        if has_more:
            self._purge_at = now + INTERVAL_SECONDS
