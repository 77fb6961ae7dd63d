"""Transactions with their postings as JSON: each says by itself which event it books, and what that was rated by."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.tables import postings
from control_plane.rest.forms import instant
from control_plane.rest.scales import Scales
from control_plane.usage.tables import event_costs, events


async def shown(uow: UnitOfWork, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Rows of `transactions` as JSON, in their order."""
    lines: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    theirs = select(postings).where(among(postings.c.transaction_id, (row.id for row in rows)))
    for line in await uow.connection.execute(theirs.order_by(postings.c.transaction_id, postings.c.line)):
        lines[line.transaction_id].append(line)
    scales = await Scales.read(uow, {line.balance_id for each in lines.values() for line in each})
    sources = await _Sources.read(uow, {row.event_uid for row in rows if row.event_uid})
    return [
        {
            "id": row.id,
            "cause": row.cause,
            "customer_id": row.customer_id,
            "event_uid": row.event_uid,
            "idempotency_key": sources.key(row),
            "decision_id": row.decision_id,
            "reference": row.reference,
            "occurred_at": instant(row.occurred_at),
            "recorded_at": instant(row.recorded_at),
            "postings": [await _posting(scales, sources, row, line) for line in lines[row.id]],
        }
        for row in rows
    ]


class _Sources:
    """Made for one answer: the keys of events, and what rated them."""

    def __init__(self, keys: dict[str, str], rated: dict[tuple[str, str], Row[Any]]) -> None:
        self._keys = keys
        self._rated = rated

    @classmethod
    async def read(cls, uow: UnitOfWork, uids: set[str]) -> "_Sources":
        cost = event_costs.c
        rated: dict[tuple[str, str], Row[Any]] = {}
        found = select(events.c.uid, events.c.idempotency_key).where(among(events.c.uid, uids))
        keys = {row.uid: row.idempotency_key for row in await uow.connection.execute(found)}
        costs = select(cost.event_uid, cost.feature, cost.rate_card, cost.catalog_revision)
        rows = await uow.connection.execute(costs.where(among(cost.event_uid, uids)))
        rated |= {(row.event_uid, row.feature): row for row in rows}
        return cls(keys, rated)

    def key(self, transaction: Row[Any]) -> str | None:
        return self._keys.get(transaction.event_uid)

    def rated_by(self, transaction: Row[Any], line: Row[Any]) -> tuple[str | None, int | None]:
        """The card and the catalog revision that the event's cost for this feature comes from."""
        if line.rate_card is not None:
            return line.rate_card, line.catalog_revision
        found = self._rated.get((transaction.event_uid, line.feature))
        return (None, None) if found is None else (found.rate_card, found.catalog_revision)


async def _posting(
    scales: Scales, sources: _Sources, transaction: Row[Any], line: Row[Any]
) -> dict[str, Any]:
    rate_card, revision = sources.rated_by(transaction, line)
    return {
        "line": line.line,
        "account": line.account,
        "amount": await scales.of_unit(line.amount, line.unit, line.balance_id, revision),
        "balance": scales.name(line.balance_id),
        "grant_id": line.grant_id,
        "lease_id": line.lease_id,
        "feature": line.feature,
        "idempotency_key": sources.key(transaction),
        "rate_card": rate_card,
        "catalog_revision": revision,
    }
