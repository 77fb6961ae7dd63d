"""Every verb in a closed loop, without and with upload, beside the yardstick."""

from sidecar.config import write_threads
from sidecar.outbox.port import Durability
from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import CUSTOMER, CUSTOMERS, Sidecar
from tests.benchmarks.payloads import Scenario
from tests.benchmarks.raw import Calls
from tests.benchmarks.stage import Target, uploads_counted


def measure(bench: Bench) -> dict[str, object]:
    """Also the bare server on the standard library's pool, which costs a little more than the sidecar's; and one that
    keeps each request on the disk before it answers, which is the least that `power_loss` takes.
    """
    found: list[Calls] = []
    bench.say("the bare server")
    with bench.echo("standard", "the same, ThreadPoolExecutor") as target:
        found += bench.compared(target.server, [target])
    writers = write_threads({"durability": Durability.POWER_LOSS})
    with bench.echo(
        "sidecar's writes", "the same, each request durable", threads=writers, durable=True
    ) as target:
        found += bench.compared(target.server, [target])
    uploaded: dict[str, float] = {}
    for durability in ("process_crash", "power_loss"):
        scenarios = [payloads.consume(CUSTOMER, durability)]
        if durability == "process_crash":
            scenarios.append(payloads.new_consumes(CUSTOMER, durability))
            kinds = (payloads.check, payloads.new_checks, payloads.batch, payloads.new_batches)
            scenarios += [kind(CUSTOMERS) for kind in kinds]
        with bench.sidecar(durability, durability) as sidecar:
            bench.say(f"{durability}, upload stopped")
            found += _compared(bench, sidecar, scenarios, uploading=False)
            bench.say(f"{durability}, upload running")
            booked: list[float] = []
            with uploads_counted(sidecar, booked):
                found += _compared(bench, sidecar, scenarios, uploading=True)
            (uploaded[durability],) = booked
    return {"calls": tuple(found), "uploaded_per_second": uploaded}


def _compared(bench: Bench, sidecar: Sidecar, scenarios: list[Scenario], *, uploading: bool) -> list[Calls]:
    targets = [Target(sidecar.server, sidecar.port, scenario) for scenario in scenarios]
    return bench.compared(sidecar.server, targets, bench.stage(sidecar, uploading=uploading))
