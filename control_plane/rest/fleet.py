"""sidecars and leases: who holds what, and what an operator says of who is gone."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from sqlalchemy import Row, select
from starlette.responses import Response

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import WrongState
from control_plane.feed.connected import Connected
from control_plane.leases.dead import DeadLeases, Touched, declare_dead
from control_plane.leases.tables import lease_slices, leases, sessions
from control_plane.ledger.tables import balances
from control_plane.rest.changes import Answer, Changing, database_of, respond
from control_plane.rest.forms import Form, amount, instant
from control_plane.rest.paging import Cursor, Limit, comes_after, decode, page
from purser.sync.v1.session_pb2 import Holder

router = APIRouter(tags=["fleet"])

SessionState = Literal["open", "awaited", "superseded", "ended", "set_aside"]
LeaseState = Literal["open", "quarantined", "presumed", "closed"]
AMOUNTS = ("allotted", "unsettled", "spent", "returned")


@router.get(
    "/sidecars",
    summary="List sessions: every incarnation of every outbox",
    description="`connected`: it follows the feed of this replica. `seen_at`: last heard of then, to the minute.",
)
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
        rows = (await uow.connection.execute(wanted)).mappings().all()
    keys = [(row["outbox_id"], row["incarnation_id"]) for row in rows]
    connected = database_of(request).kept(Connected)
    return respond(page([_session(dict(row), connected) for row in rows], keys, limit))


class DeadForm(Form):
    """What becomes of its leases. `quarantine`: nobody gets them before it came back, or a day is over. `release`: they
    are free at once, and **late usage becomes overage**: only where nothing of it can still run or be uploaded.
    """

    leases: DeadLeases = DeadLeases.QUARANTINE


# Ids of sidecars are random, and hold no slash.
@router.post(
    "/sidecars/{outbox_id}/{incarnation_id}/declare-dead",
    summary="Say that a process will not come back",
    description="From now on it acquires nothing. What it reports after all is booked.",
)
async def declare(
    outbox_id: str,
    incarnation_id: str,
    changes: Changing,
    form: Annotated[DeadForm, Body(default_factory=DeadForm)],
) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        connected = uow.kept(Connected)
        if form.leases is DeadLeases.RELEASE and (outbox_id, incarnation_id) in connected:
            why = "it is connected; stop it first, or leave its leases in quarantine"
            raise WrongState("sidecar", f"{outbox_id}/{incarnation_id}", why)
        holder = Holder(outbox_id=outbox_id, incarnation_id=incarnation_id)
        declared = await declare_dead(uow, holder, form.leases)
        row = {name: getattr(declared.row, name) for name in declared.row.__slots__}
        return Answer(
            {
                **_session(row, connected),
                "leases": form.leases.value,
                "lease_count": sum(one.leases for one in declared.touched.values()),
                "balances": await _touched(uow, declared.touched),
            }
        )

    return await changes.run(work)


async def _touched(uow: UnitOfWork, touched: Mapping[str, Touched]) -> list[dict[str, Any]]:
    items = []
    query = select(balances).where(among(balances.c.id, touched)).order_by(balances.c.id)
    for row in await uow.connection.execute(query):
        one = touched[row.id]
        items.append(
            {
                "customer_id": row.customer_id,
                "subject_id": row.subject_id or None,
                "balance": row.name,
                "unit": row.unit,
                "leases": one.leases,
                "verdicts": one.verdicts,
                "amount": amount(one.amount, row.scale),
            }
        )
    return items


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
        taken = await uow.connection.execute(
            select(lease_slices)
            .where(among(lease_slices.c.lease_id, slices))
            .order_by(lease_slices.c.lease_id, lease_slices.c.position)
        )
        for one in taken:
            value = amount(one.amount, scales[one.lease_id])
            slices[one.lease_id].append({"grant_id": one.grant_id, "amount": value})
    return respond(page([_lease(row, slices[row.id]) for row in rows], [(row.id,) for row in rows], limit))


def _session(row: Mapping[str, Any], connected: Connected) -> dict[str, Any]:
    return {
        "outbox_id": row["outbox_id"],
        "incarnation_id": row["incarnation_id"],
        "label": row["label"],
        "state": row["state"],
        "connected": (row["outbox_id"], row["incarnation_id"]) in connected,
        "epoch": row["epoch"],
        "cursor": row["cursor"],
        "highest_seq": row["highest_seq"],
        "opened_at": instant(row["opened_at"]),
        "seen_at": instant(row["seen_at"]),
        "declared_dead_at": instant(row["declared_dead_at"]),
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
