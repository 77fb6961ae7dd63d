"""dead-letters: records that could not be booked, and their second chance."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from google.protobuf.json_format import MessageToDict
from starlette.responses import Response

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.rest.changes import Answer, Changing, database_of, respond
from control_plane.rest.forms import instant
from control_plane.rest.paging import Cursor, Limit, decode, page
from control_plane.usage.dead_letters import list_dead_letters
from control_plane.usage.report import replay_dead_letter
from purser.sync.v1.usage_pb2 import Record

router = APIRouter(prefix="/dead-letters", tags=["dead letters"])


State = Literal["open", "replayed"]


@router.get("", summary="List dead letters by id")
async def list_all(
    request: Request,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[State, Query(description="Those that wait, or those that were replayed.")] = "open",
    customer_id: Annotated[str | None, Query(description="Only those that name this customer.")] = None,
) -> Response:
    (after,) = decode(cursor, ("",))
    async with database_of(request).read() as uow:
        rows = await list_dead_letters(
            uow, after=after, limit=limit + 1, state=state, customer_id=customer_id
        )
    return respond(page([_shown(row) for row in rows], [(row["uid"],) for row in rows], limit))


# The id holds slashes: outbox/incarnation/sequence.
@router.post("/{uid:path}/replay", summary="Try to book a dead letter again")
async def replay(uid: str, changes: Changing) -> Response:
    async def work(uow: UnitOfWork) -> Answer:
        booked = await replay_dead_letter(uow, uid)
        dead = [{"reason": one.reason.value, "message": one.message} for one in booked.dead]
        status = "DEAD" if dead else "DUPLICATE" if booked.duplicates else "ACCEPTED"
        return Answer({"id": uid, "status": status, **(dead[0] if dead else {})})

    return await changes.run(work)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    record = MessageToDict(Record.FromString(bytes(row["record"])), preserving_proto_field_name=True)
    return {
        "id": row["uid"],
        "customer_id": row["customer_id"],
        "reason": row["reason"],
        "message": row["message"],
        "state": row["state"],
        "recorded_at": instant(row["recorded_at"]),
        "replayed_at": instant(row["replayed_at"]),
        "record": record,
    }
