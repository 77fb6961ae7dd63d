"""`python -m clients.cli.dev.child PARENT COMMAND…`: runs a `purser` command that ends when its parent does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from clients.cli.__main__ import main

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


def tie_to(parent: int) -> None:
    """From now on this process is killed when `parent` is gone, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # it went before we could ask
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    tie_to(int(sys.argv[1]))
    sys.argv = ["purser", *sys.argv[2:]]
    main()
