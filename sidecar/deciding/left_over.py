"""What earlier processes on this disk have charged and not reported yet: a start shows it as used."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from purser.sync.v1 import usage_pb2 as sync
from sidecar.deciding.asked import make_event
from sidecar.deciding.errors import Malformed
from sidecar.deciding.judging import billed
from sidecar.deciding.report import touched
from sidecar.engine.bill import bill
from sidecar.engine.values import BalanceRef
from sidecar.outbox.port import Incarnation
from sidecar.outbox.shelf import Shelf
from sidecar.view.memory import View
from sidecar.view.states import instant

RECORDS_MAX: Final = 20_000
"""Of one process; a start does not wait for more to be read."""
BYTES_MAX: Final = 1 << 26


def left_over(
    shelf: Shelf, unsent: Iterable[Incarnation], view: View, now: datetime
) -> dict[BalanceRef, int]:
    """Sums by balance at its scale, as far as the view knows the customers. `unsent`: who wrote what is not sent."""
    sums: defaultdict[BalanceRef, int] = defaultdict(int)
    for earlier in unsent:
        batch = shelf.read_batch(earlier.incarnation_id, max_records=RECORDS_MAX, max_bytes=BYTES_MAX)
        if batch is None:
            continue
        for record in sync.ReportBatchRequest.FromString(batch.payload).records:
            if record.HasField("usage"):
                _add(sums, record.usage, view, now)
    return {ref: amount for ref, amount in sums.items() if amount}


def _add(sums: dict[BalanceRef, int], usage: sync.Usage, view: View, now: datetime) -> None:
    entry = view.customer(usage.event.customer_id)
    if entry is None or not entry.exists:
        return
    entitlements = view.compiled(entry, now).entitlements
    if not usage.decided:
        event = make_event(
            usage.event,
            customer_id=usage.event.customer_id,
            subject_id=usage.event.subject_id,
            occurred_at=instant(usage.event.occurred_at),
        )
        try:
            charges = billed(lambda by: bill(by, event=event), entitlements, "event").charges
        except Malformed:
            return  # the books will say what is wrong with it
        for ref, amount in touched(charges).items():
            sums[ref] += amount
        return
    for charge in usage.charges:
        ref = BalanceRef(charge.ref.customer_id, charge.ref.subject_id, charge.ref.balance)
        spec = entitlements.balances.get(ref.balance)
        if spec is not None and not spec.decided_remotely:
            sums[ref] += charge.uncovered + sum(part.amount for part in charge.covered)
