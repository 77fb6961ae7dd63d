"""The keeper around the book: acquires, renews, returns, obeys recalls, remembers refusals.

`step` does all the work that is due and never waits for the network; a thread loops over it, or a simulator calls it.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

import structlog

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.leases import arrival, sizing
from sidecar.leases.asking import CALL_SECONDS, Asking
from sidecar.leases.book import LeaseBook, Withdrawn
from sidecar.leases.giving_up import GivingUp
from sidecar.leases.held import FRESH_SECONDS
from sidecar.leases.obeying import Answer, Obeying
from sidecar.leases.ports import AcquirePort, Journal, OnHints, SessionPort, Uploads
from sidecar.leases.remembered import RememberedRefusals
from sidecar.leases.remote import Remote
from sidecar.leases.requests import GIVEN_UP_SECONDS, Request, Ticket, Waiter, Wanted, from_wire, wire_ref
from sidecar.leases.returning import Returning
from sidecar.leases.terms import (
    UNREACHABLE,
    Acquired,
    AcquireOutcome,
    Grade,
    Shortfall,
)
from sidecar.runtime.backoff import jittered
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Refused, Unreachable

_log = structlog.stdlib.get_logger(__name__)

MAX_WANTS: Final = 100
IDLE_STEP_SECONDS: Final = 0.1
RESTING_STEP_SECONDS: Final = 1.0
"""Where nothing is leased or asked for."""
BETWEEN_SLICES_SECONDS: Final = 0.002
RETRY_FIRST_SECONDS: Final = 0.1
RETRY_LONGEST_SECONDS: Final = 5.0

Reply = tuple[Request, session.AcquireLeasesResponse | Unreachable | Refused, float]


class Keeper:
    """One per process. `acquire`, `decide_remote`, `recall` and `hints` are called from any thread, `step` from one."""

    def __init__(
        self,
        book: LeaseBook,
        *,
        port: AcquirePort,
        journal: Journal,
        sessions: SessionPort,
        uploads: Uploads,
        clock: Clock,
        random: Random,
        make_id: Callable[[], str],
        metrics: Metrics,
    ) -> None:
        """Starts with nothing leased and nothing asked for."""
        self._book = book
        self._port = port
        self._journal = journal
        self._sessions = sessions
        self._uploads = uploads
        self._clock = clock
        self._random = random
        self._make_id = make_id
        self._metrics = metrics
        self._lock = threading.Lock()
        self._refusals = RememberedRefusals()
        self._asking = Asking(book, self._refusals, random)
        self._returning = Returning(book, journal, clock, metrics)
        self._obeying = Obeying(book, self._returning, lambda ref: ref in self._asking.in_flight)
        self._giving_up = GivingUp(port, sessions, clock, make_id)
        remote = Remote(port, sessions, clock, make_id, self._tell_hints, self._giving_up)
        self.decide_remote, self.give_up_remote = remote.decide, remote.give_up
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._holder: session.Holder | None = None
        self._wake: Callable[[], None] = lambda: None
        self._hint_listeners: list[OnHints] = []
        self._finishing = False
        self._sized_at = 0.0
        self._round: sizing.Demands = ()

    def on_work(self, wake: Callable[[], None]) -> None:
        """What to call when `step` has something to do at once."""
        self._wake = self._giving_up.wake = wake

    def on_hints(self, tell: OnHints) -> None:
        """Whom to tell how balances stand after a reply. Called from any thread, with no lock held."""
        self._hint_listeners.append(tell)

    def acquire(self, shortfalls: Sequence[Shortfall], deadline: float) -> AcquireOutcome:
        """Blocks until every shortfall was answered, or the deadline; at once for what is known: unreachable, refused.

        The book's lock must not be held. Never raises for trouble with the network or the disk: that is UNREACHABLE.
        """
        waiter = self.ask(shortfalls, deadline)
        if not waiter.is_done:
            self._wake()
            waiter.wait(deadline - self._clock.monotonic())
        return waiter.outcome

    def ask(self, shortfalls: Sequence[Shortfall], deadline: float) -> Waiter:
        """As `acquire`, but does not wait: steps will answer the waiter."""
        keys = {(s.ref, s.feature) for s in shortfalls}
        waiter = Waiter(keys)
        if self._port.is_down:
            for key in keys:
                waiter.answer(key, UNREACHABLE)
            return waiter
        now = self._clock.monotonic()
        with self._lock:
            for s in shortfalls:
                known = self._refusals.answer(s.ref, sizing.demand_key(s.ref, s.feature), s.missing, now)
                request = self._asking.in_flight.get(s.ref)
                if known is None and request is not None and request.is_in_vain:
                    known = UNREACHABLE
                if known is not None:
                    waiter.answer((s.ref, s.feature), known)
                else:
                    self._asking.wait_for(Ticket(waiter, s.ref, s.feature, s.missing, s.needed, deadline))
        return waiter

    def recall(self, recall: feed.Recall, answer: Answer) -> None:
        """Has a recall obeyed by a step: `answer` is called once the returns are durable, perhaps again later, and not
        at all when they could not be written. Does not block.
        """
        ref = from_wire(recall.ref)
        with self._lock:
            request = self._asking.in_flight.get(ref)
            if request is not None and not recall.idle_only:
                request.cut_at[ref] = max(request.cut_at.get(ref, 0), recall.revision)
            self._refusals.recalled(ref, self._clock.monotonic(), idle_only=recall.idle_only)
        self._metrics.recalls.inc()
        self._obeying.post(recall, answer)
        self._wake()

    def finish(self) -> None:
        """At a stop: asks for nothing more. Steps go on until what was asked for is answered."""
        self._finishing = True
        self._wake()

    def reconnected(self) -> None:
        """The control plane is back: what was not answered is asked again at once. Does not block."""
        with self._lock:
            for request in self._asking.requests.values():
                request.tries, request.retry_at, request.is_in_vain = 0, 0.0, False
        self._wake()

    def is_waiting(self) -> bool:
        """Is something asked for and not answered, so that leases may still arrive; or given up and not heard?"""
        return bool(self._asking.requests) or self._giving_up.is_pending

    def return_everything(self) -> int:
        """At a stop, when no step runs any more: writes all that is neither spent nor held as returns, and
        answers how many. Raises as `recall` does.
        """
        with self._book.lock:
            withdrawn = self._book.withdraw_everything()
        returns = self._returning.write(withdrawn, why="stopping")
        self._uploads.kick()
        return len(returns)

    def hints(self, hints: Sequence[session.BalanceHint]) -> None:
        """Balances changed: refusals that were remembered for an older version are forgotten. Does not block."""
        with self._lock:
            for hint in hints:
                ref = from_wire(hint.ref)
                self._refusals.hinted(ref, hint.version, is_asked=ref in self._asking.in_flight)

    def forget(self, customer_ids: Iterable[str]) -> None:
        """These customers changed: refusals that were remembered for them are forgotten. Does not block."""
        ids = set(customer_ids)
        with self._lock:
            self._refusals.forget_customers(ids)

    def step(self) -> float:
        """Does what is due; how many seconds it may rest unless it is woken."""
        now = self._clock.monotonic()
        self._follow_session()
        self._giving_up.step()
        self._take_replies()
        if self._obeying.step(now):
            self._uploads.kick()
        self._return_ended(now)
        if not self._round and now - self._sized_at >= sizing.INTERVAL_SECONDS:
            self._sized_at = now
            self._tidy(now)
            with self._book.lock:
                self._round = self._book.demands()
                self._metrics.leases_held.set(self._book.lease_count())
        demands, self._round = self._round[: sizing.SLICE], self._round[sizing.SLICE :]
        self._shrink(demands, now)
        self._repeat(now)
        self._send_new(demands, now)
        if self._round:
            return BETWEEN_SLICES_SECONDS
        if self._obeying.is_pending:
            return FRESH_SECONDS / 2
        return RESTING_STEP_SECONDS if self._is_resting else IDLE_STEP_SECONDS

    @property
    def _is_resting(self) -> bool:
        """Is nothing leased, asked for or to be told? Who changes that ends the rest."""
        return self._book.is_idle and not (self._asking.is_busy or self._giving_up.has_any)

    def _follow_session(self) -> None:
        """A new outbox or incarnation: what the old one leased is not ours to spend."""
        holder = self._sessions.holder
        before, self._holder = self._holder, holder
        if before is None or before.incarnation_id == holder.incarnation_id:
            return  # an outbox that has just met its installation is the same holder
        _log.warning("leases of an earlier incarnation are dropped", incarnation_id=before.incarnation_id)
        with self._lock, self._book.lock:
            self._book.clear()
            self._asking.clear()
        self._returning.clear()
        self._obeying.clear()

    def _take_replies(self) -> None:
        replies: list[Reply] = []
        while not self._replies.empty():
            replies.append(self._replies.get())
        for request, answer, received_at in replies:
            if self._asking.requests.get(request.message.request_id) is not request:
                continue  # an earlier incarnation's
            if isinstance(answer, Unreachable):
                self._unanswered(request, answer)
            elif isinstance(answer, Refused):
                self._turned_down(request, answer)
            else:
                self._arrived(request, answer, received_at)

    def _unanswered(self, request: Request, why: Unreachable) -> None:
        """It may have been granted: it is asked again under its id until it is known. Callers wait for that where
        the control plane is slow: it may well answer within their time.
        """
        is_slow = why.code == "DEADLINE_EXCEEDED" and not self._port.is_down
        if is_slow:
            request.tries = 0  # it takes its time by itself
        self._ask_again(request)
        if not is_slow:
            request.is_in_vain = True
            self._let_go(request)

    def _let_go(self, request: Request) -> None:
        with self._lock:
            for want in request.wanted:
                self._asking.answer(want.ref, UNREACHABLE)

    def _ask_again(self, request: Request) -> None:
        now = self._clock.monotonic()
        self._metrics.acquire_requests.labels("unanswered").inc()
        request.is_out = False
        request.tries += 1
        request.retry_at = now + jittered(
            self._random, request.tries, RETRY_FIRST_SECONDS, RETRY_LONGEST_SECONDS
        )
        if now - request.sent_at > GIVEN_UP_SECONDS:
            _log.error("request for leases was never answered", request_id=request.message.request_id)
            with self._lock:
                self._asking.done(request)

    def _turned_down(self, request: Request, refused: Refused) -> None:
        self._metrics.acquire_requests.labels(refused.code).inc()
        with self._lock:
            self._asking.done(request)
            if refused.code == "FAILED_PRECONDITION":
                self._sessions.superseded()  # callers go on waiting: they are asked for again once it is open
                return
            _log.error("request for leases was refused", code=refused.code, message=str(refused))
            for want in request.wanted:
                self._asking.answer(want.ref, Acquired(Grade.UNREACHABLE, message=str(refused)))

    def _arrived(self, request: Request, reply: session.AcquireLeasesResponse, received_at: float) -> None:
        leases = [
            session.PresentedLease(
                lease_id=lease.lease_id, ref=wire_ref(want.ref), slices=lease.slices, ends_at=lease.ends_at
            )
            for want, acquired in zip(request.wanted, reply.acquired, strict=True)
            for lease in acquired.leases
        ]
        try:
            if leases:
                self._journal.record_leases(leases)
        except (NotWritten, OutcomeUnknown) as error:
            # It is asked for again under its id: the stored reply is the same, and its time goes on from the
            # first sending.
            _log.warning("leases can not be written", cause=str(error))
            self._ask_again(request)
            self._let_go(request)
            return
        self._metrics.acquire_requests.labels("answered").inc()
        withdrawn: list[Withdrawn] = []
        now = self._clock.monotonic()
        with self._lock:
            for want, acquired in zip(request.wanted, reply.acquired, strict=True):
                with self._book.lock:
                    withdrawn += arrival.install(
                        self._book,
                        request,
                        want,
                        acquired,
                        revision=reply.revision,
                        received_at=received_at,
                        now=now,
                    )
                self._settle_want(want, acquired, now)
            self._asking.done(request)
        self._returning.try_to_write(withdrawn, why="recalled on arrival")
        self._tell_hints(reply)

    def _tell_hints(self, reply: session.AcquireLeasesResponse) -> None:
        for tell in self._hint_listeners:
            tell(arrival.hints(reply), counted_through=reply.counted_through)

    def _settle_want(self, want: Wanted, acquired: session.Acquired, now: float) -> None:
        outcome = arrival.outcome(acquired)
        self._metrics.lease_wants.labels(outcome.grade.name).inc()
        self._refusals.note(want, acquired, outcome, now)
        if not want.next_period:
            self._asking.answered(want, outcome)

    def _return_ended(self, now: float) -> None:
        with self._book.lock:
            withdrawn = self._book.expire(now, is_cut_off=self._port.is_down)
        self._returning.try_to_write(withdrawn, why="ended")

    def _shrink(self, demands: sizing.Demands, now: float) -> None:
        with self._lock, self._book.lock:
            withdrawn = sizing.shrink(self._book, demands, now, keep=self._asking.busy)
        self._returning.try_to_write(withdrawn, why="idle")

    def _tidy(self, now: float) -> None:
        with self._lock:
            self._refusals.tidy(now, self._asking.in_flight.keys())
            self._asking.tidy(now)
        self._returning.tidy(now)

    def _repeat(self, now: float) -> None:
        if self._port.is_down:
            return
        for request in list(self._asking.requests.values()):
            if not request.is_out and now >= request.retry_at:
                # Its first callers may have had little time; those who wait now have theirs.
                request.is_out, request.is_in_vain, request.timeout_seconds = True, False, CALL_SECONDS
                self._send(request)

    def _send_new(self, demands: sizing.Demands, now: float) -> None:
        opened = self._sessions.opened
        if self._port.is_down or self._finishing or self._sessions.is_fenced:
            with self._lock:
                self._asking.answer_all(UNREACHABLE)
            return
        if opened is None:
            return
        with self._lock, self._book.lock:
            wants, timeout = self._asking.wishes(demands, now)
        for start in range(0, len(wants), MAX_WANTS):
            some = wants[start : start + MAX_WANTS]
            refs = {wanted.ref for wanted, _ in some}
            holder, epoch = opened
            message = session.AcquireLeasesRequest(
                holder=holder,
                epoch=epoch,
                request_id=self._make_id(),
                wants=[want for _, want in some],
                returns=self._returning.take_crumbs(refs),
            )
            request = Request(message, [wanted for wanted, _ in some], now, timeout)
            with self._lock:
                self._asking.begin(request)
            self._send(request)

    def _send(self, request: Request) -> None:
        def answered(answer: session.AcquireLeasesResponse | Unreachable | Refused) -> None:
            self._replies.put((request, answer, self._clock.monotonic()))
            self._wake()

        self._port.acquire(request.message, request.timeout_seconds, answered)
