"""What the books say of a customer: balances, transactions with their postings, usage in sum."""

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import Row, func, select
from starlette.responses import Response

from control_plane.customers.records import get_customer
from control_plane.db.types import from_micros, to_micros
from control_plane.ledger.balances import Standing, standings
from control_plane.ledger.tables import postings, transactions
from control_plane.rest.changes import database_of, respond
from control_plane.rest.forms import Instant, amount, instant
from control_plane.rest.paging import Cursor, Limit, comes_after, decode, page
from control_plane.rest.scales import Scales
from control_plane.usage.tables import event_charges, event_costs, events

router = APIRouter(prefix="/customers/{customer_id}", tags=["books"])

TERMS = ("granted", "available", "leased", "quarantined", "spent", "presumed", "ended", "overage")

Since = Annotated[Instant | None, Query(description="Only what occurred at or after this.")]
Until = Annotated[Instant | None, Query(description="Only what occurred before this.")]


@router.get("/balances", summary="How a customer's balances stand now")
async def read_balances(request: Request, customer_id: str) -> Response:
    async with database_of(request).read() as uow:
        await get_customer(uow, customer_id)
        items = [_standing(standing) for standing in await standings(uow, customer_id)]
    return respond({"items": items, "next_cursor": None})


@router.get("/ledger", summary="A customer's transactions, oldest first, with their postings")
async def read_ledger(
    request: Request, customer_id: str, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    after_at, after_id = decode(cursor, (0, ""))
    recorded_at, identity = transactions.c.recorded_at, transactions.c.id
    wanted = (
        select(transactions)
        .where(transactions.c.customer_id == customer_id)
        .where(comes_after(recorded_at, from_micros(after_at), identity, after_id))
        .order_by(transactions.c.recorded_at, transactions.c.id)
        .limit(limit + 1)
    )
    async with database_of(request).read() as uow:
        await get_customer(uow, customer_id)
        rows = (await uow.connection.execute(wanted)).all()
        lines: list[Row[Any]] = []
        ids = [row.id for row in rows]
        for start in range(0, len(ids), 500):
            some = select(postings).where(postings.c.transaction_id.in_(ids[start : start + 500]))
            ordered = some.order_by(postings.c.transaction_id, postings.c.line)
            lines += (await uow.connection.execute(ordered)).all()
        scales = await Scales.read(uow, {line.balance_id for line in lines})
        shown: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in lines:
            shown[line.transaction_id].append(await posting(scales, line))
    items = [{**transaction(row), "postings": shown[row.id]} for row in rows]
    return respond(page(items, [(to_micros(row.recorded_at), row.id) for row in rows], limit))


@router.get("/usage", summary="What a customer used, per feature and balance, and what it cost")
async def read_usage(
    request: Request, customer_id: str, since: Since = None, until: Until = None
) -> Response:
    mine = events.c.customer_id == customer_id
    if since is not None:
        mine &= events.c.occurred_at >= since
    if until is not None:
        mine &= events.c.occurred_at < until
    charged = (
        select(
            event_charges.c.feature,
            event_charges.c.balance_id,
            func.count().label("events"),
            func.sum(event_charges.c.covered + event_charges.c.uncovered).label("used"),
        )
        .join(events, events.c.uid == event_charges.c.event_uid)
        .where(mine)
        .group_by(event_charges.c.feature, event_charges.c.balance_id)
        .order_by(event_charges.c.feature, event_charges.c.balance_id)
    )
    cost = event_costs.c
    costs = (
        select(
            *(cost.feature, cost.rate_card, cost.unit, func.max(cost.catalog_revision).label("revision")),
            func.count().label("events"),
            func.sum(cost.amount).label("amount"),
            func.sum(cost.billed).label("billed"),
        )
        .join(events, events.c.uid == cost.event_uid)
        .where(mine)
        .group_by(cost.feature, cost.rate_card, cost.unit)
        .order_by(cost.feature, cost.rate_card, cost.unit)
    )
    async with database_of(request).read() as uow:
        await get_customer(uow, customer_id)
        charges = (await uow.connection.execute(charged)).all()
        scales = await Scales.read(uow, {row.balance_id for row in charges})
        items = [
            {
                "feature": row.feature,
                "balance": scales.name(row.balance_id),
                "events": row.events,
                "used": scales.of_balance(int(row.used), row.balance_id),
            }
            for row in charges
        ]
        cost_items = [
            {
                "feature": row.feature,
                "rate_card": row.rate_card,
                "events": row.events,
                "cost": await scales.of_unit(int(row.amount), row.unit, None, row.revision),
                "billed": await scales.of_unit(int(row.billed), row.unit, None, row.revision),
            }
            for row in (await uow.connection.execute(costs)).all()
        ]
    return respond({"items": items, "costs": cost_items, "next_cursor": None})


def transaction(row: Row[Any]) -> dict[str, Any]:
    """A transaction as JSON, without its postings."""
    return {
        "id": row.id,
        "cause": row.cause,
        "customer_id": row.customer_id,
        "event_uid": row.event_uid,
        "decision_id": row.decision_id,
        "reference": row.reference,
        "occurred_at": instant(row.occurred_at),
        "recorded_at": instant(row.recorded_at),
    }


async def posting(scales: Scales, line: Row[Any]) -> dict[str, Any]:
    """A posting as JSON."""
    return {
        "line": line.line,
        "account": line.account,
        "amount": await scales.of_unit(line.amount, line.unit, line.balance_id, line.catalog_revision),
        "balance": scales.name(line.balance_id),
        "grant_id": line.grant_id,
        "lease_id": line.lease_id,
        "feature": line.feature,
        "rate_card": line.rate_card,
        "catalog_revision": line.catalog_revision,
    }


def _standing(standing: Standing) -> dict[str, Any]:
    row = standing.row
    return {
        "balance": row.name,
        "customer_id": row.customer_id,
        "subject_id": row.subject_id or None,
        "kind": row.kind,
        "unit": row.unit,
        **{term: amount(getattr(standing, term), row.scale) for term in TERMS},
        "period_start": instant(standing.period_start),
        "period_end": instant(standing.period_end),
        "next_expiry_at": instant(standing.next_expiry_at),
    }
