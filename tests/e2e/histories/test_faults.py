"""Each fault alone, for a moment, under load: callers go on, and the books match what they were told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Final

import pytest

from purser.types import Freshness
from tests.e2e.fleet import eventually
from tests.e2e.histories.books import read_all
from tests.e2e.histories.callers import TTL_SECONDS
from tests.e2e.histories.faults import FAULTS, Scene, hurt, impossible
from tests.e2e.histories.history import Call, History, Told, Verb
from tests.e2e.histories.installation import Installation, Weakness
from tests.e2e.histories.soaking import books_match, load, seats_come_back, wait
from tests.servers.wire import why_no_wire

pytestmark = pytest.mark.timeout(300)  # the first one also starts the installation

FLOWS: Final = 15
"""So many accepted calls say that everything flows."""
MOMENT_SECONDS: Final = 1.0
GIVEN_UP: Final = timedelta(seconds=17)
"""A ping after 10 s, and 5 s for its answer."""
BACK_SECONDS: Final = 12.0
"""The longest pause between two tries to connect, the try that was under way, and some for a busy machine."""


@pytest.fixture(scope="module")
def histories() -> list[History]:
    """Those of all tests here, which share an installation."""
    return []


@pytest.fixture
def history(histories: list[History]) -> History:
    """This test's own."""
    histories.append(History())
    return histories[-1]


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, histories: list[History]
) -> Iterator[Installation]:
    """Two sidecars with every weakness between them, and two replicas; each test has its own customers there. In the
    end all sidecars go in order, and nothing is out but what went with a disk.
    """
    folder: Path = tmp_path_factory.mktemp("installation")
    weaknesses = [Weakness.FULL | Weakness.FAILING, Weakness.CLOCK]
    with Installation(folder, weaknesses, replicas=2) as installation:
        yield installation
        wait(TTL_SECONDS)  # until no hold is open that its caller has forgotten
        for machine in installation.machines:
            assert machine.sidecar.terminate() == 0, f"{machine.name} did not end in order"
        books_match(installation, History.of_all(histories), is_closed=True, seconds=30)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone(installation: Installation, history: History, name: str) -> None:
    """It comes, is felt, and goes; nothing is lost, doubled, oversold or stranded, and all that was held comes back."""
    for server in (*installation.replicas, *(machine.sidecar for machine in installation.machines)):
        assert server.is_running, f"{server.name} did not survive an earlier test"
    if why := impossible().get(name):
        pytest.skip(why)
    scene = Scene(installation, history, Random(name), is_alone=True)
    with load(installation, history, seed=name, callers=4, pace_seconds=0.02, prefix=f"{name}-") as made:
        _flows(history, 0)
        with hurt(FAULTS[name], scene) as done:
            wait(MOMENT_SECONDS)
            eventually(done.felt, seconds=20, what=f"it is felt: {name} {done}")
        # Of the replicas, too: one that starts while the next test takes the database away ends, as it says.
        for server in (*installation.replicas, *(machine.sidecar for machine in installation.machines)):
            server.wait_until_ready()
        _flows(history, len(history.calls))
        made.callers.stop()
        made.callers.finish()
        left_seats = seats_come_back(made)
        books_match(installation, history, left_seats=left_seats, seconds=30)
    assert not scene.said, scene.said


def test_who_is_asked_to_stop_brings_everything_home(installation: Installation, history: History) -> None:
    """SIGTERM under load: status 0, and what it had accepted is in the books when it has ended. Without a hold
    open nothing is leased to it any more.
    """
    machine = installation.machines[0]
    with load(installation, history, seed="home", callers=4, pace_seconds=0.02, prefix="home-") as made:
        _flows(history, 0)
        history.ends(machine.name)
        assert machine.sidecar.terminate() == 0
        accepted = {call.asked.key for call in list(history.calls) if _is_used(call, machine.name)}
        assert accepted <= {event.key for event in installation.books(history).events}
        history.launches(machine.name)
        machine.sidecar.start()
        _flows(history, len(history.calls))
        made.callers.stop()
        made.callers.finish()
        wait(TTL_SECONDS)  # until no hold is open any more
        mine = _open_sessions(installation, machine.name)
        assert mine, "it is known while it runs"
        assert machine.sidecar.terminate() == 0
        leases = read_all(installation, "/leases")
        out = [lease for lease in leases if lease["incarnation_id"] in mine and Decimal(lease["unsettled"])]
        assert out == []
        machine.sidecar.start()
        books_match(installation, history)


def test_a_disk_that_fails_for_two_reasons_is_mended(installation: Installation) -> None:
    """Whoever comes second finds that it works."""
    scene = Scene(installation, History(), Random(0))
    with hurt(FAULTS["fail_syncs"], scene) as first, hurt(FAULTS["fail_syncs"], scene) as second:
        assert first.whom == second.whom, "there is one machine with such a disk"


def test_who_hears_nothing_for_long_comes_back_by_itself(installation: Installation) -> None:
    """Every packet is lost until keepalive has given up the connection: soon after the first one that arrives the
    sidecar is live again.
    """
    machine = installation.machines[0]
    if machine.wire is None:
        pytest.skip(why_no_wire())
    installation.prepaid(History(), "cut-off")

    def freshness() -> Freshness:
        return machine.sidecar.client.check(customer_id="cut-off", feature="jobs", event_name="job").freshness

    def is_live() -> bool:
        return freshness().source == "LIVE"

    def is_given_up() -> bool:
        age = freshness().age
        return age is not None and age > GIVEN_UP

    eventually(is_live, seconds=20, what="it is live")
    machine.wire.lose(there=100, back=100)
    try:
        eventually(is_given_up, seconds=60, what="the connection is given up")
    finally:
        machine.wire.lose(there=0, back=0)
    eventually(is_live, seconds=BACK_SECONDS, what="it is live again")


def _is_used(call: Call, sidecar: str) -> bool:
    uses = {Verb.CONSUME, Verb.REPORT}
    return call.told is Told.ACCEPTED and call.asked.sidecar == sidecar and call.asked.verb in uses


def _open_sessions(installation: Installation, name: str) -> set[str]:
    sessions = installation.get("/sidecars", limit=500, state="open")["items"]
    return {session["incarnation_id"] for session in sessions if session["label"] == name}


def _flows(history: History, since: int) -> None:
    def is_flowing() -> bool:
        calls = [call for call in history.calls[since:] if call.asked.verb is not Verb.CHECK]
        return sum(call.told is Told.ACCEPTED for call in calls) >= FLOWS

    eventually(is_flowing, seconds=40, what="calls are accepted")
