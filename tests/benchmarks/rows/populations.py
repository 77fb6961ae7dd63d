"""A sidecar with a bounded cache, of control planes that know few customers and many.

Of every `COLD_EVERY` calls one asks about the next customer in a walk through all that there are, so it is never in the
cache: it is fetched, and somebody else is forgotten. The other calls ask about `HOT` customers that stay. So the mix is
the same whatever the number of customers; what it costs the sidecar should be, too.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import ControlPlane
from tests.benchmarks.load import BodyMaker
from tests.benchmarks.payloads import Scenario
from tests.benchmarks.raw import Population, Populations
from tests.benchmarks.stage import Target, one_round

CUSTOMERS_MAX = 400
HOT = 200
COLD_EVERY = 500
_PREFIX = "cus_"


def measure(bench: Bench) -> dict[str, object]:
    """All of them run; rounds take turns."""
    pace = bench.plan.pace
    sizes = bench.plan.populations
    cpu: list[list[float]] = [[] for _ in sizes]
    rates: list[list[float]] = [[] for _ in sizes]
    with ExitStack() as stack:
        targets = [_serving(bench, stack, customers) for customers in sizes]
        for _ in range(pace.rounds):
            for target, used_us, rate in zip(targets, cpu, rates, strict=True):
                bench.say(f"rounds of {target.scenario.name}")
                one_round(target, seconds=pace.warm_seconds, in_flight=pace.in_flight)
                sample, used = one_round(target, seconds=2 * pace.seconds, in_flight=pace.in_flight)
                used_us.append(used / sample.calls * 1e6)
                rate.append(sample.calls_per_second)
    rows = tuple(
        Population(customers=customers, server_us_per_call=tuple(used_us), calls_per_second=tuple(rate))
        for customers, used_us, rate in zip(sizes, cpu, rates, strict=True)
    )
    found = Populations(customers_max=CUSTOMERS_MAX, hot=HOT, cold_every=COLD_EVERY, rows=rows)
    return {"populations": found}


def _serving(bench: Bench, stack: ExitStack, customers: int) -> Target:
    bench.say(f"a control plane that knows {customers:,} customers")
    name = f"population-{customers}"
    plane = ControlPlane.start(bench.folder / f"{name}-plane", core=bench.load_core)
    stack.callback(plane.stop)
    names = plane.populate(_PREFIX, customers)
    options = (f"--set=customers_max={CUSTOMERS_MAX}",)
    sidecar = stack.enter_context(bench.sidecar(name, "process_crash", plane=plane, options=options))
    sidecar.meet(names[:HOT])
    return Target(sidecar.server, sidecar.port, walk(names[:HOT], names[HOT:], f"{customers:,} customers"))


def walk(hot: Sequence[str], cold: Sequence[str], name: str) -> Scenario:
    """Checks of the hot ones in turn, and among them one of the cold ones, each once before any comes again."""
    warm = [payloads.check_request(customer_id).SerializeToString() for customer_id in hot]
    steps = count()

    def bodies() -> BodyMaker:
        def body(number: int) -> bytes:
            if number % COLD_EVERY == COLD_EVERY - 1:
                return payloads.check_request(cold[next(steps) % len(cold)]).SerializeToString()
            return warm[number % len(warm)]

        return body

    check = payloads.check(hot)
    return Scenario(name, check.method, bodies, check.verify)
