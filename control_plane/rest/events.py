"""events: facts posted by programs, each in the books exactly once; and what is in the books."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request
from sqlalchemy import Row, select
from starlette.responses import Response

from control_plane.catalog.revisions import current_revision, read_catalogs
from control_plane.customers.records import find_subject
from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.types import from_micros, to_micros
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import AlreadyExists, FieldProblem, Invalid
from control_plane.feed.states import timestamp
from control_plane.leases.returns import Uid
from control_plane.ledger.identity import new_id
from control_plane.rest.changes import Answer, Changing, database_of, respond
from control_plane.rest.event_forms import Posted, read_events
from control_plane.rest.event_results import EventOutcome, EventReason, PostedEvents, accepted, rejected
from control_plane.rest.forms import Instant, instant
from control_plane.rest.paging import Cursor, Limit, comes_after, decode, page
from control_plane.rest.scales import Scales
from control_plane.usage.dead_letters import DeadReason, forget
from control_plane.usage.lateness import LATE_MAX
from control_plane.usage.records import Item
from control_plane.usage.report import book_items
from control_plane.usage.statuses import EventStatus, has_status
from control_plane.usage.tables import event_costs, events
from purser.sync.v1.usage_pb2 import Record, Usage
from purser.v1.usage_pb2 import UsageEvent
from sidecar.engine.catalog import Catalog, Side

router = APIRouter(prefix="/events", tags=["events"])

AHEAD = timedelta(minutes=5)
OUTBOX = "rest"
"""Stands for an outbox in the uid of what was posted here."""

FORM = {
    "type": "object",
    "description": "The plain form, a CloudEvent 1.0, or a list of either.",
    "properties": {
        "idempotency_key": {"type": "string"},
        "customer_id": {"type": "string"},
        "event_name": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "properties": {"type": "object", "description": "Numbers become measures, the rest attributes."},
    },
}
BODY = {
    "required": True,
    "content": {kind: {"schema": FORM} for kind in ("application/json", "application/cloudevents+json")},
}


@router.post(
    "",
    status_code=201,
    openapi_extra={"requestBody": BODY},
    responses={201: {"model": PostedEvents}},
    summary="Report what has happened",
)
async def post_events(request: Request, changes: Changing) -> Response:
    """Books each event once by its key; again it is a `DUPLICATE`.

    In a list, one that can not be booked (too old, of an unknown name, with a taken key: see `reason`) is `REJECTED`,
    and the others proceed; an event by itself is a problem then. What is malformed fails the whole request.
    """
    posted, several = read_events(await request.body())

    async def work(uow: UnitOfWork) -> Answer:
        results = await _book(uow, posted, several=several)
        return Answer({"results": results} if several else {**results[0], "results": results}, 201)

    return await changes.run(work)


@router.get("", summary="List events, oldest first")
async def list_events(
    request: Request,
    *,
    limit: Limit = 100,
    cursor: Cursor = None,
    customer_id: Annotated[str | None, Query(description="Only of this customer.")] = None,
    subject_id: Annotated[str | None, Query(description="Only of this subject.")] = None,
    event_name: Annotated[str | None, Query(description="Only of this name.")] = None,
    status: Annotated[
        EventStatus | None,
        Query(
            description="Only these. `unrated`: facts that were booked without a price, as there was none."
        ),
    ] = None,
    since: Annotated[Instant | None, Query(description="Only what occurred at or after this.")] = None,
    until: Annotated[Instant | None, Query(description="Only what occurred before this.")] = None,
) -> Response:
    after_at, after_uid = decode(cursor, (0, ""))
    wanted = (
        select(events)
        .where(comes_after(events.c.recorded_at, from_micros(after_at), events.c.uid, after_uid))
        .order_by(events.c.recorded_at, events.c.uid)
        .limit(limit + 1)
    )
    for column, value in (
        (events.c.customer_id, customer_id),
        (events.c.subject_id, subject_id),
        (events.c.event_name, event_name),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    if status is not None:
        wanted = wanted.where(has_status(status))
    if since is not None:
        wanted = wanted.where(events.c.occurred_at >= since)
    if until is not None:
        wanted = wanted.where(events.c.occurred_at < until)
    async with database_of(request).read() as uow:
        rows = (await uow.connection.execute(wanted)).all()
        items = await shown(uow, rows)
    return respond(page(items, [(to_micros(row.recorded_at), row.uid) for row in rows], limit))


async def shown(uow: UnitOfWork, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Events as JSON: as they were sent, with what became of them and what they cost."""
    costs: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    found = await uow.connection.execute(
        select(event_costs)
        .where(among(event_costs.c.event_uid, (row.uid for row in rows)))
        .order_by(event_costs.c.event_uid, event_costs.c.line)
    )
    for cost in found:
        costs[cost.event_uid].append(cost)
    scales = await Scales.read(uow, ())
    return [await _event(uow, scales, row, costs[row.uid]) for row in rows]


