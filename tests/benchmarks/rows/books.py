"""The control plane on PostgreSQL, beside plain statements that leave the same behind.

PostgreSQL, the control plane and the plain statements share one core, so what is compared is all that the work costs;
the callers are on the other core. Commits are durable. As many work at a time on both sides.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from control_plane.db.migrate import upgrade
from tests.benchmarks import office
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import ControlPlane
from tests.benchmarks.measure import in_turn
from tests.benchmarks.office import Holder
from tests.benchmarks.processes import REPOSITORY, Server, pinned
from tests.benchmarks.programs import bare_call
from tests.benchmarks.raw import Pairs
from tests.servers.postgres import SUPERUSER, PostgresServer

REPORTING = 4
_FEW, _MANY = 16, 64
_CONNECTIONS = 20  # of the control plane's pool
_CUSTOMERS = 128
_PATIENCE_SECONDS = 120
REPORT = "ReportBatch, 500 records"
ACQUIRE = f"lease acquisitions, one per call, {_MANY} at a time"
BARE_CALL = f"the update behind a bare gRPC call, {_MANY} at a time"


def measure_reports(bench: Bench) -> dict[str, object]:
    """Events booked per second, beside events, keys and postings alone, and beside all rows of an event."""
    with _booking(bench) as books:
        bench.say("ReportBatch into PostgreSQL")
        holders = office.holders(books.channel, _names(), REPORTING)
        ours = partial(office.per_second, holders, Holder.report, bench.plan.book_seconds)
        ours()  # the plain statements copy what it booked
        return {
            "reports": (
                _pairs(bench, REPORT, "events/s", ours, partial(books.bare, "inserts", REPORTING)),
                _pairs(
                    bench,
                    f"{REPORT}, beside all their rows",
                    "events/s",
                    ours,
                    partial(books.bare, "all-inserts", REPORTING),
                ),
            )
        }


def measure_leases(bench: Bench) -> dict[str, object]:
    """Leases per second, beside one row updated per transaction, with as many at a time; and that update behind a gRPC
    call that does nothing else.
    """
    with _booking(bench) as books:
        bench.say("leases on PostgreSQL")
        everybody = office.holders(books.channel, _names(), _MANY)
        for holder in everybody:  # every customer's grants are there before the plain statements copy them
            holder.acquire(len(holder.customer_ids))
        found = []
        for name, wants, many in (
            (ACQUIRE, 1, _MANY),
            (f"lease acquisitions, one per call, {_FEW} at a time", 1, _FEW),
            ("lease acquisitions, one per call, one at a time", 1, 1),
            (f"lease acquisitions, eight per call, {_FEW} at a time", 8, _FEW),
        ):

            def ours(wants: int = wants, many: int = many) -> float:
                return office.per_second(
                    everybody[:many], lambda holder: holder.acquire(wants), bench.plan.book_seconds
                )

            found.append(_pairs(bench, name, "leases/s", ours, partial(books.bare, "updates", many)))
        with books.bare_calls() as call:
            found.append(_pairs(bench, BARE_CALL, "calls/s", call, partial(books.bare, "updates", _MANY)))
        return {"leases": tuple(found)}


def _pairs(
    bench: Bench, name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float]
) -> Pairs:
    return in_turn(name, unit, ours, theirs, bench.plan.pace.rounds)


@dataclass(frozen=True, slots=True)
class _Books:
    """A control plane on PostgreSQL, and plain statements there."""

    bench: Bench
    plane: ControlPlane
    channel: grpc.Channel
    conninfo: str

    def bare(self, what: str, threads: int) -> float:
        """So many a second, while the control plane stands still."""
        command = [sys.executable, "-m", "tests.benchmarks.programs.bare_sql", what, f"--threads={threads}"]
        command += [f"--conninfo={self.conninfo}", f"--seconds={self.bench.plan.book_seconds}"]
        with pinned(self.bench.server_core), self.plane.server.frozen():
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
                timeout=_PATIENCE_SECONDS,
            )
        found: float = json.loads(done.stdout)["per_second"]
        return found

    @contextmanager
    def bare_calls(self) -> Iterator[Callable[[], float]]:
        """So many a second of a statement behind a bare call, while the control plane stands still."""
        server = Server(
            "tests.benchmarks.programs.bare_call",
            f"--conninfo={self.conninfo}",
            f"--connections={_CONNECTIONS}",
            core=self.bench.server_core,
            log=self.bench.folder / "bare-call.log",
        )
        with server:
            server.wait_until(lambda: bool(server.announced()))
            with grpc.insecure_channel(f"127.0.0.1:{server.announced()['grpc']}") as channel:
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                    f"/{bare_call.SERVICE}/{bare_call.METHOD}"
                )

                def take(_caller: int) -> int:
                    call(b"", timeout=_PATIENCE_SECONDS)
                    return 1

                def per_second() -> float:
                    with self.plane.server.frozen():
                        return office.per_second(range(_MANY), take, self.bench.plan.book_seconds)

                yield per_second


@contextmanager
def _booking(bench: Bench) -> Iterator[_Books]:
    bench.say("PostgreSQL")
    with ExitStack() as stack:
        with pinned(bench.server_core):
            server = stack.enter_context(PostgresServer(durable=True))
        name = server.create_database()
        asyncio.run(upgrade(server.url(name)))
        plane = ControlPlane.start(
            bench.folder / f"plane-{server.port}",
            core=bench.server_core,
            database=server.url(name),
            yields=False,
        )
        stack.callback(plane.stop)
        plane.subscribe(_names())
        conninfo = f"host=127.0.0.1 port={server.port} user={SUPERUSER} dbname={name}"
        channel = stack.enter_context(grpc.insecure_channel(plane.grpc_address))
        yield _Books(bench, plane, channel, conninfo)


def _names() -> list[str]:
    return [f"cus_books_{number:03}" for number in range(_CUSTOMERS)]
