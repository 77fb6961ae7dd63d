"""The composer: the only place that knows all rooms. What a call passes through can be read off here.

a check     rpc.fast (bytes known already) → rpc.service → deciding.check → view → engine
a consume   rpc.fast_consume (content prepared already) → leases.book (one lock) → outbox (one commit)
            rpc.service → deciding.consume → view → engine → leases.book (one lock) → outbox (one commit)
                                                   short of balance: leases.keeper → upstream
a report    rpc.service → deciding.report → outbox (one commit)
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Final

import grpc
import structlog
from prometheus_client import CollectorRegistry

from purser.sync.v1 import session_pb2 as session
from sidecar.config import Settings
from sidecar.deciding.answers import Answers
from sidecar.deciding.check import Check
from sidecar.deciding.consume import Consume
from sidecar.deciding.entitlements import Listing
from sidecar.deciding.grounds import Grounds
from sidecar.deciding.judging import Judge
from sidecar.deciding.kept import Kept
from sidecar.deciding.left_over import left_over
from sidecar.deciding.party import Parties
from sidecar.deciding.prepared import Preparing
from sidecar.deciding.refusals import Refusals
from sidecar.deciding.report import Report
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.reserving.ending import Ending
from sidecar.deciding.reserving.expiry import Expiry
from sidecar.deciding.reserving.extend import Extend, Release
from sidecar.deciding.reserving.facts import Facts
from sidecar.deciding.reserving.reserve import Reserve
from sidecar.deciding.reserving.settle import Settle
from sidecar.deciding.settling import Settling
from sidecar.deciding.spending import Till
from sidecar.deciding.standings import Standings
from sidecar.deciding.trouble import Strangers
from sidecar.deciding.uniques import Uniques
from sidecar.deciding.unreported import Unreported
from sidecar.deciding.waivers import Waivers
from sidecar.edge import Edge, Inside, NetworkEdge
from sidecar.leases.book import LeaseBook
from sidecar.leases.keeper import Keeper
from sidecar.outbox.file import Connect, connect
from sidecar.outbox.port import Identity
from sidecar.outbox.sender import Sender
from sidecar.outbox.sessions import Sessions
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.rpc import encoding
from sidecar.rpc.pools import blocking
from sidecar.rpc.service import Verbs
from sidecar.runtime.backoff import Backoff
from sidecar.runtime.boot import boot_id
from sidecar.runtime.clock import Clock, SystemClock
from sidecar.runtime.lifecycle import Loop
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown
from sidecar.upstream.channel import Security, open_channel
from sidecar.upstream.client import ControlPlane
from sidecar.upstream.link import Link
from sidecar.view.cold import Cold
from sidecar.view.following import Following
from sidecar.view.hints import Hint
from sidecar.view.memory import View
from sidecar.view.persisting import Persisting
from sidecar.view.pulse import Pulse
from sidecar.view.redis import RedisTier
from sidecar.view.redis import connect as connect_redis
from sidecar.view.snapshot import SnapshotFile

EXPIRY_SECONDS: Final = 0.1
RESTING_SECONDS: Final = 1.0
"""The same, where nothing is reserved."""
REFUSALS_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 1.0
DRAIN_LOOK_SECONDS: Final = 0.02

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sidecar touches beside the clock: chance, the way to the control plane, the disk, and callers."""

    random: Random
    """For jitter, and for ids that nobody else may ever have."""
    boot_id: str
    open_channel: Callable[[], grpc.Channel]
    connect: Connect
    edge: Callable[[Settings, Inside], Edge]


def machine(settings: Settings) -> Surroundings:
    """The machine that this process runs on."""
    security = Security(
        ca_file=settings.upstream_ca_file,
        certificate_file=settings.upstream_cert_file,
        key_file=settings.upstream_key_file,
        token_file=settings.upstream_token_file,
        is_tls=settings.upstream_tls or settings.upstream_ca_file is not None,
    )
    return Surroundings(
        random=Random(secrets.randbits(128)),  # noqa: S311 jitter and ids, not secrets
        boot_id=boot_id(),
        open_channel=lambda: open_channel(settings.control_plane, security),
        connect=connect,
        edge=NetworkEdge,
    )


