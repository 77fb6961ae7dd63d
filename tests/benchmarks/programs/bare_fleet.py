"""A fleet that does nothing: `python -m tests.benchmarks.programs.bare_fleet --processes 100 --publishes 50 …`.

As many processes as there are sidecars in the row beside it, each with a bare gRPC server and a bare stream from one
publisher, all on one core; the publisher has the other. Each is asked by a client of its own before a message as long
as a small catalog goes out on every stream, and answers once it has come: nothing is read in it, nothing is decided or
kept. Prints `{"last_ms": [until the last answer, of each publish], "cpu_ms": [of one process, their median]}`.
"""

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from statistics import median

import grpc

from tests.benchmarks.catalog import catalog

_SERVICE = "bare.Fleet"
_FOLLOW, _ASK = f"/{_SERVICE}/Follow", f"/{_SERVICE}/Ask"
_PATIENCE_SECONDS = 60
_BETWEEN_SECONDS = 0.3
_FORK = multiprocessing.get_context("fork")


def _served(
    threads: int, method: str, handler: "grpc.RpcMethodHandler[bytes, bytes]"
) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _publisher(orders: Connection, core: int, followers: int) -> None:
    """Tells its port, then sends each number that it is told on every stream."""
    os.sched_setaffinity(0, {core})
    streams: list[SimpleQueue[bytes]] = []

    def follow(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        stream: SimpleQueue[bytes] = SimpleQueue()
        streams.append(stream)
        while True:
            yield stream.get()

    _server, port = _served(followers + 1, "Follow", grpc.stream_stream_rpc_method_handler(follow))
    orders.send(port)
    body = catalog().encode()
    while True:
        number = orders.recv()
        for stream in streams:
            stream.put(b"%010d" % number + body)


def _follower(orders: Connection, core: int, publisher: int) -> None:
    """One process of the fleet; for each number: `None` once it was asked, then when it answered and what it used."""
    os.sched_setaffinity(0, {core})
    came, reached = threading.Condition(), [0]

    def ask(request: bytes, _context: grpc.ServicerContext) -> bytes:
        with came:
            came.wait_for(lambda: reached[0] >= int(request), _PATIENCE_SECONDS)
        return request

    def follow() -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{publisher}")
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_FOLLOW)
        nothing: SimpleQueue[bytes] = SimpleQueue()
        for message in stream(iter(nothing.get, b"")):
            with came:
                reached[0] = int(message[:10])
                came.notify_all()

    _server, port = _served(2, "Ask", grpc.unary_unary_rpc_method_handler(ask))
    threading.Thread(target=follow, daemon=True).start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    asking: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_ASK)
    asking(b"0", timeout=_PATIENCE_SECONDS)
    orders.send(None)
    while True:
        number = orders.recv()
        began = time.process_time()
        asked = asking.future(b"%d" % number, timeout=_PATIENCE_SECONDS)
        orders.send(None)
        asked.result()
        orders.send((time.monotonic(), (time.process_time() - began) * 1000))


def _started(target: object, *arguments: object) -> Connection:
    ours, theirs = _FORK.Pipe()
    _FORK.Process(target=target, args=(theirs, *arguments), daemon=True).start()  # type: ignore[arg-type]
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("processes", "publishes", "publisher-core", "fleet-core"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    publisher = _started(_publisher, options.publisher_core, options.processes)
    port = publisher.recv()
    fleet = []
    for _ in range(options.processes):
        fleet.append(_started(_follower, options.fleet_core, port))
        fleet[-1].recv()
    last_ms, cpu_ms = [], []
    for number in range(1, options.publishes + 1):
        time.sleep(_BETWEEN_SECONDS)
        for one in fleet:
            one.send(number)
        for one in fleet:
            one.recv()
        began = time.monotonic()
        publisher.send(number)
        answered_at, used_ms = zip(*(one.recv() for one in fleet), strict=True)
        last_ms.append((max(answered_at) - began) * 1000)
        cpu_ms.append(median(used_ms))
    print(json.dumps({"last_ms": last_ms, "cpu_ms": cpu_ms}))


if __name__ == "__main__":
    main()
