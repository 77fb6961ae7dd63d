"""The plain statement behind a bare gRPC call: what is left of `UPDATE … RETURNING` when who asks is not in the
process.

An asyncio server on uvloop, as the control plane is, whose one call does one `UPDATE … RETURNING` of a row of the
`bare` grants in a transaction of its own, on one of `--connections`, and answers nothing. No request is read, nothing
is decided, no row of a ledger is written. Prints `{"grpc": PORT}` and serves until it is terminated.
"""

import argparse
import asyncio
import json
import signal
from itertools import count
from typing import Any

import grpc
import psycopg
import uvloop

from tests.benchmarks.programs.bare_sql import SCHEMA, TAKE

SERVICE = "bare.Bare"
METHOD = "Take"


class Taking:
    """Each call takes from the grant of another customer."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()
        self._ids: list[str] = []
        self._turns = count()

    async def connect(self, conninfo: str, connections: int) -> None:
        for _ in range(connections):
            self._free.put_nowait(await psycopg.AsyncConnection.connect(conninfo))
        connection = await self._free.get()
        found = await connection.execute(f"SELECT id FROM {SCHEMA}.grants ORDER BY id")
        self._ids = [row[0] for row in await found.fetchall()]
        await connection.commit()
        self._free.put_nowait(connection)

    async def take(self, _request: bytes, _context: Any) -> bytes:
        connection = await self._free.get()
        try:
            taken = await connection.execute(
                TAKE, (1_000, 1_000, self._ids[next(self._turns) % len(self._ids)])
            )
            assert await taken.fetchone() is not None, "there is such a grant"
            await connection.commit()
        finally:
            self._free.put_nowait(connection)
        return b""


async def serve(conninfo: str, connections: int) -> None:
    taking = Taking()
    await taking.connect(conninfo, connections)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(taking.take)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(json.dumps({"grpc": port}), flush=True)
    await stopped.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conninfo", required=True)
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.conninfo, options.connections))


if __name__ == "__main__":
    main()
