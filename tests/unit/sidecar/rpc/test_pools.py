"""Pools: bounded, and never all of them waiting for the network."""

import os
import sys
import threading
from queue import SimpleQueue

import pytest

from sidecar.rpc.pools import Pool, blocking
from sidecar.runtime.trouble import Overloaded


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
    """With its only thread waiting for the network, the pool still answers, whichever pool was made last."""
    pool = Pool("test", threads=1, bound=10)
    other = Pool("other", threads=1, bound=10, waiting_max=0)
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
    other.shutdown()


def test_who_waits_again_is_stood_in_for_by_the_same_thread() -> None:
    """A call that waits many times in turn, as a batch of cold customers does, leaves one thread behind, not many."""
    pool = Pool("waits-again", threads=1, bound=10)
    answered = threading.Event()

    def cold() -> None:
        for _ in range(50):
            with blocking():
                pass
        with blocking():
            pool.submit(answered.set)
            assert answered.wait(10)

    done = threading.Event()
    pool.submit(cold).add_done_callback(lambda _job: done.set())
    assert done.wait(10)
    assert sum("waits-again" in thread.name for thread in threading.enumerate()) <= 2
    pool.shutdown()


def test_those_who_wait_are_bounded() -> None:
    """One more than may wait is turned away at once."""
    pool = Pool("test", threads=1, bound=10, waiting_max=0)
    with pytest.raises(Overloaded), pool.blocking():
        pass
    pool.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="sched(7)")
@pytest.mark.parametrize("in_turn", [False, True])
def test_threads_that_wake_each_other_wait_for_their_turn(in_turn: bool) -> None:
    """Where that is asked for."""
    pool = Pool("test", threads=1, bound=2, in_turn=in_turn)
    policies: SimpleQueue[int] = SimpleQueue()
    pool.submit(lambda: policies.put(os.sched_getscheduler(0)))
    assert policies.get(timeout=10) == (os.SCHED_BATCH if in_turn else os.SCHED_OTHER)
    pool.shutdown()


def test_where_threads_can_not_be_told_to_wait_they_serve_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sandbox may forbid the call."""

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden, raising=False)
    pool = Pool("test", threads=1, bound=2, in_turn=True)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(10)
    pool.shutdown()


def test_a_call_that_fails_does_not_cost_a_thread() -> None:
    """The pool goes on after an error that nobody caught."""
    pool = Pool("test", threads=1, bound=10)
    pool.submit(lambda: 1 // 0)
    answered = threading.Event()
    pool.submit(answered.set)
    assert answered.wait(10)
    pool.shutdown()


def test_where_no_thread_can_be_had_who_waits_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine at its limit of threads: nobody stands in, the call goes on, and afterwards nobody is waiting."""
    pool = Pool("test", threads=1, bound=10, waiting_max=1)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", _no_more_threads)
        for _ in range(3):
            with pool.blocking():
                pass
    answered = threading.Event()
    with pool.blocking():
        pool.submit(answered.set)
        assert answered.wait(10)
    pool.shutdown()


def _no_more_threads(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
