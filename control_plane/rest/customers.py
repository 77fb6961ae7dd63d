"""customers: made, changed, suspended; their subjects; what they are entitled to."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from sqlalchemy import Row
from starlette.responses import Response

from control_plane.customers import records
from control_plane.customers.entitled import load
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.identity import new_id
from control_plane.rest.changes import Answer, Changing, IfMatch, database_of, respond
from control_plane.rest.entitlements import shown_entitlements
from control_plane.rest.forms import CustomerId, ExternalIds, Form, Id, Text, example, instant
from control_plane.rest.paging import MAX_LIMIT, Cursor, Limit, LimitOfAll, decode, page, page_of_all

router = APIRouter(prefix="/customers", tags=["customers"])


class CustomerForm(Form):
    """A new customer. Without an id it gets one."""

    id: CustomerId | None = None
    name: Text = ""
    parent_id: CustomerId | None = None
    external_ids: ExternalIds = Field(default_factory=dict)


class CustomerChange(Form):
    """What is named changes, the rest stays."""

    name: Text | None = None
    parent_id: CustomerId | None = None
    external_ids: ExternalIds | None = None


class SubjectForm(Form):
    id: Annotated[Id, example("ann")]


@router.post("", status_code=201, summary="Make a customer")
async def create(form: CustomerForm, changes: Changing) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        new = records.NewCustomer(
            customer_id=form.id or new_id("cus", uow.now),
            name=form.name,
            parent_id=form.parent_id,
            external_ids=form.external_ids,
        )
        row = await records.create_customer(uow, new)
        return Answer(shown(row), 201, row.version)

    return await changes.run(work)


@router.get("", summary="List customers by id")
async def list_all(
    request: Request,
    limit: Limit = 100,
    cursor: Cursor = None,
    parent_id: Annotated[str | None, Query(description="Only children of this one.")] = None,
) -> Response:
    (after,) = decode(cursor, ("",))
    async with database_of(request).read() as uow:
        rows = await records.list_customers(uow, after=after, limit=limit + 1, parent_id=parent_id)
    return respond(page([shown(row) for row in rows], [(row.id,) for row in rows], limit))


@router.get("/{customer_id}", summary="Read a customer")
async def read(request: Request, customer_id: str) -> Response:
    async with database_of(request).read() as uow:
        row = await records.get_customer(uow, customer_id)
    return respond(shown(row), version=row.version)


@router.patch("/{customer_id}", summary="Change a customer")
async def change(customer_id: str, form: CustomerChange, changes: Changing, version: IfMatch) -> Response:
    values = form.model_dump(include=form.model_fields_set)
    if values.get("name", "") is None:
        values["name"] = ""
    if values.get("external_ids", {}) is None:
        values["external_ids"] = {}

    async def work(uow: UnitOfWork) -> Answer:
        row = await records.change_customer(uow, customer_id, values, version=version)
        return Answer(shown(row), version=row.version)

    return await changes.run(work)


@router.post("/{customer_id}/suspend", summary="Allow a customer nothing")
async def suspend(customer_id: str, changes: Changing, version: IfMatch) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        row = await records.suspend_customer(uow, customer_id, version=version)
        return Answer(shown(row), version=row.version)

    return await changes.run(work)


@router.post("/{customer_id}/resume", summary="End a suspension")
async def resume(customer_id: str, changes: Changing, version: IfMatch) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        row = await records.resume_customer(uow, customer_id, version=version)
        return Answer(shown(row), version=row.version)

    return await changes.run(work)


@router.post("/{customer_id}/subjects", status_code=201, summary="Register who acts under a customer")
async def add_subject(customer_id: str, form: SubjectForm, changes: Changing) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        row = await records.add_subject(uow, customer_id, form.id)
        return Answer(shown_subject(row), 201)

    return await changes.run(work)


@router.get("/{customer_id}/subjects", summary="List a customer's subjects")
async def list_subjects(
    request: Request, customer_id: str, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    (after,) = decode(cursor, ("",))
    async with database_of(request).read() as uow:
        rows = await records.list_subjects(uow, customer_id, after=after, limit=limit + 1)
    return respond(page([shown_subject(row) for row in rows], [(row.id,) for row in rows], limit))


@router.get("/{customer_id}/entitlements", summary="What a customer is entitled to now")
async def entitlements(
    request: Request, customer_id: str, limit: LimitOfAll = MAX_LIMIT, cursor: Cursor = None
) -> Response:
    async with database_of(request).read() as uow:
        await records.get_customer(uow, customer_id)
        entitled = await load(uow, customer_id, uow.now)
        found = shown_entitlements(entitled)
        features = [((item["feature"],), item) for item in found["items"]]
        some = page_of_all(features, limit, cursor, names=1)
        return respond({**found, **some, "revision": await uow.read_revision()})


def shown(row: Row[Any]) -> dict[str, Any]:
    """A customer as JSON."""
    return {
        "id": row.id,
        "name": row.name,
        "parent_id": row.parent_id,
        "external_ids": row.external_ids,
        "suspended": row.suspended_at is not None,
        "suspended_at": instant(row.suspended_at),
        "created_at": instant(row.created_at),
        "version": row.version,
    }


def shown_subject(row: Row[Any]) -> dict[str, Any]:
    """A subject as JSON."""
    return {"id": row.id, "customer_id": row.customer_id, "created_at": instant(row.created_at)}
