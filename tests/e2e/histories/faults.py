"""What happens to an installation: each fault hurts something, and says how that is mended.

A fault that finds nothing to hurt (a process that is dead already, a machine without the weakness) does nothing.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

import psycopg

from sidecar.outbox.port import Durability
from tests.e2e.fleet import ServerProcess, eventually
from tests.e2e.histories.disk import read_disk
from tests.e2e.histories.history import History
from tests.e2e.histories.installation import Installation, Machine, Weakness
from tests.e2e.histories.proxy import Proxy, Way
from tests.servers.process import ServerFailed


@dataclass(slots=True)
class Scene:
    """Where it happens. `said` has what went wrong with a fault itself: a stop that did not end well."""

    installation: Installation
    history: History
    random: Random
    said: list[str] = field(default_factory=list)
    ending: list[threading.Thread] = field(default_factory=list)
    """They wait for processes that were asked to end, which can take long, and start them again."""


Mend = Callable[[], None]
Fault = Callable[[Scene], "tuple[str, Mend] | None"]
"""Hurts something: what it was, and how that is mended. None: there was nothing to hurt."""


def _nothing() -> None:
    """It is over already."""


def _one_running(scene: Scene) -> Machine | None:
    running = [one for one in scene.installation.machines if one.sidecar.is_running]
    return scene.random.choice(running) if running else None


def _launch(server: ServerProcess) -> Mend:
    def mend() -> None:
        if server.pid is None:  # who was launched since, and ended by itself, is somebody else's to see
            server.launch()

    return mend


def _ended(server: ServerProcess, scene: Scene) -> Mend:
    """Asks it to end; in the end it did so in order, and is started again."""
    status = server.let_end()

    def work() -> None:
        if (how := status()) != 0:
            scene.said.append(f"{server.name} was asked to stop and ended with status {how}")
        server.launch()

    def mend() -> None:
        # Only this, and not every mend: the kernel ends PostgreSQL with the thread that has started it.
        scene.ending.append(threading.Thread(target=work, name=f"end of {server.name}"))
        scene.ending[-1].start()

    return mend


# Processes


def kill_sidecar(scene: Scene) -> tuple[str, Mend] | None:
    """`kill -9`, and it comes back on its disk."""
    machine = _one_running(scene)
    if machine is None:
        return None
    machine.sidecar.kill()
    return machine.name, _launch(machine.sidecar)


def stop_sidecar(scene: Scene) -> tuple[str, Mend] | None:
    """SIGTERM: it drains and ends with status 0, whatever else is going on. (Before it serves it just dies.)"""
    machine = _one_running(scene)
    if machine is None or not machine.sidecar.answers:
        return None
    return machine.name, _ended(machine.sidecar, scene)


def lose_disk(scene: Scene) -> tuple[str, Mend] | None:
    """A sidecar dies, and comes back with an empty disk."""
    machine = _one_running(scene)
    if machine is None:
        return None
    machine.sidecar.kill()
    had = read_disk(machine.sidecar.data)
    try:
        booked = scene.installation.booked_keys()
    except psycopg.OperationalError:  # it is down; what the control plane has confirmed is in there
        booked = had.acknowledged
    scene.history.loses_disk(
        machine.name,
        is_remote=machine.durability is Durability.REMOTE,
        booked=booked,
        incarnations=had.incarnations,
    )
    scene.installation.lose_disk(machine)
    return machine.name, _launch(machine.sidecar)


def kill_replica(scene: Scene) -> tuple[str, Mend] | None:
    """`kill -9` of a replica of the control plane."""
    running = [one for one in scene.installation.replicas if one.is_running]
    if not running:
        return None
    replica = scene.random.choice(running)
    replica.kill()
    return replica.name, _launch(replica)


def stop_replica(scene: Scene) -> tuple[str, Mend] | None:
    """SIGTERM of a replica: it ends with status 0."""
    serving = [one for one in scene.installation.replicas if one.answers]
    if not serving:
        return None
    replica = scene.random.choice(serving)
    return replica.name, _ended(replica, scene)


# The database


def restart_database(scene: Scene) -> tuple[str, Mend] | None:
    """PostgreSQL is killed, or stopped in order, and comes back."""
    postgres = scene.installation.postgres
    how = scene.random.choice(["killed", "stopped"])
    if how == "killed":
        postgres.kill()
    else:
        postgres.stop()

    def is_started() -> bool:
        with contextlib.suppress(ServerFailed):  # the killed one's last processes have its memory yet
            postgres.start()
            return True
        return False

    return f"database {how}", lambda: _wait(is_started, "PostgreSQL is back")


def cut_database(scene: Scene) -> tuple[str, Mend] | None:
    """Every connection to the database ends, whatever it is at."""
    installation = scene.installation
    installation.postgres.cut_connections(installation.database)
    return "database", _nothing


def silence_database(scene: Scene) -> tuple[str, Mend] | None:
    """Nothing comes through to the database, and nobody says so."""
    return "database", _become(scene.installation.database_way, Way.SILENT)


# Networks


def _become(way: Proxy, how: Way) -> Mend:
    way.become(how)
    return lambda: way.become(Way.OPEN)


def _on_the_way(*ways: Way) -> Fault:
    def fault(scene: Scene) -> tuple[str, Mend] | None:
        machine = scene.random.choice(scene.installation.machines)
        mend = _become(machine.way, scene.random.choice(ways))
        is_lost = scene.random.random() < 0.5

        def mended() -> None:
            if is_lost:  # what was held back never arrives
                machine.way.cut()
            mend()

        return machine.name, mended

    return fault


def cut(scene: Scene) -> tuple[str, Mend] | None:
    """All connections of a sidecar are reset."""
    machine = scene.random.choice(scene.installation.machines)
    machine.way.cut()
    return machine.name, _nothing


def delay(scene: Scene) -> tuple[str, Mend] | None:
    """Everything between a sidecar and the control plane is late."""
    machine = scene.random.choice(scene.installation.machines)
    machine.way.delay_seconds = scene.random.choice([0.05, 0.3, 1.0])

    def mend() -> None:
        machine.way.delay_seconds = 0.0

    return f"{machine.name} by {machine.way.delay_seconds} s", mend


def _losing(*shares: tuple[int, int]) -> Fault:
    """So many of a hundred packets vanish on the way there and on the way back: one of these."""

    def fault(scene: Scene) -> tuple[str, Mend] | None:
        machine = scene.random.choice(scene.installation.machines)
        wire = machine.wire
        if wire is None:
            return None
        there, back = scene.random.choice(shares)
        wire.lose(there=there, back=back)
        return f"{machine.name} {there} % there, {back} % back", lambda: wire.lose(there=0, back=0)

    return fault


# Disks and clocks


def _with(scene: Scene, weakness: Weakness) -> Machine | None:
    found = [one for one in scene.installation.machines if weakness in one.weakness]
    return scene.random.choice(found) if found else None


def fill_disk(scene: Scene) -> tuple[str, Mend] | None:
    """There is no room any more."""
    machine = _with(scene, Weakness.FULL)
    if machine is None or machine.disk is None:
        return None
    machine.disk.fill()
    return machine.name, machine.disk.free


def _failing(*calls: str) -> Fault:
    def fault(scene: Scene) -> tuple[str, Mend] | None:
        machine = _with(scene, Weakness.FAILING)
        if machine is None or machine.calls is None or not machine.sidecar.is_running:
            return None
        failing, pid = machine.calls, machine.sidecar.pid
        assert pid is not None, "it runs"
        probability = scene.random.choice([0.05, 0.5, 1.0])
        for call in calls:
            failing.enable(call, errno.EIO, probability=probability, pid=pid)

        def mend() -> None:
            if machine.sidecar.pid == pid:  # its next process has a disk that works
                for call in calls:
                    failing.disable(call, pid=pid)

        return f"{machine.name} one in {1 / probability:.0f}", mend

    return fault


def set_clock(scene: Scene) -> tuple[str, Mend] | None:
    """The wall clock of a sidecar jumps a day, and later back."""
    machine = _with(scene, Weakness.CLOCK)
    if machine is None or machine.clock is None:
        return None
    ahead, clock = scene.random.choice(["+1d", "-1d", "+10m"]), machine.clock
    clock.set(ahead)
    return f"{machine.name} by {ahead}", lambda: clock.set("+0")


@contextlib.contextmanager
def hurt(fault: Fault, scene: Scene) -> Iterator[str]:
    """For as long as the block lasts."""
    done = fault(scene)
    assert done is not None, "there was nothing to hurt"
    what, mend = done
    try:
        yield what
    finally:
        mend()
        for ending in scene.ending:
            ending.join(90)


def _wait(holds: Callable[[], bool], what: str) -> None:
    eventually(holds, seconds=60, what=what)


FAULTS: Final[Mapping[str, Fault]] = {
    "kill_sidecar": kill_sidecar,
    "stop_sidecar": stop_sidecar,
    "lose_disk": lose_disk,
    "kill_replica": kill_replica,
    "stop_replica": stop_replica,
    "restart_database": restart_database,
    "cut_database": cut_database,
    "silence_database": silence_database,
    "refuse": _on_the_way(Way.REFUSED),
    "silence": _on_the_way(Way.SILENT),
    "silence_one_way": _on_the_way(Way.SILENT_OUT, Way.SILENT_BACK),
    "cut": cut,
    "delay": delay,
    "lose_packets": _losing((10, 10), (30, 30), (60, 0), (0, 60)),
    "lose_all_packets": _losing((100, 100), (100, 0), (0, 100)),
    "fill_disk": fill_disk,
    "fail_writes": _failing("posix/io/rw/pwrite"),
    "fail_syncs": _failing("posix/io/sync/fsync", "posix/io/sync/fdatasync"),
    "set_clock": set_clock,
}
