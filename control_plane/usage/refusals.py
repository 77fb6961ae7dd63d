"""Refusals: counts per customer, feature, reason and minute, and the last explanations. A lossy channel apart
from usage.
"""

from collections import defaultdict
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.holding import insert_missing
from control_plane.usage.records import instant
from control_plane.usage.tables import refusal_samples, refusals
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import decision_pb2 as answers

SAMPLES_KEPT: Final = 100


async def report_refusals(
    uow: UnitOfWork, request: sync.ReportRefusalsRequest
) -> sync.ReportRefusalsResponse:
    """Adds counts up, and keeps the last 100 samples per customer."""
    sums: defaultdict[tuple[Any, ...], int] = defaultdict(int)
    for count in request.counts:
        reason = _named(count.reason)
        sums[count.customer_id, count.feature, reason, instant(count.minute)] += max(0, count.count)
    rows = [
        {"customer_id": key[0], "feature": key[1], "reason": key[2], "minute": key[3], "count": count}
        for key, count in sorted(sums.items())
    ]
    if rows:
        into = (postgresql if uow.connection.dialect.name == "postgresql" else sqlite).insert(refusals)
        added = into.on_conflict_do_update(
            index_elements=["customer_id", "feature", "reason", "minute"],
            set_={"count": refusals.c.count + into.excluded.count},
        )
        await uow.connection.execute(added, rows)
    await _keep_samples(uow, request)
    return sync.ReportRefusalsResponse()


def _named(reason: int) -> str:
    """A newer sidecar may know reasons that this version does not: they are counted by their number."""
    known = answers.Reason.DESCRIPTOR.values_by_number.get(reason)
    return str(reason) if known is None else str(known.name).removeprefix("REASON_")


async def _keep_samples(uow: UnitOfWork, request: sync.ReportRefusalsRequest) -> None:
    rows = [
        {
            "decision_id": sample.decision.decision_id,
            "customer_id": sample.customer_id,
            "feature": sample.feature,
            "at": instant(sample.at),
            "decision": sample.decision.SerializeToString(),
        }
        for sample in request.samples
    ]
    if not rows:
        return
    await uow.connection.execute(insert_missing(uow, refusal_samples), rows)
    for customer_id in sorted({sample.customer_id for sample in request.samples}):
        oldest_kept = (
            select(refusal_samples.c.at)
            .where(refusal_samples.c.customer_id == customer_id)
            .order_by(refusal_samples.c.at.desc())
            .offset(SAMPLES_KEPT - 1)
            .limit(1)
            .scalar_subquery()
        )
        too_old = delete(refusal_samples).where(
            refusal_samples.c.customer_id == customer_id, refusal_samples.c.at < oldest_kept
        )
        await uow.connection.execute(too_old)


async def count_refusals(uow: UnitOfWork, customer_id: str | None = None) -> dict[str, int]:
    """How often was refused, by reason; of one customer or of all."""
    query = select(refusals.c.reason, func.sum(refusals.c.count)).group_by(refusals.c.reason)
    if customer_id is not None:
        query = query.where(refusals.c.customer_id == customer_id)
    return {reason: int(count) for reason, count in await uow.connection.execute(query)}
