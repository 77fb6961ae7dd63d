"""Simulated threads do what real ones do, in no time, and die with their process."""

from collections.abc import Callable, Iterator
from queue import Empty
from random import Random

import pytest

from tests.simulation.threads import Condition, Event, Hub, Lock, Process, SimpleQueue, Stalled, VirtualLoop


class Stage:
    """A loop, and one process on it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.hub = Hub(self.loop, Random(1))
        self.process = Process("process")
        self.seen: list[tuple[float, object]] = []

    def run(self, *works: Callable[[], object]) -> list[tuple[float, object]]:
        """Runs these threads until all of them wait for ever, or are done; what they noted."""
        for work in works:
            self.hub.spawn(self.process, work)
        with pytest.raises(Stalled):
            self.loop.run_forever()
        assert not self.hub.failures
        return self.seen

    def note(self, what: object) -> None:
        """Something was reached."""
        self.seen.append((round(self.hub.time(), 6), what))


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.hub.close([made.process])
    made.loop.close()


def test_time_passes_only_where_somebody_waits(stage: Stage) -> None:
    def work() -> None:
        stage.hub.sleep(3600)
        stage.note("an hour later")

    assert stage.run(work) == [(3600, "an hour later")]


def test_a_slow_clock_waits_longer_in_true_time(stage: Stage) -> None:
    stage.process.rate = 0.5

    def work() -> None:
        stage.hub.sleep(1)
        stage.note("woken")

    assert stage.run(work) == [(2, "woken")]


def test_a_lock_is_held_by_one(stage: Stage) -> None:
    lock = Lock(stage.hub)

    def work(name: str) -> None:
        with lock:
            stage.note(f"{name} in")
            stage.hub.sleep(1)
            stage.note(f"{name} out")

    seen = stage.run(lambda: work("a"), lambda: work("b"))
    assert [what for _, what in seen] in (
        ["a in", "a out", "b in", "b out"],
        ["b in", "b out", "a in", "a out"],
    )


def test_a_condition_wakes_who_waits_and_time_does_too(stage: Stage) -> None:
    condition, ready = Condition(stage.hub), False

    def waits() -> None:
        with condition:
            stage.note(condition.wait_for(lambda: ready, 1))
            stage.note(condition.wait_for(lambda: ready, 10))

    def tells() -> None:
        nonlocal ready
        stage.hub.sleep(3)
        with condition:
            ready = True
            condition.notify_all()

    assert stage.run(waits, tells) == [(1, False), (3, True)]


def test_events_and_queues(stage: Stage) -> None:
    event, queue = Event(stage.hub), SimpleQueue[str](stage.hub)

    def waits() -> None:
        stage.note(event.wait(1))
        stage.note(event.wait())
        stage.note(queue.get(timeout=5))
        with pytest.raises(Empty):
            queue.get(timeout=2)
        stage.note("empty")

    def tells() -> None:
        stage.hub.sleep(2)
        event.set()
        stage.hub.sleep(1)
        queue.put("a thing")

    assert stage.run(waits, tells) == [(1, False), (2, True), (3, "a thing"), (5, "empty")]


def test_who_is_killed_does_nothing_more(stage: Stage) -> None:
    """Not even what stands in a `finally`, until the simulation is taken down."""

    def dies() -> None:
        try:
            stage.hub.sleep(10)
            stage.note("never")
        finally:
            stage.process.threads.clear()

    stage.loop.call_later(5, setattr, stage.process, "is_dead", True)
    assert stage.run(dies) == []
    assert stage.process.threads


def test_who_is_paused_goes_on_later(stage: Stage) -> None:
    stage.process.is_paused = True
    stage.loop.call_later(7, stage.hub.go_on, stage.process)
    assert stage.run(lambda: stage.note("on")) == [(7, "on")]


def test_an_error_in_a_thread_is_a_finding(stage: Stage) -> None:
    def fails() -> None:
        raise ValueError("so it is")

    stage.hub.spawn(stage.process, fails)
    with pytest.raises(Stalled):
        stage.loop.run_forever()
    assert stage.hub.failures == ["process: ValueError('so it is')"]
