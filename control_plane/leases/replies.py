"""Replies to acquiring requests, stored under their request ids and repeated byte for byte."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select

from control_plane.db.among import among
from control_plane.db.bulk import append, read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import HolderKey, holder_key, lease_requests, of_holder
from purser.sync.v1 import session_pb2 as session


class Reply(NamedTuple):
    """What a holder's request is answered."""

    holder: session.Holder
    request_id: str
    reply: bytes


async def stored_replies(
    uow: UnitOfWork, requests: Collection[session.AcquireLeasesRequest]
) -> dict[HolderKey, bytes]:
    """What those were answered that were answered before, by holder; each holder has one of the requests."""
    key = (lease_requests.c.outbox_id, lease_requests.c.incarnation_id, lease_requests.c.request_id)
    keys = [(*holder_key(request.holder), request.request_id) for request in requests]
    rows = await read_by_keys(uow.connection, select(*key, lease_requests.c.reply), key, keys)
    return {(outbox_id, incarnation_id): bytes(reply) for outbox_id, incarnation_id, _, reply in rows}


async def store_replies(uow: UnitOfWork, replies: Collection[Reply]) -> None:
    """From now on this is what they are answered. Their holders' sessions are locked."""
    rows = [
        {
            "outbox_id": holder.outbox_id,
            "incarnation_id": holder.incarnation_id,
            "request_id": request_id,
            "reply": reply,
            "created_at": uow.now,
        }
        for holder, request_id, reply in replies
    ]
    await append(uow.connection, lease_requests, rows)


async def forestall(uow: UnitOfWork, holder: session.Holder, request_ids: Collection[str]) -> None:
    """Requests for verdicts that were given up: one that comes after that is refused, and takes nothing that nobody
    would let go again. The holder's session is locked.
    """
    wanted = {request_id for request_id in request_ids if request_id}
    if not wanted:
        return
    known = select(lease_requests.c.request_id).where(
        of_holder(lease_requests, holder), among(lease_requests.c.request_id, wanted)
    )
    unknown = wanted - set((await uow.connection.execute(known)).scalars())
    refusal = session.LeaseRefusal(kind=session.REFUSAL_KIND_FAILED, message="it was given up before it came")
    reply = session.AcquireLeasesResponse(
        acquired=[session.Acquired(refusal=refusal)], revision=await uow.read_revision()
    ).SerializeToString(deterministic=True)
    await store_replies(uow, [Reply(holder, request_id, reply) for request_id in sorted(unknown)])
