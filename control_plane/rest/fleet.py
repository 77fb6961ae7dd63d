"""sidecars and leases: who holds what."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from sqlalchemy import Row, select
from starlette.responses import Response

from control_plane.leases.tables import lease_slices, leases, sessions
from control_plane.ledger.tables import balances
from control_plane.rest.changes import database_of, respond
from control_plane.rest.forms import amount, instant
from control_plane.rest.paging import Cursor, Limit, comes_after, decode, page

router = APIRouter(tags=["fleet"])

SessionState = Literal["open", "awaited", "superseded", "ended", "set_aside"]
LeaseState = Literal["open", "quarantined", "presumed", "closed"]
AMOUNTS = ("allotted", "unsettled", "spent", "returned")


@router.get("/sidecars", summary="List sessions: every incarnation of every outbox")
async def list_sidecars(
    request: Request,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[SessionState | None, Query(description="Only those in this state.")] = None,
) -> Response:
    outbox_id, incarnation_id = decode(cursor, ("", ""))
    columns = sessions.c.outbox_id, sessions.c.incarnation_id
    wanted = (
        select(sessions)
        .where(comes_after(columns[0], outbox_id, columns[1], incarnation_id))
        .order_by(*columns)
        .limit(limit + 1)
    )
    if state is not None:
        wanted = wanted.where(sessions.c.state == state)
    async with database_of(request).read() as uow:
        rows = (await uow.connection.execute(wanted)).all()
    keys = [(row.outbox_id, row.incarnation_id) for row in rows]
    return respond(page([_session(row) for row in rows], keys, limit))


@router.get("/leases", summary="List leases by id")
async def list_leases(
    request: Request,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    customer_id: Annotated[str | None, Query(description="Only of this customer's balances.")] = None,
    balance: Annotated[str | None, Query(description="Only of balances of this name.")] = None,
    state: Annotated[LeaseState | None, Query(description="Only those in this state.")] = None,
    outbox_id: Annotated[str | None, Query(description="Only those of this outbox.")] = None,
) -> Response:
    (after,) = decode(cursor, ("",))
    wanted = (
        select(leases, balances.c.customer_id, balances.c.subject_id, balances.c.name)
        .add_columns(balances.c.unit, balances.c.scale)
        .join(balances, balances.c.id == leases.c.balance_id)
        .where(leases.c.id > after)
        .order_by(leases.c.id)
        .limit(limit + 1)
    )
    for column, value in (
        (balances.c.customer_id, customer_id),
        (balances.c.name, balance),
        (leases.c.state, state),
        (leases.c.outbox_id, outbox_id),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    async with database_of(request).read() as uow:
        rows = (await uow.connection.execute(wanted)).all()
        slices: dict[str, list[dict[str, Any]]] = {row.id: [] for row in rows}
        scales = {row.id: row.scale for row in rows}
        ids = sorted(slices)
        for start in range(0, len(ids), 500):
            taken = await uow.connection.execute(
                select(lease_slices)
                .where(lease_slices.c.lease_id.in_(ids[start : start + 500]))
                .order_by(lease_slices.c.lease_id, lease_slices.c.position)
            )
            for one in taken:
                value = amount(one.amount, scales[one.lease_id])
                slices[one.lease_id].append({"grant_id": one.grant_id, "amount": value})
    return respond(page([_lease(row, slices[row.id]) for row in rows], [(row.id,) for row in rows], limit))


def _session(row: Row[Any]) -> dict[str, Any]:
    return {
        "outbox_id": row.outbox_id,
        "incarnation_id": row.incarnation_id,
        "label": row.label,
        "state": row.state,
        "epoch": row.epoch,
        "cursor": row.cursor,
        "highest_seq": row.highest_seq,
        "opened_at": instant(row.opened_at),
        "seen_at": instant(row.seen_at),
    }


def _lease(row: Row[Any], slices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row.id,
        "customer_id": row.customer_id,
        "subject_id": row.subject_id or None,
        "balance": row.name,
        "unit": row.unit,
        "outbox_id": row.outbox_id,
        "incarnation_id": row.incarnation_id,
        "state": row.state,
        "scope": row.scope,
        **{name: amount(getattr(row, name), row.scale) for name in AMOUNTS},
        "slices": slices,
        "begins_at": instant(row.begins_at),
        "ends_at": instant(row.ends_at),
        "never_after": instant(row.never_after),
        "created_at": instant(row.created_at),
    }
