"""What goes wrong, and when it is mended."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sidecar.outbox.port import Durability
from tests.simulation.contents import Contents
from tests.simulation.disk import Trouble
from tests.simulation.network import Condition
from tests.simulation.node import Node
from tests.simulation.oracle import Loss
from tests.simulation.stage import Stage
from tests.simulation.story import Act


class Faults:
    """Every public method but `mend` is an act."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._kept: dict[str, tuple[str, dict[str, int]]] = {}
        """Copies of disks: whose, and what they know of incarnations."""

    async def mend(self) -> None:
        """Nothing goes wrong any more."""
        stage = self._stage
        stage.is_healed = True
        stage.weather.loss = stage.weather.repeat = 0.0
        stage.weather.longest_delay = 0.005
        if not stage.plane.alive:
            await stage.plane.start_replica()
        for node in stage.nodes:
            node.disk.trouble = Trouble.NONE
            node.disk.slow_until = 0.0
            node.disk.dies_in = None
            node.become(Condition.UP)
            node.start()

    def _later(self, seconds: float, what: Callable[..., Any], *args: Any) -> None:
        """When the trouble of an act ends; what is healed is not hurt again."""

        def mend() -> None:
            if not self._stage.is_healed:
                what(*args)

        self._stage.later(seconds, mend)

    # Processes

    def kill(self, act: Act) -> None:
        """A sidecar, and it comes back."""
        node = self._stage.nodes[act.node]
        node.kill()
        self._later(act.seconds, node.start)

    def crash_soon(self, act: Act) -> None:
        """As `kill`, in the middle of the disk's work."""
        node = self._stage.nodes[act.node]
        node.crash_soon(act.number)
        self._later(act.seconds + 1.0, node.start)
        self._later(act.seconds + 3.0, node.start)

    def stop(self, act: Act) -> None:
        """SIGTERM, and it comes back."""
        node = self._stage.nodes[act.node]
        node.stop()
        self._later(act.seconds + 4.0, node.start)

    def pause(self, act: Act) -> None:
        """It stands still, longer than its leases last perhaps."""
        self._stage.nodes[act.node].pause(act.seconds * 3)

    def set_wall(self, act: Act) -> None:
        """Somebody sets the wall clock."""
        self._stage.nodes[act.node].clock.wall_off = timedelta(minutes=act.number - 20)

    # Ways

    def refuse(self, act: Act) -> None:
        """The control plane can not be reached from there, and that is known at once."""
        self._become_for_a_while(act, Condition.REFUSING)

    def silence(self, act: Act) -> None:
        """The same, and nobody says so."""
        self._become_for_a_while(act, Condition.SILENT)

    def _become_for_a_while(self, act: Act, condition: Condition) -> None:
        node = self._stage.nodes[act.node]
        node.become(condition)
        self._later(act.seconds * 2, node.become, Condition.UP)

    # Disks

    def disk_full(self, act: Act) -> None:
        """For a while."""
        self._trouble_disk(act, Trouble.FULL)

    def disk_fails(self, act: Act) -> None:
        """For a while."""
        self._trouble_disk(act, Trouble.FAILING)

    def _trouble_disk(self, act: Act, trouble: Trouble) -> None:
        disk = self._stage.nodes[act.node].disk
        disk.trouble = trouble
        self._later(act.seconds, setattr, disk, "trouble", Trouble.NONE)

    def disk_slow(self, act: Act) -> None:
        """For a while."""
        self._stage.nodes[act.node].disk.slow_until = self._stage.now() + act.seconds

    def keep_disk(self, act: Act) -> None:
        """A snapshot of the volume."""
        node = self._stage.nodes[act.node]
        if node.running is not None:
            node.disk.keep()
            outbox = node.running.sidecar._outbox
            known = {one.incarnation_id: one.last_seq for one in outbox.incarnations()}
            self._kept[node.name] = (outbox.identity.outbox_id, known)

    async def put_back(self, act: Act) -> None:
        """The volume is rolled back to it. What was acknowledged since and not uploaded is gone; where the control
        plane has seen nothing of it nobody can know.
        """
        node = self._stage.nodes[act.node]
        node.kill()
        had = node.disk.contents()
        if node.disk.put_back():
            outbox_id, known = self._kept.pop(node.name)
            is_seen = await self._stage.plane.has_seen_more(outbox_id, known)
            self._lost_disk(node, had, is_unnoticed=not is_seen)
        self._later(act.seconds, node.start)

    def vanish(self, act: Act) -> None:
        """The volume is gone."""
        node = self._stage.nodes[act.node]
        node.kill()
        had = node.disk.contents()
        node.disk.vanish()
        self._kept.pop(node.name, None)
        self._lost_disk(node, had)
        self._later(act.seconds, node.start)

    def reboot(self, act: Act) -> None:
        """The machine goes down without a warning, and its way to the control plane goes first: what it acknowledges in
        between nobody else has seen.
        """
        node = self._stage.nodes[act.node]
        node.become(Condition.SILENT)
        self._later(act.number % 4, self._go_down, act)

    def _go_down(self, act: Act) -> None:
        """What is not synced may be lost, and only `process_crash` may acknowledge that."""
        node = self._stage.nodes[act.node]
        node.kill()
        had = node.disk.contents()
        if node.disk.lose_unsynced() and node.durability is Durability.PROCESS_CRASH:
            self._lost_disk(node, had)
        node.boots += 1
        node.become(Condition.UP)
        self._later(act.seconds, node.start)

    def rot(self, act: Act) -> None:
        """Pages of the outbox's file are garbage."""
        node = self._stage.nodes[act.node]
        node.kill()
        had = node.disk.contents()
        if node.disk.rot():
            self._lost_disk(node, had, is_doubtful=True)
        self._later(act.seconds, node.start)

    def _lost_disk(
        self, node: Node, had: Contents, *, is_unnoticed: bool = False, is_doubtful: bool = False
    ) -> None:
        """What its disk `had` and has no more may be lost, unless it is in the books. All else must be booked."""
        loss = Loss(
            node=node.name,
            at=self._stage.now(),
            is_remote=node.durability is Durability.REMOTE,
            is_unnoticed=is_unnoticed,
            is_doubtful=is_doubtful,
        )
        self._stage.oracle.lost_disk(loss, had, node.disk.contents(), self._stage.plane.booked())

    # The control plane

    def kill_replica(self, act: Act) -> None:
        """`kill -9` of a replica; another one comes."""
        alive = self._stage.plane.alive
        if not alive:
            return
        replica = alive[act.number % len(alive)]
        self._stage.plane.kill(replica)
        for node in self._stage.nodes:
            if node.running is not None:
                node.running.wire.lost(replica)
        self._later(act.seconds, self._start_replica)

    def _start_replica(self) -> None:
        async def work() -> None:
            if len(self._stage.plane.alive) < self._stage.story.replicas:
                await self._stage.plane.start_replica()
                for node in self._stage.nodes:
                    if node.running is not None:
                        node.running.wire.server_came()

        self._stage.hub.loop.create_task(work())

    def back_up(self, _act: Act) -> None:
        """A copy of the books."""
        self._stage.plane.back_up()

    async def restore(self, act: Act) -> None:
        """The control plane is put back to it."""
        stage = self._stage
        for _ in range(len(stage.plane.alive)):
            self.kill_replica(act)
        if await stage.plane.restore():
            for node in stage.nodes:
                if node.running is not None:
                    node.running.wire.forget_replies()
            stage.oracle.is_restored = True
            stage.oracle.is_promise_void = stage.story.hurts_sidecars
