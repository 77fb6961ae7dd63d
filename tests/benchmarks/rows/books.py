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
from functools import partial

import grpc

from control_plane.db.migrate import upgrade
from tests.benchmarks import office
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import ControlPlane
from tests.benchmarks.measure import in_turn
from tests.benchmarks.office import Holder
from tests.benchmarks.processes import REPOSITORY, pinned
from tests.benchmarks.raw import Pairs
from tests.servers.postgres import SUPERUSER, PostgresServer

REPORTING = 4
_FEW, _MANY = 16, 64
_CUSTOMERS = 128
_PATIENCE_SECONDS = 120
REPORT = "ReportBatch, 500 records"
ACQUIRE = f"lease acquisitions, one per call, {_MANY} at a time"


def measure_reports(bench: Bench) -> dict[str, object]:
    """Events booked per second, beside events, keys and postings alone, and beside all rows of an event."""
    with _booking(bench) as (channel, bare):
        bench.say("ReportBatch into PostgreSQL")
        holders = office.holders(channel, _names(), REPORTING)
        ours = partial(office.per_second, holders, Holder.report, bench.plan.book_seconds)
        ours()  # the plain statements copy what it booked
        return {
            "reports": (
                _pairs(bench, REPORT, "events/s", ours, partial(bare, "inserts", REPORTING)),
                _pairs(
                    bench,
                    f"{REPORT}, beside all their rows",
                    "events/s",
                    ours,
                    partial(bare, "all-inserts", REPORTING),
                ),
            )
        }


def measure_leases(bench: Bench) -> dict[str, object]:
    """Leases per second, beside one row updated per transaction, with as many at a time."""
    with _booking(bench) as (channel, bare):
        bench.say("leases on PostgreSQL")
        everybody = office.holders(channel, _names(), _MANY)
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

            found.append(_pairs(bench, name, "leases/s", ours, partial(bare, "updates", many)))
        return {"leases": tuple(found)}


def _pairs(
    bench: Bench, name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float]
) -> Pairs:
    return in_turn(name, unit, ours, theirs, bench.plan.pace.rounds)


@contextmanager
def _booking(bench: Bench) -> Iterator[tuple[grpc.Channel, Callable[[str, int], float]]]:
    """A channel to a control plane on PostgreSQL, and what runs plain statements there."""
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

        def bare(what: str, threads: int) -> float:
            options = [
                f"--conninfo={conninfo}",
                f"--threads={threads}",
                f"--seconds={bench.plan.book_seconds}",
            ]
            command = [sys.executable, "-m", "tests.benchmarks.programs.bare_sql", what, *options]
            with pinned(bench.server_core), plane.server.frozen():
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

        yield stack.enter_context(grpc.insecure_channel(plane.grpc_address)), bare


def _names() -> list[str]:
    return [f"cus_books_{number:03}" for number in range(_CUSTOMERS)]
