"""One simulated history: what happens is drawn from a seed before it begins, and then befalls the real code."""

import asyncio
import logging
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest import mock

import grpc
import structlog
from sqlalchemy import select

from control_plane.config import Settings as PlaneSettings
from control_plane.leases import acquire
from control_plane.leases.rows import insert_leases
from control_plane.leases.tables import leases, sessions
from control_plane.ledger.audit import audit, oversold
from control_plane.usage.tables import dead_letters, events
from purser.sync.v1 import session_pb2 as session
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.leases.book import LeaseBook
from tests.simulation.disk import Disk, Trouble
from tests.simulation.network import Condition, RpcError, Weather
from tests.simulation.node import Node
from tests.simulation.oracle import Held, Oracle, Told, Use
from tests.simulation.plane import BASE, Plane
from tests.simulation.threads import Hub, VirtualLoop, as_threads

TROUBLE_SECONDS: Final = 15.0
"""How long things happen; then everything is mended."""
HEAL_SECONDS: Final = 60.0
"""By then everything must have drained."""
AUDIT_SECONDS: Final = 2.0
HOLD_SECONDS: Final = 600
"""No reservation expires meanwhile."""

PLANE: Final = PlaneSettings(
    lease_ttl="PT4S",  # type: ignore[arg-type]
    rate_ttl="PT4S",  # type: ignore[arg-type]
    grace="PT1S",  # type: ignore[arg-type]
    quarantine_timeout="PT30S",  # type: ignore[arg-type]
    max_staleness="PT10S",  # type: ignore[arg-type]
)

CATALOG: Final = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 0}
meters:
  calls: {event: call, aggregate: count}
rate_cards:
  jobs: {event: job, unit: credit, prices: [{dimension: points, per: 1, price: "1"}]}
features:
  jobs: {type: metered, event: job, rate_card: jobs, trouble: {max_staleness: PT10S}}
  calls: {type: metered, meter: calls, trouble: {on_unreachable: deny, max_staleness: PT10S}}
plans:
  prepaid: {entitlements: {jobs: {spends: credit}}}
  metered: {entitlements: {calls: {limit: 60, every: P1M}}}
"""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens at an instant. `what` names a method of `World`; a part of a history that fails can be
    left out, and the rest stays as it was.
    """

    at: float
    what: str
    node: int = 0
    number: int = 0
    amount: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Story:
    """A whole history, before it happens."""

    seed: int
    sidecars: int
    replicas: int
    weather: Weather
    grants: tuple[int, ...]
    acts: tuple[Act, ...]

    @property
    def hurts_sidecars(self) -> bool:
        """Or only the control plane?"""
        return any(act.what in _OF_SIDECARS for act in self.acts)


_OF_SIDECARS: Final = {
    "kill", "crash_soon", "stop", "pause", "refuse", "silence", "disk_full", "disk_fails", "put_back", "vanish",
}  # fmt: skip

FAULTS: Final = (
    "kill", "crash_soon", "stop", "pause", "refuse", "silence", "set_wall",
    "disk_full", "disk_fails", "disk_slow", "put_back", "vanish",
    "kill_replica", "restore",
)  # fmt: skip
_BEFORE: Final = {"put_back": "keep_disk", "restore": "back_up"}
"""What must have happened a while before."""


VERBS: Final = ("consume_job", "consume_call", "report_job", "reserve_job")
WEIGHTS: Final = (6, 3, 2, 2)


