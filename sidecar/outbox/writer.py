"""The one writer and its groups: callers hand in what to write and wait; what is there is written in one transaction.

It fails in the open: a store that does not take writes turns new ones away at once, and is tried again until it does.
Whatever goes wrong, foreseen or not, everybody who waits is told, and the next group comes.
"""

import contextlib
import queue
import sqlite3
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

import structlog

from sidecar.outbox.file import Job, OutboxFile
from sidecar.outbox.keeping import is_damage
from sidecar.outbox.port import OutboxFailed, OutboxFull, Write, WriteResult
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Resolution

_log = structlog.stdlib.get_logger(__name__)

Answer = TypeVar("Answer")

MAX_JOBS: Final = 512
MAX_WRITES: Final = 2_000
PROBE_SECONDS: Final = 0.5
ROOM_CHECK_SECONDS: Final = 0.05
PROBE_BYTES: Final = 65_536


class Pending(Generic[Answer]):
    """One caller's work on its way to the disk. A bare lock is the cheapest thing a thread can wait for."""

    __slots__ = ("answer", "done", "drains", "error", "is_over", "job", "writes")

    def __init__(self, writes: Sequence[Write] = (), job: Job | None = None, *, drains: bool = False) -> None:
        """Writes, or a job; `drains`: it makes room and is tried even when the store takes nothing new."""
        self.writes = writes
        self.job = job
        self.drains = drains
        self.answer: object = None
        self.error: Exception | None = None
        self.is_over = False
        self.done: LockType = allocate_lock()
        self.done.acquire()

    def wait(self) -> Answer:
        """Blocks until it was dealt with. Raises what it was turned away with."""
        self.done.acquire()
        self.done.release()
        if self.error is not None:
            raise self.error
        return cast("Answer", self.answer)

    def fail(self, error: Exception) -> None:
        """Turned away."""
        self.error = error
        self.is_over = True
        self.done.release()

    def finish(self, answer: object) -> None:
        """Durable."""
        self.answer = answer
        self.is_over = True
        self.done.release()


