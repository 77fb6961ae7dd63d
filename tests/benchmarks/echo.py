"""The yardstick: a bare `grpc.server` that answers a prebuilt full Decision, bytes in and bytes out.

`python -m tests.benchmarks.echo --threads 4 --pool sidecar` prints `{"grpc": PORT}` and serves until it is terminated.
With `--durable FILE` it first has each request on the disk: a row of a SQLite table, those that wait meanwhile in one
transaction.
"""

import argparse
import json
import signal
import sqlite3
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import grpc

from purser.v1 import entitlement_service_pb2 as s
from sidecar.rpc.pools import Pool
from tests.benchmarks.payloads import full_decision

POOLS: dict[str, Callable[[int], ThreadPoolExecutor]] = {
    "sidecar": lambda threads: Pool("reads", threads=threads, bound=2_000),
    "sidecar's writes": lambda threads: Pool("writes", threads=threads, bound=2_000, in_turn=True),
    "standard": ThreadPoolExecutor,
}


class Disk:
    """The least that keeps what it was given: one writer, and a durable transaction for all who wait."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._waiting: SimpleQueue[tuple[bytes, LockType]] = SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def keep(self, request: bytes) -> None:
        """Returns once it can not be lost."""
        kept = allocate_lock()
        kept.acquire()
        self._waiting.put((request, kept))
        kept.acquire()

    def _write(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS kept (seq INTEGER PRIMARY KEY, request BLOB)")
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO kept (request) VALUES (?)", [(request,) for request, _ in group]
            )
            connection.execute("COMMIT")
            for _, kept in group:
                kept.release()


def serve(threads: int, pool: str, durable: Path | None) -> tuple[grpc.Server, int]:
    """A running server and its port."""
    answer = s.CheckAccessResponse(decision=full_decision()).SerializeToString()
    disk = Disk(durable) if durable is not None else None

    def answered(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return answer

    def kept(request: bytes, _context: grpc.ServicerContext) -> bytes:
        assert disk is not None, "only with a disk"
        disk.keep(request)
        return answer

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        answered if disk is None else kept
    )
    server = grpc.server(POOLS[pool](threads), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("purser.v1.EntitlementService", {"CheckAccess": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pool", choices=POOLS, default="sidecar")
    parser.add_argument("--durable", type=Path, metavar="FILE")
    options = parser.parse_args()
    server, port = serve(options.threads, options.pool, options.durable)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    print(json.dumps({"grpc": port}), flush=True)
    stopped.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