def story(seed: int, kinds: Sequence[str] = ()) -> Story:
    """What this seed says. `kinds`: of faults; none: a few, by the seed."""
    random = Random(seed)
    sidecars, replicas = random.choice([1, 2, 2, 3, 4]), random.choice([1, 1, 2])
    weather = Weather(
        longest_delay=random.choice([0.005, 0.05, 0.5, 3.0]),
        loss=random.choice([0.0, 0.0, 0.02, 0.2]),
        repeat=random.choice([0.0, 0.05, 0.3]),
    )
    acts: list[Act] = []
    pace = random.choice([1.0, 5.0, 20.0])
    at, number = 0.5, 0
    while at < TROUBLE_SECONDS:
        number += 1
        verb = random.choices(VERBS, WEIGHTS)[0]
        amount = random.choice([1, 1, 2, 5, 10, 40])
        acts.append(Act(at, verb, random.randrange(sidecars), number, amount, random.expovariate(0.3)))
        at += random.expovariate(pace)
    # Few kinds of faults at a time find more than all of them always: swarm testing, Groce et al. 2012.
    chosen = random.sample(FAULTS, random.choice([1, 2, 3, len(FAULTS)]))
    for _ in range(random.choice([0, 2, 4, 8])):
        at = random.uniform(1.0, TROUBLE_SECONDS)
        what = random.choice(kinds or chosen)
        node = random.randrange(sidecars)
        seconds = random.expovariate(0.5)
        acts.append(Act(at, what, node, random.randrange(40), 0, seconds))
        if what in _BEFORE:
            acts.append(Act(max(0.7, at - random.uniform(0.2, 6.0)), _BEFORE[what], node))
    acts.sort(key=lambda act: act.at)
    grants = tuple(random.choice([20, 100, 300]) for _ in range(random.randint(1, 3)))
    return Story(seed, sidecars, replicas, weather, grants, tuple(acts))


