"""`purser`, under a libfaketime that sets its wall clock.

libfaketime 0.9.10 makes `clock_nanosleep`, and with it `time.sleep`, fail on the clocks that it leaves alone. Waiting
for locks goes well.
"""

import threading
import time
from typing import SupportsIndex

from clients.cli.__main__ import main


def _sleep(seconds: float | SupportsIndex, /) -> None:
    threading.Event().wait(float(seconds))


if __name__ == "__main__":
    time.sleep = _sleep
    main()
