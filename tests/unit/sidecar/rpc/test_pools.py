"""Pools: bounded, and never all of them waiting for the network."""

import threading

import pytest

from sidecar.deciding.errors import Overloaded
from sidecar.rpc import pools
from sidecar.rpc.pools import Pool, blocking


def test_a_pool_is_full_at_its_bound_and_not_before() -> None:
    """What runs and what is queued counts; what has ended does not."""
    pool = Pool("test", threads=1, bound=2)
    go, running = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        go.wait(10)

    first = pool.submit(hold)
    running.wait(10)
    assert not pool.is_full()
    done = threading.Event()
    pool.submit(done.set)
    assert pool.is_full()
    go.set()
    assert done.wait(10)
    ended = threading.Event()
    first.add_done_callback(lambda _job: ended.set())
    assert ended.wait(10)
    pool.shutdown()


def test_who_waits_is_stood_in_for() -> None:
    """With its only thread waiting for the network, the pool still answers."""
    pool = Pool("test", threads=1, bound=10)
    go, waits, answered = threading.Event(), threading.Event(), threading.Event()

    def cold() -> None:
        with blocking():
            waits.set()
            go.wait(10)

    pool.submit(cold)
    assert waits.wait(10)
    pool.submit(answered.set)
    assert answered.wait(10)
    go.set()
    pool.shutdown()


def test_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait is turned away at once."""
    monkeypatch.setattr(pools, "WAITING_MAX", 0)
    pool = Pool("test", threads=1, bound=10)
    with pytest.raises(Overloaded), pool.blocking():
        pass
    pool.shutdown()


def test_a_call_that_fails_does_not_cost_a_thread() -> None:
    """The pool goes on after an error that nobody caught."""
    pool = Pool("test", threads=1, bound=10)
    pool.submit(lambda: 1 // 0)
    answered = threading.Event()
    pool.submit(answered.set)
    assert answered.wait(10)
    pool.shutdown()