@dataclass(slots=True)
class Result:
    """How a history ended."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class World:
    """Everything of one history."""

    def __init__(self, told: Story, folder: Path, template: Path, *, log: bool = False) -> None:
        self.story = told
        self.loop = VirtualLoop()
        self.hub = Hub(self.loop, Random(f"{told.seed} threads"))
        self.oracle = Oracle()
        self.plane = Plane(self.hub, folder, template, PLANE)
        self.weather = Weather(told.weather.longest_delay, told.weather.loss, told.weather.repeat)
        self.is_healed = False
        self.log: list[str] = []
        self._logs = log
        self._kept: dict[str, tuple[float, str, dict[str, int]]] = {}
        """Copies of disks: when, whose, and what they know of incarnations."""
        self._audit_at = 0.0
        self.nodes = [
            Node(
                self.hub,
                Random(f"{told.seed} node {number}"),
                f"sidecar-{number}",
                Disk(self.hub, folder / f"sidecar-{number}", Random(f"{told.seed} disk {number}")),
                lambda: self.plane.alive,
                self.weather,
            )
            for number in range(told.sidecars)
        ]

    # The history

    def run(self) -> Result:
        """From the beginning to the end, when everything was mended."""
        asyncio.set_event_loop(self.loop)
        try:
            with as_threads(self.hub), self._watching_leases():
                self.loop.run_until_complete(self._run())
        finally:
            self._close()
        return Result(self.oracle.violations, dict(self.oracle.counts), self.log)

    def _close(self) -> None:
        self.hub.close([process for node in self.nodes for process in node.processes])
        for node in self.nodes:
            node.disk.pull()
        self.loop.run_until_complete(self.plane.close())
        self.loop.close()
        asyncio.set_event_loop(None)

    async def _run(self) -> None:
        for _ in range(self.story.replicas):
            await self.plane.start_replica()
        await self._found()
        for node in self.nodes:
            node.start()
        for act in self.story.acts:
            await self._until(act.at)
            self.say(f"{act}")
            await _maybe(getattr(self, act.what)(act))
        await self._until(TROUBLE_SECONDS)
        await self._heal()
        await self._check_all()

    async def _until(self, at: float) -> None:
        while self.hub.time() < at:
            await asyncio.sleep(min(at - self.hub.time(), AUDIT_SECONDS))
            await self._audit()
            if self.hub.failures:
                self.oracle.violations += self.hub.failures
                self.hub.failures = []

    async def _found(self) -> None:
        """Catalog, customers, grants."""
        await self.plane.publish(CATALOG)
        for name, plan in (("acme", "prepaid"), ("ring", "metered")):
            await self.plane.post("/customers", id=name, name=name)
            await self.plane.post("/subscriptions", id=f"sub_{name}", customer_id=name, plan=plan)
        for number, amount in enumerate(self.story.grants):
            await self.plane.post(
                "/grants", id=f"grant-{number}", customer_id="acme", unit="credit", amount=str(amount)
            )
            self.oracle.granted["acme", "wallet"] += amount
        self.oracle.granted["ring", "calls"] = 60

    def say(self, line: str) -> None:
        """For who reads how it failed."""
        if self._logs:
            self.log.append(f"{self.hub.time():9.4f} {line}")

    async def _heal(self) -> None:
        """Nothing goes wrong any more."""
        self.is_healed = True
        self.weather.loss = self.weather.repeat = 0.0
        self.weather.longest_delay = 0.005
        if not self.plane.alive:
            await self.plane.start_replica()
        for node in self.nodes:
            node.disk.trouble = Trouble.NONE
            node.disk.slow_until = 0.0
            node.disk.dies_in = None
            self._become(node, Condition.UP)
            node.start()
        ends_at = self.hub.time() + HEAL_SECONDS
        while self.hub.time() < ends_at:
            await self._until(self.hub.time() + 2.0)
            for node in self.nodes:
                node.start()
            if (
                all(node.running is not None and not node.unsent for node in self.nodes)
                and not await self._stranded()
            ):
                return

    async def _stranded(self) -> list[str]:
        """Leases that nobody can spend any more, and that nobody has been held to account for."""
        async with self.plane.alive[0].database.read() as uow:
            query = select(leases).where((leases.c.state == "quarantined") & (leases.c.unsettled > 0))
            rows = (await uow.connection.execute(query)).all()
        return [f"{row.unsettled} of {row.id} is quarantined" for row in rows]

    # Checking

    @contextmanager
    def _watching_leases(self) -> Iterator[None]:
        """Nothing is spent of a lease that has ended in true time, but under `finish_lease`."""
        install, take, ends = LeaseBook.install, LeaseBook.take, dict[str, float]()

        def installed(book: LeaseBook, ref: Any, lease: session.Lease, **times: Any) -> Any:
            ends[lease.lease_id] = (lease.ends_at.ToDatetime(UTC) - BASE).total_seconds()
            return install(book, ref, lease, **times)

        def taken(book: LeaseBook, draws: Any, now: float, finish_until: float | None = None) -> Any:
            found = take(book, draws, now, finish_until)
            if finish_until is None:
                for one in found:
                    if not one.is_rate and self.hub.time() > ends[one.lease_id]:
                        self.oracle.violations.append(
                            f"spent of lease {one.lease_id} {self.hub.time() - ends[one.lease_id]:.3f} s after its end"
                        )
            return found

        async def inserted(uow: Any, made: Any) -> None:
            await insert_leases(uow, made)
            for lease in made:
                theirs = sessions.c.incarnation_id == lease.incarnation_id
                state = (await uow.connection.execute(select(sessions.c.state).where(theirs))).scalar_one()
                if state != "open":
                    self.oracle.violations.append(f"{lease.id} was granted to an incarnation that is {state}")

        with (
            mock.patch.object(LeaseBook, "install", installed),
            mock.patch.object(LeaseBook, "take", taken),
            mock.patch.object(acquire, "insert_leases", inserted),
        ):
            yield

    async def _audit(self) -> None:
        if not self.plane.alive or self.hub.time() < self._audit_at:
            return
        self._audit_at = self.hub.time() + AUDIT_SECONDS
        async with self.plane.alive[0].database.read() as uow:
            self.oracle.violations += await audit(uow)
            if not self.plane.restores and (amount := await oversold(uow)):
                self.oracle.violations.append(f"the books are oversold by {amount}")

    async def _check_all(self) -> None:
        for node in self.nodes:
            if node.running is None:
                self.oracle.violations.append(f"{node.name} does not run")
            elif node.unsent:
                self.oracle.violations.append(f"{node.name} has {node.unsent} records that were not sent")
        if not any(held.is_open for held in self.oracle.holds.values()):
            self.oracle.violations += await self._stranded()
        async with self.plane.alive[0].database.read() as uow:
            rows = (await uow.connection.execute(select(events))).all()
            letters = (await uow.connection.execute(select(dead_letters))).all()
        self.oracle.violations += [f"a dead letter: {letter.reason} {letter.message}" for letter in letters]
        booked: dict[str, tuple[str, int]] = {}
        for row in rows:
            if row.status == "duplicate":
                continue
            if row.idempotency_key.startswith("r") and row.idempotency_key not in self.oracle.uses:
                continue  # reserved without anybody having heard of it, and ended by time
            if row.idempotency_key in booked:
                self.oracle.violations.append(f"doubled: {row.idempotency_key}")
            amount = int(row.measures.get("points", "1"))
            booked[row.idempotency_key] = (row.customer_id, amount)
        self.oracle.check_books(booked)

    # What happens: uses

    def consume_job(self, act: Act) -> None:
        """A decided use of the wallet."""
        self._use(act, Use(f"k{act.number}", "acme", "wallet", act.amount, False, self.hub.time()))

    def consume_call(self, act: Act) -> None:
        """A decided use of the allowance."""
        self._use(act, Use(f"k{act.number}", "ring", "calls", 1, False, self.hub.time()))

    def report_job(self, act: Act) -> None:
        """A fact."""
        self._use(act, Use(f"k{act.number}", "acme", "wallet", act.amount, True, self.hub.time()))

    def _use(self, act: Act, use: Use, tries: int = 0) -> None:
        use = self.oracle.ask(use)
        node = self.nodes[act.node]
        event = usage.UsageEvent(idempotency_key=use.key, customer_id=use.customer_id)
        if use.balance == "wallet":
            event.event_name = "job"
            event.measures["points"] = str(use.amount)
        else:
            event.event_name = "call"
        is_open = True
        timeout = 2.0

        def ended(told: Told, why: str = "") -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            self.say(f"{use.key} at {node.name}: {told.value} {why}")
            self.oracle.told(use, self.hub.time(), told, node.name)
            if told in {Told.UNKNOWN, Told.FAILED} and tries < 4:
                dice = Random(f"{self.story.seed} {use.key} {tries}")
                other = act.node if dice.random() < 0.6 else dice.randrange(len(self.nodes))
                again = Act(0, act.what, other, act.number, act.amount)
                self.loop.call_later(dice.expovariate(0.5), self._use, again, use, tries + 1)

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError):
                ended(*_meaning(answer))
            elif use.is_fact:
                result = api.ReportUsageResponse.FromString(answer).results[0]
                taken = result.status in {1, 2}
                ended(Told.ACCEPTED if taken else Told.REFUSED, result.message)
            else:
                consumed = api.ConsumeUsageResponse.FromString(answer)
                why = consumed.decision.message or str(consumed.decision.reason)
                ended(Told.ACCEPTED if consumed.status in {1, 2} else Told.REFUSED, why)

        self.loop.call_later(timeout + 0.5, ended, Told.UNKNOWN, "no answer in time")
        if use.is_fact:
            node.call("ReportUsage", api.ReportUsageRequest(events=[event]), timeout, heard)
        else:
            node.call("ConsumeUsage", api.ConsumeUsageRequest(event=event), timeout, heard)

    def reserve_job(self, act: Act) -> None:
        """A reservation, which is settled, released or forgotten later, at the same sidecar."""
        node = self.nodes[act.node]
        held = Held(f"r{act.number}", act.node, act.amount)
        event = usage.UsageEvent(customer_id="acme", event_name="job", measures={"points": str(act.amount)})

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError):
                self.say(f"{held.key} at {node.name}: not reserved: {answer}")
                return
            response = api.ReserveUsageResponse.FromString(answer)
            self.say(f"{held.key} at {node.name}: reserved {response.decision.allowed}")
            if response.decision.allowed:
                held.since = self.hub.time()
                self.oracle.holds[held.key] = held
                self.loop.call_later(act.seconds, self._end_hold, act, held)

        request = api.ReserveUsageRequest(reservation_id=held.key, event=event)
        request.ttl.FromSeconds(HOLD_SECONDS)
        node.call("ReserveUsage", request, 2.0, heard)

    def _end_hold(self, act: Act, held: Held, tries: int = 0) -> None:
        """Settles or releases it, again until it is known."""
        node = self.nodes[act.node]
        dice = Random(f"{self.story.seed} {held.key}")
        is_settled = dice.random() < 0.8
        spent = dice.randint(0, held.amount) if is_settled else 0
        use = self.oracle.ask(Use(held.key, "acme", "wallet", spent, False, self.hub.time()))

        def heard(answer: bytes | RpcError) -> None:
            if isinstance(answer, RpcError):
                told, why = _meaning(answer)
                if answer.code() is grpc.StatusCode.NOT_FOUND:
                    self.oracle.hold_is_unknown(held, node.name)
                    return
            else:
                told, why = (Told.ACCEPTED if is_settled else Told.REFUSED), ""
                if is_settled and not api.SettleReservationResponse.FromString(answer).reservation.state:
                    self.oracle.hold_is_unknown(held, node.name)
                    use.is_fact = True
            self.say(
                f"{held.key} at {node.name}: {'settle' if is_settled else 'release'} {spent}: {told.value} {why}"
            )
            self.oracle.told(use, self.hub.time(), told, node.name)
            held.is_open = told in {Told.UNKNOWN, Told.FAILED}
            if held.is_open and tries < 60:
                self.loop.call_later(1.0, self._end_hold, act, held, tries + 1)

        if is_settled:
            event = usage.UsageEvent(customer_id="acme", event_name="job", measures={"points": str(spent)})
            settle = api.SettleReservationRequest(reservation_id=held.key, event=event, final=True)
            node.call("SettleReservation", settle, 2.0, heard)
        else:
            node.call(
                "ReleaseReservation", api.ReleaseReservationRequest(reservation_id=held.key), 2.0, heard
            )

    # What happens: trouble

    def _later(self, seconds: float, what: Callable[..., Any], *args: Any) -> None:
        """When the trouble of an act ends; what is healed is not hurt again."""

        def mend() -> None:
            if not self.is_healed:
                what(*args)

        self.loop.call_later(seconds, mend)

    def kill(self, act: Act) -> None:
        """A sidecar, and it comes back."""
        node = self.nodes[act.node]
        node.kill()
        self._later(act.seconds, node.start)

    def crash_soon(self, act: Act) -> None:
        """As `kill`, in the middle of the disk's work."""
        node = self.nodes[act.node]
        node.crash_soon(act.number)
        self._later(act.seconds + 1.0, node.start)
        self._later(act.seconds + 3.0, node.start)

    def stop(self, act: Act) -> None:
        """SIGTERM, and it comes back."""
        node = self.nodes[act.node]
        node.stop()
        self._later(act.seconds + 4.0, node.start)

    def pause(self, act: Act) -> None:
        """It stands still, longer than its leases last perhaps."""
        self.nodes[act.node].pause(act.seconds * 3)

    def _become(self, node: Node, condition: Condition) -> None:
        if node.running is not None:
            node.running.wire.become(condition)

    def _become_for_a_while(self, act: Act, condition: Condition) -> None:
        node = self.nodes[act.node]
        self._become(node, condition)
        self._later(act.seconds * 2, self._become, node, Condition.UP)

    def refuse(self, act: Act) -> None:
        """The control plane can not be reached from there, and that is known at once."""
        self._become_for_a_while(act, Condition.REFUSING)

    def silence(self, act: Act) -> None:
        """The same, and nobody says so."""
        self._become_for_a_while(act, Condition.SILENT)

    def _trouble_disk(self, act: Act, trouble: Trouble) -> None:
        disk = self.nodes[act.node].disk
        disk.trouble = trouble
        self._later(act.seconds, setattr, disk, "trouble", Trouble.NONE)

    def disk_full(self, act: Act) -> None:
        """For a while."""
        self._trouble_disk(act, Trouble.FULL)

    def disk_fails(self, act: Act) -> None:
        """For a while."""
        self._trouble_disk(act, Trouble.FAILING)

    def disk_slow(self, act: Act) -> None:
        """For a while."""
        self.nodes[act.node].disk.slow_until = self.hub.time() + act.seconds

    def keep_disk(self, act: Act) -> None:
        """A snapshot of the volume."""
        node = self.nodes[act.node]
        if node.running is not None:
            node.disk.keep()
            outbox = node.running.sidecar._outbox
            known = {one.incarnation_id: one.last_seq for one in outbox.incarnations()}
            self._kept[node.name] = (self.hub.time(), outbox.identity.outbox_id, known)

    async def put_back(self, act: Act) -> None:
        """The volume is rolled back to it. What was acknowledged since and not uploaded is gone; where the control
        plane has seen nothing of it nobody can know.
        """
        node = self.nodes[act.node]
        node.kill()
        if node.disk.put_back():
            since, outbox_id, known = self._kept.pop(node.name)
            is_seen = await self.plane.has_seen_more(outbox_id, known)
            self.oracle.lost_disk(node.name, since, is_unnoticed=not is_seen)
        self._later(act.seconds, node.start)

    def vanish(self, act: Act) -> None:
        """The volume is gone."""
        node = self.nodes[act.node]
        node.kill()
        node.disk.vanish()
        self._kept.pop(node.name, None)
        self.oracle.lost_disk(node.name, 0.0, is_unnoticed=False)
        self._later(act.seconds, node.start)

    def set_wall(self, act: Act) -> None:
        """Somebody sets the wall clock."""
        self.nodes[act.node].clock.wall_off = timedelta(minutes=act.number - 20)

    def kill_replica(self, act: Act) -> None:
        """`kill -9` of a replica; another one comes."""
        alive = self.plane.alive
        if not alive:
            return
        replica = alive[act.number % len(alive)]
        self.plane.kill(replica)
        for node in self.nodes:
            if node.running is not None:
                node.running.wire.lost(replica)
        self._later(act.seconds, self._start_replica)

    def _start_replica(self) -> None:
        async def work() -> None:
            if len(self.plane.alive) < self.story.replicas:
                await self.plane.start_replica()
                for node in self.nodes:
                    if node.running is not None:
                        node.running.wire.server_came()

        self.loop.create_task(work())

    def back_up(self, _act: Act) -> None:
        """A copy of the books."""
        self.plane.back_up()

    async def restore(self, act: Act) -> None:
        """The control plane is put back to it."""
        for _ in range(len(self.plane.alive)):
            self.kill_replica(act)
        if await self.plane.restore():
            for node in self.nodes:
                if node.running is not None:
                    node.running.wire.forget_replies()
            self.oracle.is_promise_void = self.story.hurts_sidecars


