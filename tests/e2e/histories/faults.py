"""What happens to an installation: each fault hurts something, and says how that is mended and whether it was felt.

A fault that finds nothing to hurt (a process that is dead already, a machine without the weakness) does nothing.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from random import Random
from typing import Final

import httpx
import psycopg

from sidecar.outbox.port import Durability
from tests.e2e.fleet import ServerProcess, eventually
from tests.e2e.histories.disk import read_disk
from tests.e2e.histories.history import History, Told
from tests.e2e.histories.installation import Installation, Machine, Weakness
from tests.e2e.histories.proxy import Proxy, Way
from tests.servers.process import ServerFailed
from tests.servers.wire import why_no_wire

UNDER_WAY: Final = 1000
"""No more calls than that are under way."""
_JUMPS: Final = {"+1d": timedelta(days=1), "-1d": timedelta(days=-1), "+10m": timedelta(minutes=10)}


@dataclass(slots=True)
class Scene:
    """Where it happens. `said` has what went wrong with a fault itself: a stop that did not end well."""

    installation: Installation
    history: History
    random: Random
    said: list[str] = field(default_factory=list)
    ending: list[threading.Thread] = field(default_factory=list)
    """They wait for processes that were asked to end, which can take long, and start them again."""
    is_alone: bool = False
    """One fault at a time: it is as bad as it can be."""


Mend = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Hurt:
    """What a fault has done."""

    whom: str
    mend: Mend
    felt: Callable[[], bool]
    """Asked while it lasts: has it taken place, by the word of somebody else than who did it?"""
    how: str = ""

    def __str__(self) -> str:
        return f"{self.whom} {self.how}".strip()


Fault = Callable[[Scene], Hurt | None]
"""Hurts something. None: there was nothing to hurt."""


def _nothing() -> None:
    """It is over already."""


def _one_running(scene: Scene) -> Machine | None:
    running = [one for one in scene.installation.machines if one.sidecar.is_running]
    return scene.random.choice(running) if running else None


def _kill(server: ServerProcess, scene: Scene) -> None:
    scene.history.ends(server.name)
    server.kill()


def _launch(server: ServerProcess, scene: Scene) -> Mend:
    def mend() -> None:
        if server.pid is None:  # who was launched since, and ended by itself, is somebody else's to see
            scene.history.launches(server.name)
            server.launch()

    return mend


def _told(scene: Scene, machine: Machine, told: Collection[Told], *reasons: str) -> Callable[[], bool]:
    """Did a caller there hear this of a call that ended since, for any of these reasons?"""
    since, calls = time.monotonic(), scene.history.calls
    first = max(0, len(calls) - UNDER_WAY)

    def heard() -> bool:
        return any(
            call.told_at is not None
            and call.told_at > since
            and call.asked.sidecar == machine.name
            and call.told in told
            and any(reason in call.answer.why.split() for reason in reasons)
            for call in islice(calls, first, None)
        )

    return heard


def _is_away(server: ServerProcess) -> bool:
    """Nobody listens where it did."""
    try:
        httpx.get(server.ready_url, timeout=1)
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        pass
    return False


def _ended(server: ServerProcess, scene: Scene) -> Mend:
    """Asks it to end; in the end it did so in order, and is started again."""
    scene.history.ends(server.name)
    status = server.let_end()

    def work() -> None:
        if (how := status()) != 0:
            scene.said.append(f"{server.name} was asked to stop and ended with status {how}")
        scene.history.launches(server.name)
        server.launch()

    def mend() -> None:
        # Only this, and not every mend: the kernel ends PostgreSQL with the thread that has started it.
        scene.ending.append(threading.Thread(target=work, name=f"end of {server.name}"))
        scene.ending[-1].start()

    return mend


# Processes


def kill_sidecar(scene: Scene) -> Hurt | None:
    """`kill -9`, and it comes back on its disk."""
    machine = _one_running(scene)
    if machine is None:
        return None
    felt = _told(scene, machine, {Told.UNKNOWN}, "UNAVAILABLE")
    _kill(machine.sidecar, scene)
    return Hurt(machine.name, _launch(machine.sidecar, scene), felt)


def stop_sidecar(scene: Scene) -> Hurt | None:
    """SIGTERM: it drains and ends with status 0, whatever else is going on. (Before it serves it just dies.)"""
    machine = _one_running(scene)
    if machine is None or not machine.sidecar.answers:
        return None
    felt = _told(scene, machine, {Told.UNKNOWN}, "UNAVAILABLE")
    return Hurt(machine.name, _ended(machine.sidecar, scene), felt)


def lose_disk(scene: Scene) -> Hurt | None:
    """A sidecar dies, and comes back with an empty disk."""
    machine = _one_running(scene)
    if machine is None:
        return None
    felt = _told(scene, machine, {Told.UNKNOWN}, "UNAVAILABLE")
    _kill(machine.sidecar, scene)
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
    return Hurt(machine.name, _launch(machine.sidecar, scene), felt)


def kill_replica(scene: Scene) -> Hurt | None:
    """`kill -9` of a replica of the control plane."""
    running = [one for one in scene.installation.replicas if one.is_running]
    if not running:
        return None
    replica = scene.random.choice(running)
    _kill(replica, scene)
    return Hurt(replica.name, _launch(replica, scene), lambda: _is_away(replica))


def stop_replica(scene: Scene) -> Hurt | None:
    """SIGTERM of a replica: it ends with status 0."""
    serving = [one for one in scene.installation.replicas if one.answers]
    if not serving:
        return None
    replica = scene.random.choice(serving)
    return Hurt(replica.name, _ended(replica, scene), lambda: _is_away(replica))


# The database


def restart_database(scene: Scene) -> Hurt | None:
    """PostgreSQL is killed, or stopped in order, and comes back."""
    postgres = scene.installation.postgres
    if not postgres.answers:
        return None
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

    def mend() -> None:
        eventually(is_started, seconds=60, what="PostgreSQL is back")

    return Hurt("database", mend, lambda: not postgres.answers, how)


def cut_database(scene: Scene) -> Hurt | None:
    """Every connection to the database ends, whatever it is at."""
    installation = scene.installation
    if not installation.postgres.answers:
        return None
    sessions = installation.postgres.cut_connections(installation.database)
    return Hurt("database", _nothing, lambda: sessions > 0, f"{sessions} sessions")


def silence_database(scene: Scene) -> Hurt | None:
    """Nothing comes through to the database, and nobody says so."""
    way = scene.installation.database_way
    felt = _grows(lambda: way.held)
    return Hurt("database", _become(way, Way.SILENT), felt)


# Networks


def _become(way: Proxy, how: Way) -> Mend:
    way.become(how)
    return lambda: way.become(Way.OPEN)


def _grows(count: Callable[[], int]) -> Callable[[], bool]:
    before = count()
    return lambda: count() > before


def _on_the_way(*ways: Way) -> Fault:
    def fault(scene: Scene) -> Hurt | None:
        machine = scene.random.choice(scene.installation.machines)
        how = scene.random.choice(ways)
        way = machine.way
        felt = _grows(lambda: way.ended if how is Way.REFUSED else way.held)
        mend = _become(way, how)
        is_lost = scene.random.random() < 0.5

        def mended() -> None:
            if is_lost:  # what was held back never arrives
                machine.way.cut()
            mend()

        return Hurt(machine.name, mended, felt, how.value)

    return fault


def cut(scene: Scene) -> Hurt | None:
    """All connections of a sidecar are reset."""
    machine = scene.random.choice(scene.installation.machines)
    felt = _grows(lambda: machine.way.ended)
    machine.way.cut()
    return Hurt(machine.name, _nothing, felt)


def delay(scene: Scene) -> Hurt | None:
    """Everything between a sidecar and the control plane is late."""
    machine = scene.random.choice(scene.installation.machines)
    felt = _grows(lambda: machine.way.late)
    machine.way.delay_seconds = scene.random.choice([0.05, 0.3, 1.0])

    def mend() -> None:
        machine.way.delay_seconds = 0.0

    return Hurt(machine.name, mend, felt, f"by {machine.way.delay_seconds} s")


def _losing(*shares: tuple[int, int]) -> Fault:
    """So many of a hundred packets vanish on the way there and on the way back: one of these."""

    def fault(scene: Scene) -> Hurt | None:
        machine = scene.random.choice(scene.installation.machines)
        wire = machine.wire
        if wire is None:
            return None
        there, back = scene.random.choice(shares)
        wire.lose(there=there, back=back)
        how = f"{there} % there, {back} % back"
        return Hurt(machine.name, lambda: wire.lose(there=0, back=0), lambda: wire.lost() > 0, how)

    return fault


# Disks and clocks


def _with(scene: Scene, weakness: Weakness) -> Machine | None:
    found = [one for one in scene.installation.machines if weakness in one.weakness]
    return scene.random.choice(found) if found else None


def fill_disk(scene: Scene) -> Hurt | None:
    """There is no room any more."""
    machine = _with(scene, Weakness.FULL)
    if machine is None or machine.disk is None:
        return None
    felt = _told(scene, machine, {Told.FAILED}, "NOT_WRITTEN")
    machine.disk.fill()
    return Hurt(machine.name, machine.disk.free, felt)


def _failing(*calls: str) -> Fault:
    def fault(scene: Scene) -> Hurt | None:
        machine = _with(scene, Weakness.FAILING)
        if machine is None or machine.calls is None or not machine.sidecar.is_running:
            return None
        failing, pid = machine.calls, machine.sidecar.pid
        assert pid is not None, "it runs"
        probability = 1.0 if scene.is_alone else scene.random.choice([0.05, 0.5, 1.0])
        felt = _told(scene, machine, {Told.FAILED, Told.UNKNOWN}, "NOT_WRITTEN", "OUTCOME_UNKNOWN")
        for call in calls:
            failing.enable(call, errno.EIO, probability=probability, pid=pid)

        def mend() -> None:
            if machine.sidecar.pid == pid:  # its next process has a disk that works
                for call in calls:
                    failing.disable(call, pid=pid)

        return Hurt(machine.name, mend, felt, f"one in {1 / probability:.0f}")

    return fault


def set_clock(scene: Scene) -> Hurt | None:
    """The wall clock of a sidecar jumps a day, and later back."""
    machine = _with(scene, Weakness.CLOCK)
    if machine is None or machine.clock is None:
        return None
    ahead, clock, sidecar = scene.random.choice(list(_JUMPS)), machine.clock, machine.sidecar
    clock.set(ahead)

    def felt() -> bool:
        return abs(_wall_clock_ahead(sidecar) - _JUMPS[ahead]) < timedelta(minutes=1)

    return Hurt(machine.name, lambda: clock.set("+0"), felt, f"by {ahead}")


def _wall_clock_ahead(sidecar: ServerProcess) -> timedelta:
    """By the date of an answer over HTTP; one that is away is on time."""
    try:
        date = httpx.get(sidecar.ready_url, timeout=1).headers["Date"]
    except httpx.HTTPError:
        return timedelta()
    return parsedate_to_datetime(date) - datetime.now(UTC)


@contextlib.contextmanager
def hurt(fault: Fault, scene: Scene) -> Iterator[Hurt]:
    """For as long as the block lasts."""
    done = fault(scene)
    assert done is not None, "there was nothing to hurt"
    try:
        yield done
    finally:
        done.mend()
        for ending in scene.ending:
            ending.join(90)


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
NEED_A_WIRE: Final = ("lose_packets", "lose_all_packets")


def impossible() -> Mapping[str, str]:
    """Faults that can not happen on this machine, and why."""
    why = why_no_wire()
    return dict.fromkeys(NEED_A_WIRE, why) if why else {}
