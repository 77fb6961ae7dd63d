"""Replies to acquiring requests, stored under their request ids and repeated byte for byte."""

from collections.abc import Collection

from sqlalchemy import insert, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import lease_requests, of_holder
from purser.sync.v1 import session_pb2 as session


async def stored_reply(uow: UnitOfWork, request: session.AcquireLeasesRequest) -> bytes | None:
    """What it was answered before. None: it was not."""
    query = select(lease_requests.c.reply).where(
        of_holder(lease_requests, request.holder), lease_requests.c.request_id == request.request_id
    )
    reply = (await uow.connection.execute(query)).scalar_one_or_none()
    return None if reply is None else bytes(reply)


async def store_reply(uow: UnitOfWork, holder: session.Holder, request_id: str, reply: bytes) -> None:
    """From now on this is what it is answered. The holder's session is locked."""
    row = {
        "outbox_id": holder.outbox_id,
        "incarnation_id": holder.incarnation_id,
        "request_id": request_id,
        "reply": reply,
        "created_at": uow.now,
    }
    await uow.connection.execute(insert(lease_requests), [row])


async def forestall(uow: UnitOfWork, holder: session.Holder, request_ids: Collection[str]) -> None:
    """Requests for verdicts that were given up: one that comes after that is refused, and takes nothing that nobody
    would let go again. The holder's session is locked.
    """
    wanted = {request_id for request_id in request_ids if request_id}
    if not wanted:
        return
    known = select(lease_requests.c.request_id).where(
        of_holder(lease_requests, holder), lease_requests.c.request_id.in_(wanted)
    )
    unknown = wanted - set((await uow.connection.execute(known)).scalars())
    refusal = session.LeaseRefusal(kind=session.REFUSAL_KIND_FAILED, message="it was given up before it came")
    reply = session.AcquireLeasesResponse(
        acquired=[session.Acquired(refusal=refusal)], revision=await uow.read_revision()
    )
    for request_id in sorted(unknown):
        await store_reply(uow, holder, request_id, reply.SerializeToString(deterministic=True))