async def _maybe(result: Any) -> None:
    if asyncio.iscoroutine(result):
        await result


def _meaning(error: RpcError) -> tuple[Told, str]:
    """What a status says about whether something was written."""
    unknown = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}
    return (Told.UNKNOWN if error.code() in unknown else Told.FAILED), str(error)


def simulate(told: Story, folder: Path, template: Path, *, log: bool = False) -> Result:
    """Runs a history in an empty folder."""
    folder.mkdir(parents=True)
    ids = Random(f"{told.seed} ids")
    with mock.patch(
        "control_plane.ledger.identity.secrets.token_hex",
        lambda size: f"{ids.getrandbits(8 * size):0{2 * size}x}",
    ):
        world = World(told, folder, template, log=log)
        _quieten(world if log else None)
        return world.run()


def _quieten(world: World | None) -> None:
    """Logs go into the history's own log, or nowhere."""

    def sink(_logger: Any, name: str, fields: MutableMapping[str, Any]) -> Any:
        if world is not None:
            what = " ".join(f"{key}={value}" for key, value in fields.items() if key != "event")
            world.say(f"    [{name}] {fields.get('event')} {what}"[:400])
        raise structlog.DropEvent

    structlog.configure(
        processors=[sink], logger_factory=structlog.stdlib.LoggerFactory(), cache_logger_on_first_use=False
    )
    logging.disable(logging.CRITICAL)
