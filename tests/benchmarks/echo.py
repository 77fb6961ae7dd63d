"""The yardstick: a bare `grpc.server` that answers a prebuilt full Decision, bytes in and bytes out.

`python -m tests.benchmarks.echo --threads 4 --pool sidecar` prints `{"grpc": PORT}` and serves until it is terminated.
"""

import argparse
import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from purser.v1 import entitlement_service_pb2 as s
from sidecar.rpc.pools import Pool
from tests.benchmarks.payloads import full_decision

POOLS: dict[str, Callable[[int], ThreadPoolExecutor]] = {
    "sidecar": lambda threads: Pool("reads", threads=threads, bound=2_000),
    "standard": ThreadPoolExecutor,
}


def serve(threads: int, pool: str) -> tuple[grpc.Server, int]:
    """A running server and its port."""
    answer = s.CheckAccessResponse(decision=full_decision()).SerializeToString()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: answer
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
    options = parser.parse_args()
    server, port = serve(options.threads, options.pool)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    print(json.dumps({"grpc": port}), flush=True)
    stopped.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
