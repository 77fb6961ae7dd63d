"""How the kernel schedules the threads of one process that hand work to each other."""

import contextlib
import os


def wait_for_your_turn() -> None:
    """The calling thread does not take the core from whoever wakes it: `SCHED_BATCH`, sched(7), where there is such a
    thing and it is allowed.

    A thread that wakes another holds the interpreter's lock. On the same core the woken one would take its place, find
    the lock taken and go to sleep again: two switches for nothing. Its share of the core stays the same.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
