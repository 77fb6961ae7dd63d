"""Sessions: opens one for this incarnation, and closes those of earlier ones when nothing is on its way any more."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Final

import structlog

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox.port import Identity, Incarnation, OutboxFailed
from sidecar.outbox.ports import SessionsPort
from sidecar.outbox.shelf import Shelf
from sidecar.runtime.backoff import Backoff
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import (
    AnotherInstallation,
    NotWritten,
    OutcomeUnknown,
    Refused,
    Superseded,
    Unreachable,
)

_log = structlog.stdlib.get_logger(__name__)

CALL_SECONDS: Final = 5.0
CLOSING_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0
MAX_PRESENTED: Final = 1_000


class Sessions:
    """One per process. `step` from one thread; all else from any, answered from memory."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        port: SessionsPort,
        label: str,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        turn: threading.Lock,
        on_opened: Callable[[datetime], None] = lambda _now: None,
    ) -> None:
        """`turn` is shared with the sender: while a session is opened nothing is uploaded, or what the
        control plane has seen
        would be ahead of what it is told. `on_opened` hears the control plane's clock.
        """
        self._shelf = shelf
        self._port = port
        self._label = label
        self._clock = clock
        self._metrics = metrics
        self._turn = turn
        self._on_opened = on_opened
        self._backoff = Backoff(random)
        self._identity: Identity | None = None
        self._epoch = 0
        self._is_stale = True
        self._is_elsewhere = False
        self._is_fenced = False
        self._retry_at = 0.0
        self._closings: dict[str, tuple[tuple[str, int], ...]] = {}
        self._sent_again: tuple[str, int] | None = None
        self._wake: Callable[[], None] = lambda: None

    def on_work(self, wake: Callable[[], None]) -> None:
        """What to call when `step` has something to do at once."""
        self._wake = wake

    @property
    def holder(self) -> session.Holder:
        """Who we are, session or not."""
        return self._shelf.identity.holder

    @property
    def opened(self) -> tuple[session.Holder, int] | None:
        """Who we are and our epoch; None: no session is open (yet)."""
        identity = self._identity
        if identity is None or identity != self._shelf.identity:
            return None
        return identity.holder, self._epoch

    @property
    def is_elsewhere(self) -> bool:
        """Was it another installation that answered at the control plane's address, when one last did?"""
        return self._is_elsewhere

    @property
    def is_fenced(self) -> bool:
        """Did the control plane say that this incarnation may open no more?"""
        return self._is_fenced

    @property
    def may_upload(self) -> bool:
        """Is a session open, or will none ever be for this incarnation? Its usage is taken either way."""
        return self.opened is not None or self._is_fenced

    def superseded(self) -> None:
        """The control plane does not take our epoch, or does not know us: open anew."""
        self._identity = None
        self._is_fenced = False
        self._is_stale = True
        self._wake()

    def reconnected(self, generation: int | None = None) -> None:
        """The way to the control plane is back, or its generation was heard: opens anew, unless that is what
        is open.
        """
        if generation is None or generation != self._shelf.generation:
            self._is_stale = True
            self._is_fenced = False
            self._backoff.worked()
            self._retry_at = 0.0
            self._wake()

    def step(self) -> float:
        """Does what is due, which may block for a call or two; how many seconds it may rest unless it is woken."""
        now = self._clock.monotonic()
        if now < self._retry_at:
            return self._retry_at - now
        try:
            if self._is_stale or self.opened is None:
                self._open()
            rest = self._close_earlier()
        except AnotherInstallation as error:
            self._met_another(error)
            return self._retry_later()
        except Superseded as error:
            self._is_fenced = True
            _log.error(
                "this process may lease no more: it was declared dead, or a later one has come; restart it",
                error=str(error),
            )
            return self._retry_later()
        except (Unreachable, Refused, NotWritten, OutcomeUnknown) as error:
            seconds = self._retry_later()
            _log.warning("session not in order", error=str(error), retry_seconds=round(seconds, 3))
            return seconds
        self._backoff.worked()
        return rest

    def _retry_later(self) -> float:
        seconds = self._backoff.failed()
        self._retry_at = self._clock.monotonic() + seconds
        return seconds

    def _met_another(self, error: AnotherInstallation) -> None:
        """Nothing is uploaded, leased or followed until the right one answers; it is asked for again and again."""
        self._identity = None
        self._is_stale = True
        self._is_elsewhere = True
        self._metrics.another_installation.set(1)
        _log.error("the control plane is another installation's: nothing is handed to it", error=str(error))

    def _open(self) -> None:
        with self._turn:
            identity = self._shelf.identity
            self._is_stale = False
            try:
                reply = self._ask(identity, [i for i in self._shelf.incarnations() if not i.ended])
                if reply.rolled_back:
                    # Something of ours may have overtaken this request on its way. A disk that was rolled
                    # back stays so.
                    reply = self._ask(identity, [i for i in self._shelf.incarnations() if not i.ended])
                was_restored = self._shelf.generation not in {0, reply.generation}
                if was_restored and not reply.rolled_back:
                    reply = self._present(identity)
                if reply.rolled_back:
                    self._set_aside()
                    return
                self._follow(reply, was_restored=was_restored)
            except BaseException:
                self._is_stale = True
                raise
            self._epoch = reply.epoch
            self._identity = self._shelf.identity
        self._is_elsewhere = False
        self._metrics.another_installation.set(0)
        self._metrics.session_epoch.set(reply.epoch)
        _log.info("session opened", epoch=reply.epoch, generation=reply.generation)
        self._on_opened(reply.now.ToDatetime(tzinfo=self._clock.now().tzinfo))

    def _ask(
        self,
        identity: Identity,
        incarnations: Sequence[Incarnation],
        presented: Sequence[session.PresentedLease] = (),
    ) -> session.OpenSessionResponse:
        request = session.OpenSessionRequest(
            holder=identity.holder,
            label=self._label,
            open_incarnations=[
                session.IncarnationState(incarnation_id=i.incarnation_id, last_seq=i.last_seq)
                for i in incarnations
            ],
            generation=self._shelf.generation,
            presented_leases=presented,
        )
        reply = self._port.open_session(request, CALL_SECONDS)
        self._meet(reply.installation_id)
        return reply

    def _meet(self, installation_id: str) -> None:
        """The first control plane that is met is the one that this outbox belongs to. Raises AnotherInstallation."""
        known = self._shelf.identity.installation_id
        if installation_id and not known:
            self._shelf.belong_to(installation_id)
        elif installation_id != known:
            raise AnotherInstallation(
                f"this outbox belongs to installation {known}, and {installation_id} answered"
            )

    def _present(self, identity: Identity) -> session.OpenSessionResponse:
        """The control plane was restored: it hears of every incarnation that has rows, and of the leases that
        we hold. Until it has, nothing is acquired or uploaded.
        """
        _log.warning("the control plane was restored from a backup", known_generation=self._shelf.generation)
        self._identity = None
        incarnations, leases = self._shelf.incarnations(), self._shelf.presented()
        reply = self._ask(identity, incarnations, leases[:MAX_PRESENTED])
        for start in range(MAX_PRESENTED, len(leases), MAX_PRESENTED):
            reply = self._ask(identity, incarnations, leases[start : start + MAX_PRESENTED])
        return reply

    def _follow(self, reply: session.OpenSessionResponse, *, was_restored: bool) -> None:
        """Takes over its cursors: rows above them wait again. What a backup may take for open is open again,
        until it has been closed once more.
        """
        cursors = {c.incarnation_id: c.last_seq for c in reply.cursors}
        incarnations = self._shelf.incarnations()
        ours = {i.incarnation_id: i.cursor for i in incarnations}
        reopened = {i.incarnation_id for i in incarnations if i.ended} if was_restored else set()
        behind: Mapping[str, int] = {
            i: min(at, ours[i]) for i, at in cursors.items() if i in ours and (at < ours[i] or i in reopened)
        }
        if was_restored:
            self._sent_again = (incarnations[-1].incarnation_id, incarnations[-1].last_seq)
            self._closings.clear()
        if behind or reply.generation != self._shelf.generation:
            self._shelf.rewind(behind, reply.generation)
        for one in incarnations:
            cursor = min(cursors.get(one.incarnation_id, 0), one.last_seq)
            if cursor > one.cursor:
                self._shelf.acknowledge(one.incarnation_id, cursor)

    def _set_aside(self) -> None:
        _log.error("the control plane has seen more of this outbox than it holds: its disk was rolled back")
        try:
            self._shelf.set_aside("the disk was rolled back")
        finally:
            self._is_stale = True
        raise OutboxFailed("the outbox was set aside; opening a session for the new one")

    def _close_earlier(self) -> float:
        """Closes what can be closed. Nothing of a file that was set aside is among them: it has another outbox id.

        Rows that are sent again may charge leases of any incarnation before theirs: none closes until they are through.
        """
        present = self._shelf.identity.incarnation_id
        earlier = [i for i in self._shelf.incarnations() if not i.ended and i.incarnation_id != present]
        self._metrics.incarnations_open.set(len(earlier))
        if self._is_sending_again() or any(i.cursor < i.last_seq for i in earlier):
            return CLOSING_SECONDS
        for incarnation in earlier:
            if incarnation.closable:
                self._close(incarnation)
        return CLOSING_SECONDS if any(i.closable for i in earlier) else IDLE_SECONDS

    def _is_sending_again(self) -> bool:
        if self._sent_again is not None:
            incarnation_id, last_seq = self._sent_again
            cursors = {i.incarnation_id: i.cursor for i in self._shelf.incarnations()}
            if cursors.get(incarnation_id, last_seq) >= last_seq:
                self._sent_again = None
        return self._sent_again is not None

    def _close(self, incarnation: Incarnation) -> None:
        keep = self._shelf.keep(incarnation.incarnation_id)
        told = tuple((k.lease_id, k.amount) for k in keep)
        if self._closings.get(incarnation.incarnation_id) == told:
            return
        holder = replace(self._shelf.identity, incarnation_id=incarnation.incarnation_id).holder
        request = session.CloseSessionRequest(holder=holder, final_seq=incarnation.last_seq, keep=keep)
        reply = self._port.close_session(request, CALL_SECONDS)
        if reply.ended:
            self._shelf.mark_ended(incarnation.incarnation_id)
            self._closings.pop(incarnation.incarnation_id, None)
            _log.info("earlier incarnation closed", incarnation_id=incarnation.incarnation_id)
        elif reply.cursor >= incarnation.last_seq:
            self._closings[incarnation.incarnation_id] = told