async def _event(uow: UnitOfWork, scales: Scales, row: Row[Any], costs: Sequence[Row[Any]]) -> dict[str, Any]:
    revisions = {cost.catalog_revision for cost in costs}
    catalogs = await read_catalogs(uow, revisions)
    items = [
        {
            "feature": cost.feature,
            "rate_card": cost.rate_card,
            "side": _side(catalogs[cost.catalog_revision], cost.rate_card),
            "catalog_revision": cost.catalog_revision,
            **await scales.of_unit(cost.amount, cost.unit, None, cost.catalog_revision),
            "exact": cost.exact,
            "billed": (await scales.of_unit(cost.billed, cost.unit, None, cost.catalog_revision))["value"],
        }
        for cost in costs
    ]
    price = next((item for item in items if item["side"] == Side.PRICE), None)
    return {
        "idempotency_key": row.idempotency_key,
        "customer_id": row.customer_id,
        "subject_id": row.subject_id,
        "app_id": row.app_id,
        "event_name": row.event_name,
        "measures": row.measures,
        "attributes": row.attributes,
        "occurred_at": instant(row.occurred_at),
        "correlation_id": row.correlation_id,
        "holder_id": row.holder_id,
        "gauge_change": row.gauge_change,
        "gauge_feature": row.gauge_feature,
        "recorded_at": instant(row.recorded_at),
        "decided": row.decided,
        "decision_id": row.decision_id or None,
        "status": row.status,
        "cost": None if price is None else {"unit": price["unit"], "value": price["value"]},
        "costs": items,
        "uid": row.uid,
        "transaction_id": row.transaction_id,
    }


def _side(catalog: Catalog, rate_card: str) -> Side:
    card = catalog.rate_cards.get(rate_card)
    return Side.PRICE if card is None else card.side


async def _book(uow: UnitOfWork, posted: Sequence[Posted], *, several: bool) -> list[dict[str, Any]]:
    batch = new_id("post", uow.now)
    newest = await current_revision(uow)
    known = _known_events((await read_catalogs(uow, [newest]))[newest])
    items = []
    results: list[dict[str, Any]] = []
    for index, one in enumerate(posted):
        occurred_at = one.occurred_at or uow.now
        faults = _faults(one.event, occurred_at, uow.now, known)
        hashed = UsageEvent.FromString(one.event.SerializeToString())
        if one.who:
            hashed.subject_id = one.who
        if one.occurred_at is not None:
            hashed.occurred_at.CopyFrom(timestamp(one.occurred_at))
        event = UsageEvent.FromString(one.event.SerializeToString())
        event.occurred_at.CopyFrom(timestamp(occurred_at))
        faults += await _find_customer(uow, event, one.who)
        results.append(accepted(event.idempotency_key))
        if faults:
            if not several:
                raise Invalid(*(fault.problem for fault in faults))
            results[index] |= rejected(faults[0].reason, faults[0].problem.problem)
            continue
        digest = hashlib.sha256(hashed.SerializeToString(deterministic=True)).digest()
        usage = Usage(event=event, content_hash=digest, decided=False, decided_at=timestamp(uow.now))
        items.append(Item(Uid(OUTBOX, batch, index + 1), Record(seq=index + 1, usage=usage)))
    booked = await book_items(uow, items)
    dead = {one.item.name: one for one in booked.dead}
    duplicates = {item.name for item in booked.duplicates}
    refused = []
    for item in items:
        result = results[item.record.seq - 1]
        if item.name in duplicates:
            result["status"] = EventOutcome.DUPLICATE.value
        elif item.name in dead:
            faulty = dead[item.name]
            if faulty.reason is DeadReason.UNKNOWN_CUSTOMER:
                result |= {"reason": faulty.reason.value, "message": faulty.message}
                continue
            if not several and faulty.reason is DeadReason.KEY_CONFLICT:
                raise AlreadyExists("event with other content and the key", result["idempotency_key"])
            if not several:
                raise Invalid(FieldProblem("event", faulty.message))
            result |= rejected(EventReason(faulty.reason.value), faulty.message)
            refused.append(item.name)
    await forget(uow, refused)  # the caller hears of it, and nobody else needs to
    return results


class _Fault(NamedTuple):
    """Why one event is not taken."""

    reason: EventReason
    problem: FieldProblem


def _fault(reason: EventReason, field: str, why: str) -> _Fault:
    return _Fault(reason, FieldProblem(field, f"{reason}: {why}"))


def _faults(event: UsageEvent, occurred_at: datetime, now: datetime, known: set[str]) -> list[_Fault]:
    faults = []
    if occurred_at < now - LATE_MAX:
        faults.append(_fault(EventReason.TOO_OLD, "occurred_at", f"more than {LATE_MAX.days} days ago"))
    if occurred_at > now + AHEAD:
        faults.append(_fault(EventReason.IN_THE_FUTURE, "occurred_at", "more than 5 minutes ahead"))
    if not event.gauge_change and event.event_name not in known:
        faults.append(
            _fault(
                EventReason.UNKNOWN_EVENT, "event_name", "nothing in the catalog reads an event of this name"
            )
        )
    return faults


def _known_events(catalog: Catalog) -> set[str]:
    return {
        *(meter.event for meter in catalog.meters.values()),
        *(card.event for card in catalog.rate_cards.values()),
        *(feature.event for feature in catalog.features.values() if feature.event),
    }


async def _find_customer(uow: UnitOfWork, event: UsageEvent, who: str) -> list[_Fault]:
    """Fills in the customer: who is none is a subject, if one is registered by that id."""
    if who:
        found = await uow.connection.execute(select(customers.c.id).where(customers.c.id == who))
        if found.one_or_none() is not None:
            event.customer_id = who
            return []
        subject = await find_subject(uow, who)
        event.customer_id, event.subject_id = (subject.customer_id, who) if subject else (who, "")
        return []
    if event.subject_id:
        subject = await find_subject(uow, event.subject_id)
        if subject is None and not event.customer_id:
            return [_fault(EventReason.SUBJECT_NOT_FOUND, "subject_id", "it is not registered")]
        if subject is not None and event.customer_id not in {"", subject.customer_id}:
            return [_fault(EventReason.SUBJECT_NOT_FOUND, "subject_id", "it belongs to another customer")]
        event.customer_id = event.customer_id or (subject.customer_id if subject else "")
    return []
