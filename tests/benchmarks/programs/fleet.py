"""A fleet of sidecars, each in a process of its own: `python -m tests.benchmarks.programs.fleet --customers a,b,c …`,
one for each customer.

Each is a whole `sidecar.app.Sidecar`: its own outbox, its own connection and stream to the control plane, its own gRPC
port. After a line `REVISION LEVEL` each is asked by a gRPC client, with that `min_revision`, for the level of its
customer, so it answers with the first decision that rests on the revision. Prints `{"armed": REVISION}` once all have
been asked, and `{"revision": …, "answered_at": [seconds of CLOCK_MONOTONIC], "cpu_ms": [of each process, since it was
asked]}` once all have answered rightly.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from purser.v1 import decision_pb2 as d
from purser.v1 import entitlement_service_pb2 as s
from purser.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from sidecar.app import Sidecar, machine
from sidecar.config import settings_from
from sidecar.runtime.logs import set_up_logs

FEATURE = "level"
_TIMEOUT = 20
_FEW_THREADS = {"read_threads": 2, "write_threads": 2, "stream_threads": 1}  # of each; nobody else asks
_FORK = multiprocessing.get_context("fork")
"""Everything is imported once, and gRPC has not begun anything yet."""


class WrongAnswer(RuntimeError):
    """A sidecar did not decide by the revision, or not what that says."""


class Client:
    """Asks one sidecar for its customer's level."""

    def __init__(self, address: str, customer_id: str) -> None:
        self._customer_id = customer_id
        self._stub = EntitlementServiceStub(grpc.insecure_channel(address))

    def ask(self, revision: int = 0) -> "grpc.Future[s.CheckAccessResponse]":
        """What is decided once the revision is there."""
        request = s.CheckAccessRequest(
            customer_id=self._customer_id, feature=FEATURE, min_revision=revision or None
        )
        asked: grpc.Future[s.CheckAccessResponse] = self._stub.CheckAccess.future(request, timeout=_TIMEOUT)
        return asked

    def decision(self, asked: "grpc.Future[s.CheckAccessResponse]", revision: int) -> d.Decision:
        """The answer, asked for again as long as the revision is not there: a call waits for two seconds at most."""
        while (decision := asked.result().decision).reason == d.REASON_VIEW_TOO_OLD:
            asked = self.ask(revision)
        return decision


@contextmanager
def _sidecar(control_plane: str, folder: Path, customer_id: str) -> Iterator[Sidecar]:
    settings = settings_from(
        control_plane=control_plane,
        data=folder / customer_id,
        name=customer_id,
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        durability="process_crash",
        **_FEW_THREADS,
    )
    sidecar = Sidecar(settings, surroundings=machine(settings))
    sidecar.start()
    yield sidecar
    sidecar.stop(drain=False)


def _aboard(
    orders: Connection, parents: Connection, control_plane: str, folder: Path, customer_id: str
) -> None:
    """One process of the fleet. Ends with its parent, which alone holds the other end of `orders`: the one that was
    started last goes first, and lets go of those of the others that it was born with.
    """
    parents.close()
    set_up_logs(level="ERROR", service=customer_id)
    with _sidecar(control_plane, folder, customer_id) as sidecar:
        client = Client(sidecar.grpc_address, customer_id)
        client.ask().result()
        orders.send(None)
        while (order := _next(orders)) is not None:
            revision, level = order
            began = time.process_time()
            asked = client.ask(revision)
            orders.send(None)
            decision = client.decision(asked, revision)
            answered_at = time.monotonic()
            if not decision.allowed or decision.value.number != str(level):
                raise WrongAnswer(f"not the level {level} of revision {revision}: {decision!r}")
            orders.send((answered_at, (time.process_time() - began) * 1000))


def _next(orders: Connection) -> tuple[int, int] | None:
    """Revision and level; None: the parent has ended."""
    try:
        found: tuple[int, int] = orders.recv()
    except EOFError:
        return None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control-plane", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--customers", required=True)
    options = parser.parse_args()
    fleet: list[Connection] = []
    for name in options.customers.split(","):
        ours, theirs = _FORK.Pipe()
        _FORK.Process(target=_aboard, args=(theirs, ours, options.control_plane, options.data, name)).start()
        theirs.close()
        fleet.append(ours)
        ours.recv()  # one after another: on one core they would only wait for each other
    print(json.dumps({"ready": len(fleet)}), flush=True)
    for line in sys.stdin:
        revision, level = map(int, line.split())
        for orders in fleet:
            orders.send((revision, level))
        for orders in fleet:
            orders.recv()
        print(json.dumps({"armed": revision}), flush=True)
        answered_at, cpu_ms = zip(*(orders.recv() for orders in fleet), strict=True)
        print(json.dumps({"revision": revision, "answered_at": answered_at, "cpu_ms": cpu_ms}), flush=True)
    for orders in reversed(fleet):
        orders.close()


if __name__ == "__main__":
    main()
