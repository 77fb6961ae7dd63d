"""Many sidecars in one process, whole but for their ports: `python -m tests.e2e.herd.flock --sidecars 100 …`.

Each has its own outbox, session, stream and connection to the control plane. Callers are threads of this process, which
consume one credit now and then through the verbs of each. For every line that comes in, a line of JSON says how they
are.
"""

import argparse
import itertools
import json
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.app import Sidecar, machine
from sidecar.config import Settings, settings_from
from sidecar.edge import Inside
from sidecar.engine.decision import ViewSource
from sidecar.rpc.service import EntitlementService
from sidecar.runtime.logs import set_up_logs
from sidecar.runtime.trouble import NotWritten, Overloaded
from tests.e2e.herd.names import customer_of
from tests.servers.crowd import NoEdge, own_channel

CALLERS: Final = 4
CALL_SECONDS: Final = 2.0


class Patience:
    """What a verb needs of a call."""

    def time_remaining(self) -> float:
        """See grpc."""
        return CALL_SECONDS


class Member:
    """One sidecar, and what it is asked."""

    def __init__(self, control_plane: str, folder: Path, number: int) -> None:
        name = f"member-{number}"
        settings = settings_from(
            control_plane=control_plane, data=folder / name, name=name, durability="process_crash"
        )
        inside: list[Inside] = []

        def edge(_: Settings, served: Inside) -> NoEdge:
            inside.append(served)
            return NoEdge()

        around = replace(machine(settings), open_channel=lambda: own_channel(settings), edge=edge)
        self.sidecar = Sidecar(settings, surroundings=around)
        (self._inside,) = inside
        self._service = EntitlementService(self._inside.verbs)
        self._customer_id = customer_of(number)
        self._keys = (f"{name}-{number}" for number in itertools.count())
        self.sidecar.start()

    @property
    def is_live(self) -> bool:
        """Does it hear the control plane?"""
        pulse = self._inside.view.pulse
        return pulse.source(self._inside.clock.monotonic()) is ViewSource.LIVE

    @property
    def returns(self) -> int:
        """How often its stream came (back)."""
        return self._inside.view.pulse.returns

    def consume(self) -> str:
        """One credit: what became of it."""
        event = usage.UsageEvent(
            idempotency_key=next(self._keys),
            customer_id=self._customer_id,
            event_name="job",
            measures={"points": "1"},
        )
        context: Any = Patience()
        try:
            answer = self._service.consume_usage(api.ConsumeUsageRequest(event=event), context)
        except (Overloaded, NotWritten):
            return "turned away"
        response = api.ConsumeUsageResponse.FromString(answer)
        return "accepted" if response.status == api.USAGE_STATUS_ACCEPTED else "refused"


@dataclass(slots=True)
class Flock:
    """All of them, and their callers."""

    members: list[Member]
    pause_seconds: float
    told: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def call(self, first: int) -> None:
        """Asks every fourth of them in turn, until it is over."""
        mine = self.members[first::CALLERS]
        for member in itertools.cycle(mine):
            if self.stopped.wait(self.pause_seconds / max(1, len(mine))):
                return
            told = member.consume()
            with self.lock:
                self.told[told] += 1

    def look(self) -> dict[str, object]:
        """How they are."""
        with self.lock:
            told = dict(self.told)
        return {
            "live": sum(member.is_live for member in self.members),
            "returns": sum(member.returns for member in self.members),
            "unsent": sum(member.sidecar._unsent() for member in self.members),
            **told,
        }


def main() -> None:
    os.nice(5)  # the control plane has a machine of its own, in life
    # Each thread that waits for the interpreter's lock asks for it so often, and here are a thousand threads: at 5 ms,
    # the default, a process that once had too much to do was busy with asking alone.
    sys.setswitchinterval(0.1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control-plane", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--sidecars", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True, help="seconds between two calls of one sidecar")
    options = parser.parse_args()
    set_up_logs(level="ERROR", service="flock")
    numbers = range(options.first, options.first + options.sidecars)
    flock = Flock([Member(options.control_plane, options.data, n) for n in numbers], options.pause)
    callers = [threading.Thread(target=flock.call, args=(n,), daemon=True) for n in range(CALLERS)]
    for caller in callers:
        caller.start()
    for line in sys.stdin:
        if line.strip() == "stop":
            flock.stopped.set()
            for caller in callers:
                caller.join()
        print(json.dumps(flock.look()), flush=True)
    for member in flock.members:
        member.sidecar.stop(drain=False)


if __name__ == "__main__":
    main()