class Sidecar:
    """One sidecar. `start` returns when it serves; `stop` drains. Usable inside tests: it touches nothing global."""

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, surroundings: Surroundings | None = None
    ) -> None:
        """Opens the outbox and binds the ports; starts nothing. Raises OutboxLocked, OutboxUnusable, OSError."""
        self._settings = settings
        self._clock = clock = clock or SystemClock()
        around = surroundings or machine(settings)
        self._random = around.random
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry)
        self._is_draining = False
        self._stopped = threading.Event()
        settings.data.mkdir(parents=True, exist_ok=True)
        self._outbox = SqliteOutbox(
            settings.data / "outbox.sqlite3",
            durability=settings.durability,
            clock=clock,
            make_id=self._new_name,
            boot_id=around.boot_id,
            metrics=self._metrics,
            connect=around.connect,
            blocking=blocking,
        )
        self._wire_hold(around.open_channel())
        self._wire_view()
        self._wire_verbs()
        self._edge = around.edge(
            settings,
            Inside(
                verbs=self._verbs,
                kept=self._kept,
                preparing=Preparing(self._verbs.consume, self._view, clock),
                view=self._view,
                clock=clock,
                random=self._random,
                registry=self._registry,
                why_not_ready=self.why_not_ready,
            ),
        )
        health = Loop("purser-health", self._look_after_health)

        def changed() -> None:
            health.kick()
            self._meeting.kick()  # a file that was set aside has made room for one that has no session yet

        self._outbox.on_health(changed)
        self._loops.append(health)

    # Wiring, from the bottom up

    def _wire_hold(self, channel: grpc.Channel) -> None:
        """What may be spent, what was used, and the way to the control plane."""
        settings, clock, metrics = self._settings, self._clock, self._metrics
        self._pulse = Pulse()
        self._link = Link(clock, metrics)
        self._control_plane = ControlPlane(channel, link=self._link, clock=clock, metrics=metrics)
        turn = threading.Lock()
        self._sessions = Sessions(
            self._outbox,
            port=self._control_plane,
            label=settings.name,
            clock=clock,
            random=self._random,
            metrics=metrics,
            turn=turn,
            on_opened=lambda control_now: self._pulse.heard_clock(control_now, clock.monotonic()),
        )
        self._unreported = Unreported()
        self._left_over: tuple[tuple[Identity, int], ...] = ()
        self._sender = Sender(
            self._outbox,
            port=self._control_plane,
            sessions=self._sessions,
            clock=clock,
            random=self._random,
            metrics=metrics,
            turn=turn,
        )
        self._book = LeaseBook()
        self._keeper = Keeper(
            self._book,
            port=self._control_plane,
            journal=self._outbox,
            sessions=self._sessions,
            uploads=self._sender,
            clock=clock,
            random=self._random,
            make_id=self._new_name,
            metrics=metrics,
        )
        self._keeping = keeping = Loop("purser-keeper", self._keeper.step)
        sending = Loop("purser-sender", self._sender.step)
        self._meeting = meeting = Loop("purser-sessions", self._sessions.step)
        self._keeper.on_work(keeping.kick)
        self._sender.on_work(sending.kick)
        self._sessions.on_work(meeting.kick)
        self._outbox.on_waiting(self._sender.kick)
        self._outbox.on_written(self._sender.written)
        self._link.on_back(self._sessions.reconnected)
        self._link.on_back(self._sender.reconnected)
        self._link.on_back(self._keeper.reconnected)
        self._loops = [meeting, keeping, sending]

    def _wire_view(self) -> None:
        """What decisions rest on."""
        settings, clock = self._settings, self._clock
        self._view = View(
            bound=settings.customers_max,
            in_use_max=settings.customers_in_use_max,
            pulse=self._pulse,
            now=self._control_now,
            pinned=self._is_pinned,
        )
        tier = None
        if settings.redis:
            client = connect_redis(settings.redis)
            tier = RedisTier(client, prefix=settings.redis_prefix, monotonic=clock.monotonic)
        self._following = Following(
            view=self._view,
            feed_port=self._control_plane,
            recalls=self._keeper,
            holder=self._holder,
            label=settings.name,
            monotonic=clock.monotonic,
            delays=self._delays,
            wanted=self._wanted,
        )
        self._cold = Cold(
            view=self._view,
            subscriber=self._following,
            second_tier=tier,
            monotonic=clock.monotonic,
            blocking=blocking,
        )
        self._persisting = Persisting(
            view=self._view,
            file=SnapshotFile(settings.data / "view.snapshot"),
            second_tier=tier,
            wall_now=clock.now,
            monotonic=clock.monotonic,
        )
        self._view.on_customers_changed(self._keeper.forget)
        self._view.on_balances_changed(self._balances_changed)
        self._view.on_counted(self._counted)
        self._view.on_generation(self._sessions.reconnected)
        self._view.on_generation(self._give_up_upload)
        self._keeper.on_hints(self._view.apply_hints)

    def _give_up_upload(self, generation: int) -> None:
        if generation != self._outbox.generation:
            self._control_plane.give_up_upload()

    def _wire_verbs(self) -> None:
        """Deciding."""
        clock = self._clock
        uniques = Uniques()
        parties = Parties(self._view, self._cold, clock, self._control_now, blocking)
        self._standings = Standings(self._view, self._book, self._unreported)
        till = Till(
            view=self._view,
            standings=self._standings,
            book=self._book,
            keeper=self._keeper,
            clock=clock,
            waivers=Waivers(lambda: self._pulse.returns),
            uniques=uniques,
            now=self._control_now,
            blocking=blocking,
        )
        judge = Judge(self._view, till, Strangers(self._view), uniques, clock)
        answers = Answers(self._view, self._standings, clock, self._new_id, encoding.decision_bytes)
        self._refusals = Refusals(self._control_now)
        settling = Settling(judge, till)
        desk = self._desk = Desk(outbox=self._outbox, book=self._book, parties=parties)
        commits = Commits(self._outbox, self._book, till, desk, self._unreported)
        ending = Ending(desk, settling, commits, self._control_now)
        self._expiry = Expiry(desk, ending, self._control_now)
        self._listing = Listing(parties=parties, standings=self._standings, view=self._view, clock=clock)
        self._verbs = Verbs(
            check=Check(parties, judge, answers),
            consume=Consume(
                parties=parties,
                judge=judge,
                till=till,
                answers=answers,
                outbox=self._outbox,
                refusals=self._refusals,
                unreported=self._unreported,
            ),
            report=Report(
                view=self._view,
                parties=parties,
                outbox=self._outbox,
                clock=clock,
                unreported=self._unreported,
                late_window=self._settings.late_window,
            ),
            reserve=Reserve(parties, judge, answers, desk, commits, self._outbox, self._refusals),
            settle=Settle(desk, settling, commits, ending, Facts(parties, self._outbox, clock)),
            extend=Extend(parties, judge, till, answers, desk, commits),
            release=Release(desk, ending),
            listing=self._listing,
            clock=clock,
        )
        self._kept = Kept(
            check=self._verbs.check,
            grounds=Grounds(self._view, self._book, self._unreported),
            clock=clock,
        )
        expiring = Loop("purser-expiry", self._expire)
        desk.on_busy(expiring.kick)
        self._loops += [
            expiring,
            Loop("purser-refusals", self._report_refusals),
        ]

    # Life

    @property
    def grpc_address(self) -> str:
        """Where apps are served; with the port that was found for 0."""
        return self._edge.grpc_address

    @property
    def http_address(self) -> str:
        """Where health and metrics are served."""
        return self._edge.http_address

    def start(self) -> None:
        """Starts from what is on disk, and serves."""
        self._persisting.load()
        self._inherit()
        holds = self._desk.restore()
        self._persisting.start()
        for loop in self._loops:
            loop.start()
        self._following.start()
        self._edge.start(is_serving=self._outbox.is_healthy)
        _log.info(
            "serving",
            grpc=self.grpc_address,
            http=self.http_address,
            durability=str(self._settings.durability),
            open_reservations=holds,
        )

    def stop(self, *, drain: bool = True) -> None:
        """Health first, then calls in flight, then what is to be uploaded and returned, then the snapshot.
        Twice is once.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._is_draining = True
        self._edge.drain()
        self._listing.close()
        if drain:
            self._wait(lambda: self._edge.is_idle)
            self._refusals.flush(self._outbox)
            self._return_leases()
            self._sender.kick()
            self._wait(self._is_uploaded)
        self._edge.stop(0.2)
        self._following.stop(1.0)
        for loop in self._loops:
            loop.stop(1.0)
        self._persisting.stop(5.0)
        self._control_plane.close()
        unsent = self._unsent()
        self._outbox.close()
        self._edge.close()
        if unsent:
            _log.warning(
                "stopped; what is not uploaded goes on with the next start on this folder", unsent=unsent
            )
        else:
            _log.info("stopped", unsent=0)

    def why_not_ready(self) -> str:
        """Empty: ready."""
        if self._is_draining:
            return "draining"
        if not self._outbox.is_healthy:
            return "the disk does not take writes"
        if self._sessions.is_elsewhere:
            return (
                "the control plane's address is answered by another installation than this outbox belongs to"
            )
        if not self._view.revision and not self._pulse.is_connected and self._view.current_catalog is None:
            return "no view yet: the control plane has not been heard, and there is no snapshot"
        return ""

    # Inside

    def _control_now(self) -> datetime:
        return self._pulse.control_now(self._clock)

    def _new_id(self) -> str:
        return f"d{self._random.getrandbits(80):020x}"

    def _new_name(self) -> str:
        """Of an outbox, an incarnation, a request: nobody else ever has it."""
        return f"{self._random.getrandbits(128):032x}"

    def _holder(self) -> session.Holder:
        return self._outbox.identity.holder

    def _delays(self) -> Iterator[float]:
        backoff = Backoff(self._random, first_seconds=0.1, longest_seconds=5.0)
        while True:
            yield backoff.failed()

    def _is_pinned(self, customer_id: str) -> bool:
        return self._desk.is_pinned(customer_id) or self._listing.is_watched(customer_id)

    def _wanted(self) -> list[str]:
        return self._desk.customers()

    def _balances_changed(self, hints: tuple[Hint, ...]) -> None:
        self._keeper.hints([hint.as_message() for hint in hints])

    def _counted(self, hints: Iterable[Hint], all_through: int, earlier: bool) -> None:
        self._unreported.counted({hint.ref: hint.counted_through for hint in hints}, all_through)
        if (
            earlier
            and self._left_over
            and all(self._outbox.wait_acknowledged(who, last_seq, 0) for who, last_seq in self._left_over)
        ):
            self._left_over = ()
            self._unreported.inherited_counted()

    def _inherit(self) -> None:
        try:
            unsent = [item for item in self._outbox.incarnations()[:-1] if item.cursor < item.last_seq]
            self._unreported.inherit(left_over(self._outbox, unsent, self._view, self._control_now()))
        except Exception:  # noqa: BLE001
            # It is shown, and never decided by: whatever is wrong with it must not keep a sidecar from starting.
            _log.exception("what earlier processes left is not shown")
            return
        mine = self._outbox.identity
        self._left_over = tuple(
            (replace(mine, incarnation_id=item.incarnation_id), item.last_seq) for item in unsent
        )

    def _expire(self) -> float:
        self._expiry()
        return EXPIRY_SECONDS if self._desk.is_busy else RESTING_SECONDS

    def _report_refusals(self) -> float:
        self._refusals.flush(self._outbox)
        return REFUSALS_SECONDS

    def _look_after_health(self) -> float:
        is_well = self._outbox.is_healthy and not self._sessions.is_elsewhere
        self._edge.set_serving(is_well and not self._is_draining)
        if self._is_draining:  # since it was looked at, perhaps
            self._edge.set_serving(False)
        return HEALTH_SECONDS

    def _return_leases(self) -> None:
        """Everything that is neither spent nor held goes back at once instead of waiting for its lease's end;
        what is on its way here first arrives.
        """
        self._keeper.finish()
        self._wait(lambda: not self._keeper.is_waiting() or self._link.is_down)
        self._keeping.stop(1.0)
        try:
            self._keeper.return_everything()
        except (NotWritten, OutcomeUnknown) as error:
            _log.warning("leases could not be returned; they end by themselves", cause=str(error))

    def _is_uploaded(self) -> bool:
        """Or there is nobody to upload to."""
        return self._link.is_down or not self._unsent()

    def _unsent(self) -> int:
        """Records of the outbox that the books do not have."""
        return sum(max(0, item.last_seq - item.cursor) for item in self._outbox.incarnations())

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = self._clock.monotonic() + self._settings.drain_seconds
        while not done() and self._clock.monotonic() < deadline:
            time.sleep(DRAIN_LOOK_SECONDS)
