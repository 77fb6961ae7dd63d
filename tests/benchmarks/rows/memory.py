"""What a sidecar grows by, for each customer it comes to know: in use at first, at rest once others are.

The sidecar has room for so many customers in use as the first groups have. What it grows by with them is a customer in
use; with each of those that come later, another one comes to rest: that is what a cached customer takes for good.
"""

import time

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.catalog import PLAN, TEN
from tests.benchmarks.installation import CUSTOMERS, Sidecar
from tests.benchmarks.load import Load
from tests.benchmarks.raw import Memory

_GROUPS_IN_USE = 2
_GROUPS_CACHED = 3
_SETTLE_SECONDS = 1.0  # for what a burst of cold customers left to do in the background


def measure(bench: Bench) -> dict[str, object]:
    """Customers with one entitlement, and with ten; each is asked about once."""
    return {"memory": (_growth(bench, "one entitlement", PLAN), _growth(bench, "ten entitlements", TEN))}


def _growth(bench: Bench, name: str, plan: str) -> Memory:
    """Of a process's own memory, by groups of customers that are new to it, with entitlements and balances."""
    count = bench.plan.customers_in_group
    many = count * (_GROUPS_IN_USE + _GROUPS_CACHED)
    bench.say(f"memory of {many} cached customers with {name}")
    names = bench.plane.populate(f"cus_memory_{plan}_", many, plan)
    groups = [names[first : first + count] for first in range(0, many, count)]
    in_use_max = count * _GROUPS_IN_USE + len(CUSTOMERS)
    options = (f"--set=customers_in_use_max={in_use_max}",)
    with bench.sidecar(f"memory-{plan}", "process_crash", options=options) as sidecar:
        load = Load(sidecar.port, in_flight=2)
        warm = payloads.new_batches(CUSTOMERS)
        load.run(warm.method, warm.bodies(), seconds=300, limit=100)
        time.sleep(_SETTLE_SECONDS)
        grown = [_grown_by(sidecar, load, group) / count for group in groups]
    return Memory(
        name=name,
        customers=count * _GROUPS_CACHED,
        in_use_max=in_use_max,
        bytes_per_customer=tuple(grown[_GROUPS_IN_USE:]),
        bytes_in_use=tuple(grown[:_GROUPS_IN_USE]),
    )


def _grown_by(sidecar: Sidecar, load: Load, group: list[str]) -> int:
    """What the process has more, once it knows these."""
    batches = [payloads.batch(group[n : n + payloads.BATCH]) for n in range(0, len(group), payloads.BATCH)]
    bodies = [batch.bodies()(0) for batch in batches]
    before = sidecar.server.resident_bytes()
    sample = load.run(batches[0].method, lambda n: bodies[n], seconds=300, limit=len(bodies))
    if sample.failures:
        raise payloads.WrongAnswer(f"{sample.failures} batches of cold customers failed")
    for answer in sample.answers:
        batches[0].verify(answer)
    time.sleep(_SETTLE_SECONDS)
    return sidecar.server.resident_bytes() - before
