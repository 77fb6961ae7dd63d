"""Acquiring: leases, shares and verdicts for one holder, several balances in one transaction, in full, in
part or not at all.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.faults import Faults, is_database_fault
from control_plane.leases.asked import Asked, ask_all, open_asked
from control_plane.leases.grant import grant_all, refusal
from control_plane.leases.obeyed import Pending, answers_to, others_of, wait_obeyed
from control_plane.leases.recalls import post_recalls
from control_plane.leases.replies import store_reply, stored_reply
from control_plane.leases.restored import read_pause
from control_plane.leases.rows import OPEN, insert_leases
from control_plane.leases.seen import SEEN_EVERY, note_seen
from control_plane.leases.sessions import Superseded, acquiring_session
from control_plane.leases.settings import DEFAULTS, LeaseSettings
from control_plane.ledger.balances import stand
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceKind

ANSWER_SECONDS: Final = 0.1
"""An answer is made so long before its caller stops waiting for it."""


async def acquire(
    database: Database,
    request: session.AcquireLeasesRequest,
    settings: LeaseSettings = DEFAULTS,
    *,
    seconds: float | None = None,
) -> session.AcquireLeasesResponse:
    """Answers a request, and any repeat of it with the same bytes.

    Where a waiting call finds too little while others hold leases, they are recalled, and the answer waits
    until they have obeyed or enough came back: for holders who answer, `settings.answering_wait`, for those who say
    nothing `settings.recall_wait`, and never longer than `seconds`, for which the caller waits. Raises
    Superseded.
    """
    patience = settings.answering_wait.total_seconds()
    if seconds is not None:
        patience = min(patience, seconds - ANSWER_SECONDS)
    until = asyncio.get_running_loop().time() + patience
    found = await _try(database, settings, request, None if patience > 0 else {})
    if isinstance(found, Pending):
        await wait_obeyed(database, settings, request, found, until)
        found = await _try(database, settings, request, found.recall_ids)
    assert isinstance(found, bytes), "the second attempt is final"
    return session.AcquireLeasesResponse.FromString(found)


async def _try(
    database: Database,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    recalled: Mapping[str, str] | None,
) -> bytes | Pending:
    """Answers everything in one go. Where that fails for something that is asked for, another transaction answers each
    apart: a savepoint around every request would cost all of them what only this one needs.
    """
    try:
        return await database.transact(lambda uow: _attempt(uow, settings, request, recalled))
    except Superseded:
        raise
    except Exception as error:
        if is_database_fault(error):
            raise
    return await database.transact(lambda uow: _attempt(uow, settings, request, recalled or {}, apart=True))


async def _attempt(
    uow: UnitOfWork,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    recalled: Mapping[str, str] | None,
    *,
    apart: bool = False,
) -> bytes | Pending:
    """One transaction: the reply, stored; or recalls of what is missing."""
    row = await acquiring_session(uow, request.holder, request.epoch)
    stored = await stored_reply(uow, request)
    if stored is not None:
        return stored
    if row.seen_at <= uow.now - SEEN_EVERY:
        await note_seen(uow, request.holder)
    if apart:
        reply: session.AcquireLeasesResponse | Pending = await _each_apart(
            uow, settings, request, recalled or {}
        )
    else:
        reply = await _answer(uow, settings, request, recalled)
    if isinstance(reply, Pending):
        return reply
    reply.counted_through = row.cursor
    encoded = reply.SerializeToString(deterministic=True)
    await store_reply(uow, request.holder, request.request_id, encoded)
    return encoded


async def _each_apart(
    uow: UnitOfWork,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    recalled: Mapping[str, str],
) -> session.AcquireLeasesResponse:
    """One of them can not be answered: it alone is refused. Returns that can not be applied come again with the
    outbox.
    """
    reply = session.AcquireLeasesResponse(revision=await uow.read_revision())
    for want in (None, *request.wants):
        alone = session.AcquireLeasesRequest(holder=request.holder, request_id=request.request_id)
        if want is None:
            alone.returns.extend(request.returns)
            alone.given_up.extend(request.given_up)
        else:
            alone.wants.append(want)
        try:
            async with uow.connection.begin_nested():
                answer = await _answer(uow, settings, alone, recalled)
                assert isinstance(answer, session.AcquireLeasesResponse), "nothing is recalled any more"
                reply.acquired.extend(answer.acquired)
        except Exception as error:
            if is_database_fault(error):
                raise
            if want is None:
                uow.kept(Faults).set_apart("returns", outbox_id=request.holder.outbox_id)
                continue
            uow.kept(Faults).set_apart("want", customer_id=want.ref.customer_id, balance=want.ref.balance)
            faulty = refusal(session.REFUSAL_KIND_FAILED, "a fault of the control plane, logged there")
            faulty.refusal.retry_after.FromTimedelta(settings.retry_after)
            reply.acquired.append(faulty)
    return reply


async def _answer(
    uow: UnitOfWork,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    recalled: Mapping[str, str] | None,
) -> session.AcquireLeasesResponse | Pending:
    """Everything that is asked for; None in `recalled`: or, where something is missing, recalls of it."""
    vault = Vault(uow)
    asked = await ask_all(uow, request.wants)
    await open_asked(vault, asked, request)
    short = [item for item in asked if item.leased and not item.unlimited and item.holding and item.short]
    others = await others_of(uow, request.holder, {balance_id(item.ref) for item in short})
    pause = await read_pause(uow, settings)
    if recalled is None and not pause.leases:
        recallable = {other.balance_id for other in others if other.state == OPEN}
        waiting = {balance_id(item.ref): item.want.need for item in short if item.want.need}
        rows = [vault.held[identity].row for identity in sorted(recallable & waiting.keys())]
        if rows:
            await vault.save()
            posted = await post_recalls(uow, rows, idle_only=True)
            return Pending(
                posted,
                needs={identity: waiting[identity] for identity in posted},
                asked={other.lease_id for other in others if other.balance_id in posted},
            )
    answers = await answers_to(uow, recalled or {})
    held_back = {other.balance_id for other in others if other.lease_id not in answers.obeyed}
    reply, made = await grant_all(vault, settings, request, asked, held_back, pause=pause)
    await vault.save()  # slices refer to grants, some of which are new
    await insert_leases(uow, made)
    await _add_hints(vault, asked, reply)
    return reply


async def _add_hints(vault: Vault, asked: Collection[Asked], reply: session.AcquireLeasesResponse) -> None:
    """Tells how each balance stands after the transaction; rates have no hint."""
    specs = {
        balance_id(item.ref): item.found.spec
        for item in asked
        if item.found is not None and item.found.spec.kind is not BalanceKind.RATE
    }
    standing = await stand(await vault.looked_at(specs), specs)
    for item, acquired in zip(asked, reply.acquired, strict=True):
        stands = standing.get(balance_id(item.ref))
        if stands is not None:
            acquired.hint.CopyFrom(stands.hint())
