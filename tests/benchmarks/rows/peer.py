"""Our checks beside the checks of Cerbos, each alone on the core."""

from contextlib import ExitStack

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import CUSTOMERS
from tests.benchmarks.measure import in_turn
from tests.benchmarks.peer import cerbos
from tests.benchmarks.raw import Pairs, Peer
from tests.benchmarks.stage import Target, one_round


def measure(bench: Bench) -> dict[str, object]:
    """In turn; where Cerbos can not be had, why."""
    bench.say("Cerbos")
    with ExitStack() as stack:
        try:
            peer = stack.enter_context(cerbos.serving(bench.folder / "peer", bench.server_core))
        except cerbos.NoPeer as error:
            return {"peer": Peer(version=cerbos.VERSION, why_not=str(error))}
        sidecar = stack.enter_context(bench.sidecar("beside-the-peer", "power_loss"))
        target = Target(sidecar.server, sidecar.port, payloads.check(CUSTOMERS))
        pace = bench.plan.pace
        cpu: dict[str, list[float]] = {"ours": [], "theirs": []}

        def round_of(whose: str, asked: Target, other: Target) -> float:
            with other.server.frozen():
                one_round(asked, seconds=pace.warm_seconds, in_flight=pace.in_flight)
                sample, used = one_round(asked, seconds=pace.seconds, in_flight=pace.in_flight)
            cpu[whose].append(used / sample.calls * 1e6)
            return sample.calls_per_second

        pairs = in_turn(
            "CheckAccess",
            "calls/s",
            lambda: round_of("ours", target, peer),
            lambda: round_of("theirs", peer, target),
            pace.rounds,
        )
    used = Pairs(
        name="CheckAccess", unit="µs of CPU time", ours=tuple(cpu["ours"]), theirs=tuple(cpu["theirs"])
    )
    return {"peer": Peer(version=cerbos.VERSION, calls_per_second=pairs, cpu_us_per_call=used)}