class GroupWriter:
    """Turns what waits into transactions. `step` is all there is to it; `start` gives it a thread of its own."""

    def __init__(
        self,
        file: OutboxFile,
        *,
        metrics: Metrics,
        min_free_bytes: int,
        replace: Callable[[OutboxFile, str], OutboxFile],
    ) -> None:
        """`replace` sets a damaged file aside and answers with the one to go on in."""
        self.file = file
        self._metrics = metrics
        self._min_free_bytes = min_free_bytes
        self._replace = replace
        self._queue: queue.SimpleQueue[Pending[object] | None] = queue.SimpleQueue()
        self._refusal: NotWritten | None = None
        self._unresolved: list[tuple[int, Resolution]] = []
        self._must_reopen = False
        self._damage: str | None = None
        self._room_checked_at = -1.0
        self._tried_at = 0.0
        self._runner: threading.Thread | None = None
        self._stopped = False
        self._on_written: Callable[[], None] = lambda: None
        self._on_health: Callable[[], None] = lambda: None

    def on_health(self, call: Callable[[], None]) -> None:
        """What to call when `is_healthy` has changed. Must not block."""
        self._on_health = call

    def on_written(self, call: Callable[[], None]) -> None:
        """What to call after each group that was written. Must not block."""
        self._on_written = call

    @property
    def is_healthy(self) -> bool:
        """Does it take writes?"""
        return self._refusal is None and not self._stopped

    def start(self) -> None:
        """Runs `step` in a thread until `stop`."""
        self._runner = threading.Thread(target=self._run, name="outbox-writer", daemon=True)
        self._runner.start()

    def stop(self) -> None:
        """Writes what waits, then ends the thread. Later work is turned away."""
        self._stopped = True
        self._queue.put(None)
        if self._runner is not None:
            self._runner.join()
        while not self._queue.empty():
            late = self._queue.get()
            if late is not None:
                late.fail(OutboxFailed("the outbox is closed"))

    @property
    def is_sound(self) -> bool:
        """Is there nothing wrong with the file, as far as is known?"""
        return self._refusal is None and not self._unresolved

    def replace_file(self, cause: str) -> None:
        """Sets the file aside between two groups; blocks until the new one is in use. Raises OutboxFailed
        when that failed.
        """
        request = Pending[object]((), lambda _file: self._mark_damaged(cause), drains=True)
        self.submit(request).wait()
        after = Pending[object]((), lambda _file: None, drains=True)
        self.submit(after).wait()

    def _mark_damaged(self, cause: str) -> None:
        self._damage = cause

    def found_damage(self, file: OutboxFile, cause: str) -> None:
        """Somebody could not read it: it is set aside before the next group, unless it was. Waits for nothing."""

        def mark(current: OutboxFile) -> None:
            if current is file:
                self._mark_damaged(cause)

        with contextlib.suppress(OutboxFailed):  # it is closed, and looked over at the next start
            self.submit(Pending[object]((), mark, drains=True))

    def submit(self, pending: Pending[Answer]) -> Pending[Answer]:
        """Hands work in. Raises what new work is turned away with while the store takes none."""
        refusal = OutboxFailed("the outbox is closed") if self._stopped else self._refusal
        if refusal is not None and not (pending.drains and not self._stopped):
            raise _again(refusal)
        self._queue.put(cast("Pending[object]", pending))
        if self._runner is None:
            self.step(timeout_seconds=0)
        return pending

    def _run(self) -> None:
        while self.step(timeout_seconds=PROBE_SECONDS if self._is_hurt else None):
            pass

    @property
    def _is_hurt(self) -> bool:
        return self._refusal is not None or self._must_reopen or self._damage is not None

    def step(self, *, timeout_seconds: float | None) -> bool:
        """Waits for work at most that long (None: till it comes), then deals with all that is there. False: stopped."""
        group, is_last = self._gather(timeout_seconds)
        try:
            self._deal_with(group)
        except Exception as error:  # noqa: BLE001
            # Without this thread every caller would wait for ever. What was committed has been answered before.
            _log.exception("the outbox's writer met what it did not foresee")
            for pending in group:
                if not pending.is_over:
                    pending.fail(OutboxFailed(f"the outbox failed before it wrote: {error!r}"))
        return not is_last

    def _deal_with(self, group: list[Pending[object]]) -> None:
        is_tried = self._refusal is not None and (not group or self._is_time)
        if self._must_reopen or self._damage is not None or is_tried:
            self._mend()
        elif group:
            self._check_room()
        refusal = self._refusal
        if refusal is not None:
            group = self._sort_out(group, refusal)
        if group:
            self._apply(group)

    @property
    def _is_time(self) -> bool:
        """To try again? Work that is taken all the while is no sign of how the store is, and does not put it off."""
        return self.file.clock.monotonic() - self._tried_at >= PROBE_SECONDS

    def _sort_out(self, group: list[Pending[object]], refusal: NotWritten) -> list[Pending[object]]:
        """While nothing new is taken: what drains may still be tried, the rest is turned away."""
        drains = [] if self._must_reopen else [p for p in group if p.drains]
        for pending in group:
            if self._must_reopen or not pending.drains:
                pending.fail(_again(refusal))
        return drains

    def _gather(self, timeout_seconds: float | None) -> tuple[list[Pending[object]], bool]:
        group: list[Pending[object]] = []
        writes = 0
        try:
            first = (
                self._queue.get_nowait() if timeout_seconds == 0 else self._queue.get(timeout=timeout_seconds)
            )
            while True:
                if first is None:
                    return group, True
                group.append(first)
                writes += len(first.writes)
                if len(group) >= MAX_JOBS or writes >= MAX_WRITES:
                    return group, False
                first = self._queue.get_nowait()
        except queue.Empty:
            return group, False

    def _apply(self, group: list[Pending[object]]) -> None:
        file = self.file
        try:
            answered = list(zip(group, self._run_group(group), strict=True))
            file.finish_group()
        except sqlite3.Error as error:
            self._not_written(group, error)
            return
        except Exception as unforeseen:  # noqa: BLE001 whatever it was, nothing of the group is written
            self._unforeseen(group, unforeseen)
            return
        try:
            file.commit()
        except Exception as unknown:  # noqa: BLE001 whatever it was, it may have happened
            self._unknown(group, unknown)
            return
        self._on_written()  # first: who is answered may kick the sender, and that has the last word
        for pending, answer in answered:
            pending.finish(answer)
        self._metrics.outbox_group_writes.observe(sum(len(p.writes) for p in group))

    def _run_group(self, group: list[Pending[object]]) -> list[object]:
        file = self.file
        plain = [w for p in group for w in p.writes]
        file.begin()
        results: list[WriteResult] | None = None
        if all(w.reservation is None for w in plain):
            results = file.write_all(plain)
            if results is None:
                file.roll_back()
                file.begin()
        if results is None:
            results = [file.write(w) for w in plain]
        answers: list[object] = []
        taken = 0
        for pending in group:
            if pending.job is not None:
                answers.append(pending.job(file))
            else:
                answers.append(results[taken : taken + len(pending.writes)])
                taken += len(pending.writes)
        return answers

    def _unforeseen(self, group: list[Pending[object]], error: Exception) -> None:
        """An error before COMMIT that is none of the store's: what is at fault fails alone, the rest is written."""
        self._roll_back()
        if self._must_reopen or len(group) == 1:
            _log.error("a write failed", exc_info=error)
            for pending in group:
                pending.fail(OutboxFailed(f"nothing was written: {error!r}"))
            return
        for pending in group:
            self._apply([pending])

    def _roll_back(self) -> None:
        try:
            self.file.roll_back()
        except Exception:  # noqa: BLE001 a transaction that can not be ended ends with its connection
            self._must_reopen = True

    def _not_written(self, group: list[Pending[object]], error: sqlite3.Error) -> None:
        """An error before COMMIT: nothing happened, which the callers may know."""
        self._roll_back()
        self._turn_away(error)
        refusal = self._refusal
        assert refusal is not None
        for pending in group:
            pending.fail(_again(refusal))

    def _unknown(self, group: list[Pending[object]], error: Exception) -> None:
        """An error at COMMIT: it may be in the file or not. Says so, and finds out by opening the file anew."""
        resolution = Resolution()
        self._unresolved.append((self.file.group, resolution))
        self._must_reopen = True
        self._metrics.outbox_unknown_outcomes.inc()
        self._turn_away(error)
        for pending in group:
            pending.fail(OutcomeUnknown(str(error) or repr(error), resolution))
        self._mend()

    def _note_damage(self, error: Exception) -> None:
        if self._damage is None and isinstance(error, sqlite3.Error) and is_damage(error):
            self._damage = str(error)

    def _turn_away(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        self._note_damage(error)
        kind = OutboxFull if code == sqlite3.SQLITE_FULL else OutboxFailed
        self._refuse(kind(f"the outbox can not be written: {str(error) or repr(error)}"))

    def _refuse(self, refusal: NotWritten) -> None:
        if self._refusal is None:
            _log.error("outbox takes no writes", cause=refusal.cause)
            self._tried_at = self.file.clock.monotonic()
        self._refusal = refusal
        self._metrics.outbox_healthy.set(0)
        self._on_health()

    def _check_room(self) -> None:
        now = self.file.clock.monotonic()
        if now - self._room_checked_at < ROOM_CHECK_SECONDS:
            return
        self._room_checked_at = now
        try:
            free = self.file.free_bytes()
        except OSError as error:
            self._refuse(OutboxFailed(f"the outbox's folder can not be looked at: {error}"))
            return
        if free < self._min_free_bytes:
            self._refuse(OutboxFull(f"only {free} bytes are free on the outbox's disk"))

    def _mend(self) -> None:
        """Tries to get the store back; leaves everything as it is if that fails, to be tried again."""
        self._tried_at = self.file.clock.monotonic()
        try:
            written = self.file.group
            if self._damage is not None:
                self.file = self._replace(self.file, self._damage)
                self._damage, written = None, -1
            elif self._must_reopen:
                written = self.file.reopen()
            # The probe comes first: it overwrites what a failed commit may have left behind the end of the log.
            self._probe()
        except Exception as error:  # noqa: BLE001 whatever it was, it is tried again
            self._note_damage(error)
            self._refuse(self._refusal or OutboxFailed(f"the outbox can not be opened anew: {error!r}"))
            _log.warning("outbox is still failing", error=repr(error))
            return
        self._must_reopen = False
        unresolved, self._unresolved = self._unresolved, []
        for group, resolution in unresolved:
            try:
                resolution.resolve(group <= written)
            except Exception:  # noqa: BLE001 the others must hear of theirs all the same
                _log.exception("a write's outcome is known, and who waited for it failed")
        if self._refusal is not None:
            _log.info("outbox takes writes again")
        self._refusal = None
        self._metrics.outbox_healthy.set(1)
        self._on_health()
        self._on_written()

    def _probe(self) -> None:
        if self.file.free_bytes() < self._min_free_bytes:
            raise OSError("not enough room")
        connection = self.file.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR REPLACE INTO probe VALUES (1, zeroblob(?))", (PROBE_BYTES,))
            connection.execute("COMMIT")
            connection.execute("DELETE FROM probe")
        except Exception:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _again(refusal: NotWritten) -> NotWritten:
    """A fresh exception for each caller: one that is raised in several threads gathers their tracebacks."""
    return type(refusal)(refusal.cause, retry_after_seconds=refusal.retry_after_seconds)
