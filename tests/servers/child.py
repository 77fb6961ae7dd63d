"""Starts a program as the tests' servers want it: it dies with its parent, as another user, or yielding the core.

It is a program of its own, between the tests and the server, because `preexec_fn=` and `user=` make `subprocess`
fork: gRPC then restarts its threads in the child, and now and then one of them ends it before the server begins.
Without them `subprocess` starts a process by `vfork`, which gRPC does not notice.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def command(
    program: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    owner: tuple[int, int] | None = None,
    yields: bool = False,
) -> list[str]:
    """What to start, for `program` to run under these rules.

    Args:
        program: its path and its arguments.
        death_signal: what the kernel sends it when this process dies (on Linux).
        owner: user and group to become; `None`: as we are.
        yields: it runs only while nothing else wants the core (SCHED_IDLE).
    """
    rules = [f"--parent={os.getpid()}", f"--death-signal={death_signal.value}"]
    rules += [f"--owner={owner[0]}:{owner[1]}"] if owner else []
    rules += ["--yields"] if yields else []
    return [sys.executable, "-I", "-S", __file__, *rules, "--", *map(str, program)]


def _become(arguments: argparse.Namespace) -> None:
    if arguments.owner:
        user, group = map(int, arguments.owner.split(":"))
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if arguments.yields:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if sys.platform == "linux":  # after the change of user, which would clear it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, arguments.death_signal)
        if os.getppid() != arguments.parent:
            sys.exit("the parent died before its child began")
    os.execvp(arguments.program[0], arguments.program)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--owner")
    parser.add_argument("--yields", action="store_true")
    parser.add_argument("program", nargs="+")
    _become(parser.parse_args())
