"""Many sidecars in one process: `python -m tests.benchmarks.programs.fleet --customers a,b,c …`, one for each customer.

Each is a whole `sidecar.app.Sidecar`: its own outbox, its own connection and stream to the control plane, its own gRPC
port. After a line `REVISION LEVEL` each is asked by a gRPC client, with that `min_revision`, for the level of its
customer, so it answers with the first decision that rests on the revision. Prints `{"armed": N}` once all have been
asked, and `{"revision": …, "answered_at": [seconds of CLOCK_MONOTONIC]}` once all have answered rightly.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc

from purser.v1 import decision_pb2 as d
from purser.v1 import entitlement_service_pb2 as s
from purser.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from sidecar.app import Sidecar, machine
from sidecar.config import settings_from
from sidecar.runtime.logs import set_up_logs
from tests.servers.crowd import NOT_SHARED, own_channel

FEATURE = "level"
_TIMEOUT = 20
_FEW_THREADS = {"read_threads": 2, "write_threads": 2, "stream_threads": 1}  # of each; nobody else asks


class Aboard:
    """One sidecar, and an app beside it."""

    def __init__(self, control_plane: str, folder: Path, customer_id: str) -> None:
        settings = settings_from(
            control_plane=control_plane,
            data=folder / customer_id,
            name=customer_id,
            grpc="127.0.0.1:0",
            http="127.0.0.1:0",
            durability="process_crash",
            **_FEW_THREADS,
        )
        self._customer_id = customer_id
        self.sidecar = Sidecar(
            settings, surroundings=replace(machine(settings), open_channel=lambda: own_channel(settings))
        )
        self.sidecar.start()
        self._channel = grpc.insecure_channel(self.sidecar.grpc_address, options=[NOT_SHARED])
        self._stub = EntitlementServiceStub(self._channel)

    def ask(self, revision: int = 0) -> "grpc.Future[s.CheckAccessResponse]":
        """For the level, once the revision is there."""
        request = s.CheckAccessRequest(
            customer_id=self._customer_id, feature=FEATURE, min_revision=revision or None
        )
        asked: grpc.Future[s.CheckAccessResponse] = self._stub.CheckAccess.future(request, timeout=_TIMEOUT)
        return asked

    def stop(self) -> None:
        self._channel.close()
        self.sidecar.stop(drain=False)


class Answers:
    """When each of a fleet gave the first decision by a revision, and what it was."""

    def __init__(self, fleet: Sequence[Aboard], revision: int) -> None:
        """Asks them all."""
        self._revision = revision
        self._answered_at = [0.0] * len(fleet)
        self._decisions: list[d.Decision | BaseException] = [d.Decision()] * len(fleet)
        self._left = threading.Semaphore(0)
        for number, aboard in enumerate(fleet):
            self._ask(number, aboard)

    def wait(self, level: int) -> list[float]:
        """Seconds of CLOCK_MONOTONIC; all have decided by that level, or the process ends."""
        for _ in self._answered_at:
            self._left.acquire()
        for decision in self._decisions:
            number = decision.value.number if isinstance(decision, d.Decision) and decision.allowed else None
            if number != str(level):
                sys.exit(f"not the level {level} of revision {self._revision}: {decision!r}")
        return self._answered_at

    def _ask(self, number: int, aboard: Aboard) -> None:
        def note(call: "grpc.Future[s.CheckAccessResponse]") -> None:
            error = call.exception()
            decision = call.result().decision if error is None else error
            # A call waits for two seconds at most.
            if isinstance(decision, d.Decision) and decision.reason == d.REASON_VIEW_TOO_OLD:
                self._ask(number, aboard)
                return
            self._answered_at[number], self._decisions[number] = time.monotonic(), decision
            self._left.release()

        aboard.ask(self._revision).add_done_callback(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control-plane", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--customers", required=True)
    options = parser.parse_args()
    set_up_logs(level="ERROR", service="fleet")
    names = options.customers.split(",")
    fleet = [Aboard(options.control_plane, options.data, name) for name in names]
    for aboard in fleet:
        aboard.ask().result()
    print(json.dumps({"ready": len(fleet)}), flush=True)
    for line in sys.stdin:
        revision, level = map(int, line.split())
        answers = Answers(fleet, revision)
        print(json.dumps({"armed": revision}), flush=True)
        print(json.dumps({"revision": revision, "answered_at": answers.wait(level)}), flush=True)
    for aboard in fleet:
        aboard.stop()


if __name__ == "__main__":
    main()
