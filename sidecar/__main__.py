"""`python -m sidecar`: serves until SIGTERM or Ctrl-C, then drains."""

import argparse
import gc
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pydantic

from sidecar.app import Sidecar
from sidecar.config import Settings, settings_from
from sidecar.outbox.port import OutboxLocked, OutboxUnusable
from sidecar.runtime.logs import set_up_logs
from sidecar.runtime.wording import wrong_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads flags over environment over file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="sidecar", description=__doc__)
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", default=None, help=field.description)
        else:
            parser.add_argument(flag, help=field.description)
    try:
        settings = settings_from(**vars(parser.parse_args(arguments)))
        serve(settings)
    except pydantic.ValidationError as error:
        for name, problem in wrong_settings(error):
            sys.stderr.write(f"{name}: {problem}\n" if name else f"{problem}\n")
        return 2
    except FAILURES as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


FAILURES: Final = (OutboxLocked, OutboxUnusable, OSError, ValueError)
"""What keeps a sidecar from starting; each says what in its message."""
SIGNAL_LOOK_SECONDS: Final = 0.5
YOUNG_OBJECTS_MAX: Final = 10_000
"""Next to nothing that a call makes is part of a cycle. Python's own 700 has the collector look after every few dozen
consumes, and often through everything; this many objects are looked through in well under a millisecond.
"""


def serve(settings: Settings, *, started: Callable[[Sidecar], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT. Called in the main thread. `started` is told when it listens.

    Raises one of FAILURES.
    """
    set_up_logs(level=settings.log_level, is_json=settings.log_json, service="sidecar")
    sidecar = Sidecar(settings)
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    sidecar.start()
    # What was loaded by now stays: looking through it again and again costs a check a tenth of its time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)
    if started is not None:
        started(sidecar)
    # Not for ever: a signal that the kernel gave to another thread, or a moment before, wakes nobody who waits here.
    while not asked_to_stop.wait(SIGNAL_LOOK_SECONDS):
        pass
    sidecar.stop()


if __name__ == "__main__":
    sys.exit(main())
