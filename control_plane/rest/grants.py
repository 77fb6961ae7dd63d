"""grants: what goes into a customer's wallet."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from sqlalchemy import Row, select
from starlette.responses import Response

from control_plane.catalog.revisions import current_revision, read_catalogs
from control_plane.customers.records import lock_customer
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import FieldProblem, Invalid, NotFound
from control_plane.ledger.grants import NewGrant, create_grant
from control_plane.ledger.identity import new_id
from control_plane.ledger.tables import balances, grants
from control_plane.rest.changes import Answer, Changing, database_of, respond
from control_plane.rest.forms import (
    CustomerId,
    Exact,
    Form,
    Id,
    Instant,
    Text,
    amount,
    example,
    instant,
    scale_of,
)
from control_plane.rest.paging import Cursor, Limit, decode, page
from sidecar.engine.catalog import Catalog
from sidecar.engine.reading.node import did_you_mean
from sidecar.engine.values import format_decimal, from_scaled, to_scaled

router = APIRouter(prefix="/grants", tags=["grants"])

TERMS = ("amount", "available", "leased", "quarantined", "spent", "presumed", "ended")


class GrantForm(Form):
    """An amount of a unit, from `effective_at` (now) until `expires_at` (open)."""

    id: Annotated[Id, example("grant_1")] | None = None
    customer_id: CustomerId
    unit: Annotated[Id, example("usd")]
    amount: Exact
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    effective_at: Instant | None = None
    expires_at: Instant | None = None
    cost_basis: Exact | None = None
    scope: Annotated[list[Annotated[Id, example("chat")]], Field(max_length=100)] = Field(
        default_factory=list
    )
    source: Annotated[Text, Field(max_length=255)] = "manual"


@router.post("", status_code=201, summary="Grant an amount")
async def create(form: GrantForm, changes: Changing) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        await lock_customer(uow, form.customer_id)
        revision = await current_revision(uow)
        new = _new_grant(form, (await read_catalogs(uow, [revision]))[revision], uow)
        await create_grant(uow, new)
        return Answer(_shown(await _read(uow, new.grant_id)), 201)

    return await changes.run(work)


@router.get("", summary="List grants by id")
async def list_all(
    request: Request,
    limit: Limit = 100,
    cursor: Cursor = None,
    customer_id: Annotated[str | None, Query(description="Only those of this customer.")] = None,
) -> Response:
    (after,) = decode(cursor, ("",))
    wanted = _query().where(grants.c.id > after).order_by(grants.c.id).limit(limit + 1)
    if customer_id is not None:
        wanted = wanted.where(grants.c.customer_id == customer_id)
    async with database_of(request).read() as uow:
        rows = (await uow.connection.execute(wanted)).all()
    return respond(page([_shown(row) for row in rows], [(row.id,) for row in rows], limit))


@router.get("/{grant_id}", summary="Read a grant")
async def read(request: Request, grant_id: str) -> Response:
    async with database_of(request).read() as uow:
        return respond(_shown(await _read(uow, grant_id)))


def _new_grant(form: GrantForm, catalog: Catalog, uow: UnitOfWork) -> NewGrant:
    scale = scale_of(catalog, form.unit)
    if scale is None:
        mend = did_you_mean(form.unit, catalog.units)
        raise Invalid(FieldProblem("unit", f"the catalog has no unit {form.unit!r}; {mend}"))
    unknown = [
        FieldProblem(
            f"scope[{index}]",
            f"the catalog has no feature {feature!r}; {did_you_mean(feature, catalog.features)}",
        )
        for index, feature in enumerate(form.scope)
        if feature not in catalog.features
    ]
    if unknown:
        raise Invalid(*unknown)
    scaled = to_scaled(form.amount, scale)
    if from_scaled(scaled, scale) != form.amount:
        raise Invalid(FieldProblem("amount", f"{form.unit} has {scale} digits after the point"))
    if scaled <= 0:
        raise Invalid(FieldProblem("amount", "must be above 0"))
    effective_at = form.effective_at or uow.now
    if form.expires_at is not None and form.expires_at <= effective_at:
        raise Invalid(FieldProblem("expires_at", "lies before its beginning"))
    if form.cost_basis is not None and form.cost_basis < 0:
        raise Invalid(FieldProblem("cost_basis", "must not be negative"))
    return NewGrant(
        grant_id=form.id or new_id("grt", uow.now),
        customer_id=form.customer_id,
        unit=form.unit,
        scale=scale,
        amount=scaled,
        effective_at=effective_at,
        expires_at=form.expires_at,
        priority=form.priority,
        scope=form.scope,
        cost_basis="0" if form.cost_basis is None else format_decimal(form.cost_basis),
        source=form.source,
    )


def _query() -> Any:
    return select(
        grants, balances.c.name.label("balance"), balances.c.unit, balances.c.scale, balances.c.subject_id
    ).join(balances, balances.c.id == grants.c.balance_id)


async def _read(uow: UnitOfWork, grant_id: str) -> Row[Any]:
    found = (await uow.connection.execute(_query().where(grants.c.id == grant_id))).one_or_none()
    if found is None:
        raise NotFound("grant", grant_id)
    row: Row[Any] = found
    return row


def _shown(row: Row[Any]) -> dict[str, Any]:
    terms = {name: amount(getattr(row, name), row.scale) for name in TERMS}
    return {
        "id": row.id,
        "customer_id": row.customer_id,
        "subject_id": row.subject_id or None,
        "balance": row.balance,
        "unit": row.unit,
        "role": row.role,
        **terms,
        "priority": row.priority,
        "scope": row.scope,
        "effective_at": instant(row.effective_at),
        "expires_at": instant(row.expires_at),
        "voided_at": instant(row.voided_at),
        "cost_basis": row.cost_basis,
        "source": row.source,
        "created_at": instant(row.created_at),
    }
