"""trace/{id}: what hangs together with a decision, event, key, transaction, lease, grant or reservation."""

from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import or_, select
from starlette.responses import Response

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import NotFound, NothingBooked
from control_plane.ledger.tables import postings, transactions
from control_plane.rest import events as event_forms
from control_plane.rest import postings as posting_forms
from control_plane.rest.changes import database_of, respond
from control_plane.rest.scales import Scales
from control_plane.usage.tables import event_charges, events

router = APIRouter(prefix="/trace", tags=["trace"])

TRACED = "decision, event, key, transaction, lease, grant or reservation"
MOST = 200
"""Events and transactions in one answer."""


@router.get("/{id:path}", summary="Follow a charge from its decision to its postings, and back")
async def read_trace(request: Request, id: str) -> Response:  # noqa: A002 - the name in the contract
    async with database_of(request).read() as uow:
        return respond(await trace(uow, id))


async def trace(uow: UnitOfWork, identity: str) -> dict[str, Any]:
    """Events with their charges, and transactions with their postings. Raises NotFound, NothingBooked."""
    if not identity:  # which is what everything has that lacks a decision or a correlation id
        raise NotFound(TRACED, identity)
    posted = postings.c
    lines = select(posted.transaction_id).where(
        or_(posted.grant_id == identity, posted.lease_id == identity, posted.transaction_id == identity)
    )
    found = transactions.c
    seeds = (
        await uow.connection.execute(
            select(found.id, found.event_uid, found.decision_id)
            .where(
                or_(
                    found.id.in_(lines),
                    found.id == identity,
                    found.event_uid == identity,
                    found.decision_id == identity,
                    found.reference == identity,
                )
            )
            .order_by(found.recorded_at, found.id)
            .limit(MOST)
        )
    ).all()
    uids = {row.event_uid for row in seeds if row.event_uid}
    event_rows = (
        await uow.connection.execute(
            select(events)
            .where(
                or_(
                    events.c.uid.in_(sorted(uids | {identity})),
                    events.c.decision_id == identity,
                    events.c.idempotency_key.in_((identity, f"{identity}#late")),  # settled after its end
                    events.c.correlation_id == identity,
                )
            )
            .order_by(events.c.recorded_at, events.c.uid)
            .limit(MOST)
        )
    ).all()
    uids |= {row.uid for row in event_rows}
    transaction_ids = {row.id for row in seeds} | {
        row.transaction_id for row in event_rows if row.transaction_id
    }
    if not event_rows and not transaction_ids:
        raise NothingBooked(TRACED, identity)
    return {
        "id": identity,
        "events": await _with_charges(uow, await event_forms.shown(uow, event_rows)),
        "transactions": await _transactions(uow, transaction_ids, uids),
    }


async def _with_charges(uow: UnitOfWork, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = (
        await uow.connection.execute(
            select(event_charges)
            .where(event_charges.c.event_uid.in_([item["uid"] for item in items]))
            .order_by(event_charges.c.event_uid, event_charges.c.line)
        )
    ).all()
    scales = await Scales.read(uow, {row.balance_id for row in rows})
    return [
        {
            **item,
            "charges": [
                {
                    "balance": scales.name(row.balance_id),
                    "feature": row.feature,
                    "covered": scales.of_balance(row.covered, row.balance_id),
                    "uncovered": scales.of_balance(row.uncovered, row.balance_id),
                    "exact": row.exact,
                }
                for row in rows
                if row.event_uid == item["uid"]
            ],
        }
        for item in items
    ]


async def _transactions(
    uow: UnitOfWork, transaction_ids: set[str], event_uids: set[str]
) -> list[dict[str, Any]]:
    rows = (
        await uow.connection.execute(
            select(transactions)
            .where(
                or_(
                    transactions.c.id.in_(sorted(transaction_ids)),
                    transactions.c.event_uid.in_(sorted(event_uids)),
                )
            )
            .order_by(transactions.c.recorded_at, transactions.c.id)
            .limit(MOST)
        )
    ).all()
    return await posting_forms.shown(uow, rows)
