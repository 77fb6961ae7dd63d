"""subscriptions: made, changed, paid or not."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from sqlalchemy import Row
from starlette.responses import Response

from control_plane.catalog.revisions import plan_version
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.identity import new_id
from control_plane.rest.changes import Answer, Changing, IfMatch, database_of, respond
from control_plane.rest.forms import CustomerId, ExternalIds, Form, Id, Instant, example, instant
from control_plane.rest.paging import Cursor, Limit, decode, page
from control_plane.subscriptions import records
from sidecar.engine.customer import PastDuePolicy, SubscriptionState

router = APIRouter(prefix="/subscriptions", tags=["subscriptions"])

PAST_DUE = "past_due"
CURRENT = frozenset({"current", "active", "ok", "paid"})


def _policy(value: str) -> str:
    return str(PastDuePolicy.parse(value)) if value else ""


def _payment_status(value: str) -> str:
    if value not in CURRENT | {PAST_DUE}:
        raise ValueError("one of past_due, current")
    return value


OnPastDue = Annotated[str, AfterValidator(_policy), Field(examples=["allow", "deny", "allow_for:P7D"])]
AddOns = Annotated[list[Annotated[Id, example("pack_50")]], Field(max_length=100)]


class SubscriptionForm(Form):
    """A customer on a plan of the newest catalog, from `starts_at` (now) until `ends_at` (open)."""

    id: Annotated[Id, example("sub_1")] | None = None
    customer_id: CustomerId
    plan: Annotated[Id, example("pro")]
    add_ons: AddOns = Field(default_factory=list)
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    anchor_at: Instant | None = None
    trial_ends_at: Instant | None = None
    state: SubscriptionState | None = None
    on_past_due: OnPastDue = ""
    external_ids: ExternalIds = Field(default_factory=dict)


class SubscriptionChange(Form):
    """What is named changes, the rest stays."""

    state: SubscriptionState | None = None
    add_ons: AddOns | None = None
    ends_at: Instant | None = None
    trial_ends_at: Instant | None = None
    on_past_due: OnPastDue | None = None
    external_ids: ExternalIds | None = None


class PaymentStatus(Form):
    """`past_due`, or `current`: it is paid."""

    status: Annotated[str, AfterValidator(_payment_status), Field(examples=["past_due", "current"])]


@router.post("", status_code=201, summary="Subscribe a customer to a plan")
async def create(form: SubscriptionForm, changes: Changing) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        row = await records.create_subscription(
            uow,
            records.NewSubscription(
                subscription_id=form.id or new_id("sub", uow.now),
                **{name: getattr(form, name) for name in SubscriptionForm.model_fields if name != "id"},
            ),
        )
        return Answer(await _shown(uow, row), 201, row.version)

    return await changes.run(work)


@router.get("", summary="List subscriptions by id")
async def list_all(
    request: Request,
    limit: Limit = 100,
    cursor: Cursor = None,
    customer_id: Annotated[str | None, Query(description="Only those of this customer.")] = None,
) -> Response:
    (after,) = decode(cursor, ("",))
    async with database_of(request).read() as uow:
        rows = await records.list_subscriptions(uow, after=after, limit=limit + 1, customer_id=customer_id)
        items = [await _shown(uow, row) for row in rows]
    return respond(page(items, [(row.id,) for row in rows], limit))


@router.get("/{subscription_id}", summary="Read a subscription")
async def read(request: Request, subscription_id: str) -> Response:
    async with database_of(request).read() as uow:
        row = await records.get_subscription(uow, subscription_id)
        return respond(await _shown(uow, row), version=row.version)


@router.patch("/{subscription_id}", summary="Change a subscription")
async def change(
    subscription_id: str, form: SubscriptionChange, changes: Changing, version: IfMatch
) -> Response:
    values = form.model_dump(include=form.model_fields_set)
    empty: dict[str, Any] = {"add_ons": [], "on_past_due": "", "external_ids": {}}
    values |= {name: empty[name] for name in values.keys() & empty.keys() if values[name] is None}
    if values.get("state") is None:
        values.pop("state", None)
    else:
        values["state"] = values["state"].value

    async def work(uow: UnitOfWork) -> Answer:
        row = await records.change_subscription(uow, subscription_id, values, version=version)
        return Answer(await _shown(uow, row), version=row.version)

    return await changes.run(work)


@router.post("/{subscription_id}/payment-status", summary="Say that it is past due, or paid")
async def payment_status(
    subscription_id: str, form: PaymentStatus, changes: Changing, version: IfMatch
) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        row = await records.set_payment_status(
            uow, subscription_id, past_due=form.status == PAST_DUE, version=version
        )
        return Answer(await _shown(uow, row), version=row.version)

    return await changes.run(work)


async def _shown(uow: UnitOfWork, row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "customer_id": row.customer_id,
        "plan": row.plan,
        "plan_version": await plan_version(uow, row.plan, row.catalog_revision),
        "catalog_revision": row.catalog_revision,
        "add_ons": row.add_ons,
        "state": row.state,
        "starts_at": instant(row.starts_at),
        "ends_at": instant(row.ends_at),
        "anchor_at": instant(row.anchor_at),
        "trial_ends_at": instant(row.trial_ends_at),
        "past_due_since": instant(row.past_due_since),
        "on_past_due": row.on_past_due or None,
        "external_ids": row.external_ids,
        "created_at": instant(row.created_at),
        "version": row.version,
    }
