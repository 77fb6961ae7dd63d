"""A process that writes in a loop and prints each key once it was answered. Run by test_kill.py, which kills it."""

import secrets
import sys
import threading
from pathlib import Path

from prometheus_client import CollectorRegistry

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import Durability, KeyEntry, Reservation, Write
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.metrics import Metrics

THREADS = 8


def main(path: Path, durability: Durability, start: int) -> None:
    """Writes until it is killed."""
    outbox = SqliteOutbox(
        path,
        durability=durability,
        clock=SystemClock(),
        make_id=lambda: secrets.token_hex(8),
        boot_id="boot",
        metrics=Metrics(CollectorRegistry()),
        min_free_bytes=0,
    )
    printing = threading.Lock()

    def work(thread: int) -> None:
        n = start
        while True:
            key = f"{thread}-{n}"
            body = usage.Usage(decision_id=key).SerializeToString()
            outbox.commit(Write(body, KeyEntry("acme", key, b"h", b"a"), Reservation(key, 1, True, b"s")))
            with printing:
                sys.stdout.write(key + "\n")
                sys.stdout.flush()
            n += 1

    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Durability(sys.argv[2]), int(sys.argv[3]))
