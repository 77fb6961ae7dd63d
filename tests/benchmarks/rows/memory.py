"""What a sidecar grows by, for each customer it comes to know."""

import time

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.catalog import PLAN, TEN
from tests.benchmarks.installation import CUSTOMERS
from tests.benchmarks.load import Load
from tests.benchmarks.raw import Memory

_GROUPS = 3
_SETTLE_SECONDS = 1.0  # for what a burst of cold customers left to do in the background


def measure(bench: Bench) -> dict[str, object]:
    """Customers with one entitlement, and with ten; each is asked about once."""
    return {"memory": (_growth(bench, "one entitlement", PLAN), _growth(bench, "ten entitlements", TEN))}


def _growth(bench: Bench, name: str, plan: str) -> Memory:
    """Of a process's own memory, by groups of customers that are new to it, with entitlements and balances."""
    count = bench.plan.customers // _GROUPS
    bench.say(f"memory of {bench.plan.customers} cached customers with {name}")
    names = bench.plane.populate(f"cus_memory_{plan}_", count * _GROUPS, plan)
    found: list[float] = []
    with bench.sidecar(f"memory-{plan}", "process_crash") as sidecar:
        load = Load(sidecar.port, in_flight=2)
        warm = payloads.new_batches(CUSTOMERS)
        load.run(warm.method, warm.bodies(), seconds=300, limit=100)
        time.sleep(_SETTLE_SECONDS)
        for first in range(0, len(names), count):
            group = names[first : first + count]
            batches = [payloads.batch(group[n : n + payloads.BATCH]) for n in range(0, count, payloads.BATCH)]
            bodies = [batch.bodies()(0) for batch in batches]
            before = sidecar.server.resident_bytes()
            sample = load.run(batches[0].method, lambda n, b=bodies: b[n], seconds=300, limit=len(bodies))  # type: ignore[misc]
            if sample.failures:
                raise payloads.WrongAnswer(f"{sample.failures} batches of cold customers failed")
            for answer in sample.answers:
                batches[0].verify(answer)
            time.sleep(_SETTLE_SECONDS)
            found.append((sidecar.server.resident_bytes() - before) / count)
    return Memory(name=name, customers=count * _GROUPS, bytes_per_customer=tuple(found))
