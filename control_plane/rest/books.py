"""What the books say of a customer: balances, transactions with their postings, usage in sum."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import func, select
from starlette.responses import Response

from control_plane.customers.records import get_customer
from control_plane.db.types import from_micros, to_micros
from control_plane.ledger.balances import Standing, standings
from control_plane.ledger.tables import transactions
from control_plane.rest import postings
from control_plane.rest.changes import database_of, respond
from control_plane.rest.forms import Instant, amount, instant
from control_plane.rest.paging import (
    MAX_LIMIT,
    Cursor,
    Limit,
    LimitOfAll,
    comes_after,
    decode,
    page,
    page_of_all,
)
from control_plane.rest.scales import Scales
from control_plane.usage.tables import event_charges, event_costs, events

router = APIRouter(prefix="/customers/{customer_id}", tags=["books"])

TERMS = ("granted", "available", "leased", "quarantined", "spent", "presumed", "ended", "overage")

Since = Annotated[Instant | None, Query(description="Only what occurred at or after this.")]
Until = Annotated[Instant | None, Query(description="Only what occurred before this.")]


@router.get("/balances", summary="How a customer's balances stand now")
async def read_balances(
    request: Request, customer_id: str, limit: LimitOfAll = MAX_LIMIT, cursor: Cursor = None
) -> Response:
    async with database_of(request).read() as uow:
        await get_customer(uow, customer_id)
        found = await standings(uow, customer_id)
    items = [((standing.row.subject_id, standing.row.name), _standing(standing)) for standing in found]
    return respond(page_of_all(items, limit, cursor, names=2))


@router.get("/ledger", summary="A customer's transactions, oldest first, with their postings")
async def read_ledger(
    request: Request, customer_id: str, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """Each posting names its event's idempotency key, and the rate card and catalog revision that rated the event.

    They are null where there are none: value that is issued or ends has no event, and a feature may have no card.
    """
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
        items = await postings.shown(uow, rows)
    return respond(page(items, [(to_micros(row.recorded_at), row.id) for row in rows], limit))


@router.get("/usage", summary="What a customer used, per feature and balance, and what it cost")
async def read_usage(
    request: Request,
    *,
    customer_id: str,
    since: Since = None,
    until: Until = None,
    limit: LimitOfAll = MAX_LIMIT,
    cursor: Cursor = None,
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
            (
                (row.feature, row.balance_id),
                {
                    "feature": row.feature,
                    "balance": scales.name(row.balance_id),
                    "events": row.events,
                    "used": scales.of_balance(int(row.used), row.balance_id),
                },
            )
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
    return respond({**page_of_all(items, limit, cursor, names=2), "costs": cost_items})


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
