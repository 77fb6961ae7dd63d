"""Acquiring: leases, shares and verdicts for one holder, several balances in one transaction, in full, in
part or not at all.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.faults import Faults, is_database_fault
from control_plane.leases.asked import Asked, ask_all, lock_asked, open_asked
from control_plane.leases.grant import Granting, refusal
from control_plane.leases.obeyed import Pending, answers_to, others_of, wait_obeyed
from control_plane.leases.recalls import post_recalls
from control_plane.leases.replies import Reply, store_replies, stored_replies
from control_plane.leases.restored import pause_of, read_generation
from control_plane.leases.rounds import Rounds
from control_plane.leases.rows import OPEN, insert_leases
from control_plane.leases.seen import SEEN_EVERY, note_seen
from control_plane.leases.sessions import Superseded, acquiring_sessions
from control_plane.leases.settings import DEFAULTS, LeaseSettings
from control_plane.leases.tables import HolderKey, holder_key
from control_plane.ledger.balances import stand
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceKind

ANSWER_SECONDS: Final = 0.1
"""An answer is made so long before its caller stops waiting for it."""


class _Ask(NamedTuple):
    """A request, and the recalls that were made for it; None: none yet, and it has time for them."""

    request: session.AcquireLeasesRequest
    recalled: Mapping[str, str] | None


class Acquiring:
    """What the holders of one process's calls acquire."""

    def __init__(self, database: Database, settings: LeaseSettings = DEFAULTS) -> None:
        self._database = database
        self._settings = settings
        self._rounds: Rounds[_Ask, bytes | Pending | None] = Rounds(self._round)

    async def acquire(
        self, request: session.AcquireLeasesRequest, *, seconds: float | None = None
    ) -> session.AcquireLeasesResponse:
        """Answers a request, and any repeat of it with the same bytes.

        Where a waiting call finds too little while others hold leases, they are recalled, and the answer waits
        until they have obeyed or enough came back: for holders who answer, `settings.answering_wait`, for those who
        say nothing `settings.recall_wait`, and never longer than `seconds`, for which the caller waits. Raises
        Superseded.
        """
        patience = self._settings.answering_wait.total_seconds()
        if seconds is not None:
            patience = min(patience, seconds - ANSWER_SECONDS)
        until = asyncio.get_running_loop().time() + patience
        ask = _Ask(request, None if patience > 0 else {})
        found = await self._rounds.take_part(holder_key(request.holder), ask)
        if found is None:
            found = await self._alone(ask)
        if isinstance(found, Pending):
            await wait_obeyed(self._database, self._settings, request, found, until)
            found = await self._alone(_Ask(request, found.recall_ids))
        assert isinstance(found, bytes), "the last attempt is final"
        return session.AcquireLeasesResponse.FromString(found)

    async def _round(self, asks: Sequence[_Ask]) -> Sequence[bytes | Pending | None]:
        """Answers all of them in one transaction; None: who asks this must be answered alone."""
        if len(asks) == 1:
            return [await self._alone(asks[0])]
        try:
            return await self._database.transact(
                lambda uow: _attempt(uow, self._settings, [ask.request for ask in asks])
            )
        except Exception as error:
            if is_database_fault(error):
                raise
        return [None for _ in asks]

    async def _alone(self, ask: _Ask) -> bytes | Pending:
        """Answers everything in one go. Where that fails for something that is asked for, another transaction answers
        each apart: a savepoint around every want would cost all of them what only this one needs.
        """
        request, recalled = ask
        transact, settings = self._database.transact, self._settings
        try:
            (answer,) = await transact(lambda uow: _attempt(uow, settings, [request], recalled))
        except Superseded:
            raise
        except Exception as error:
            if is_database_fault(error):
                raise
            (answer,) = await transact(
                lambda uow: _attempt(uow, settings, [request], recalled or {}, apart=True)
            )
        assert answer is not None, "who asks alone is answered"
        return answer


async def _attempt(
    uow: UnitOfWork,
    settings: LeaseSettings,
    requests: Sequence[session.AcquireLeasesRequest],
    recalled: Mapping[str, str] | None = None,
    *,
    apart: bool = False,
) -> list[bytes | Pending | None]:
    """One transaction: replies, stored; and as `_answer` has it. Of several, one that may not acquire, or whose session
    is locked, is to be answered alone. Raises Superseded for a single one.
    """
    sessions = await acquiring_sessions(uow, requests)
    if len(requests) == 1 and not sessions:
        raise Superseded(Superseded.__doc__)
    may = [request for request in requests if holder_key(request.holder) in sessions]
    answers: dict[HolderKey, bytes | Pending | None] = dict(await stored_replies(uow, may))
    fresh = [request for request in may if holder_key(request.holder) not in answers]
    for request in fresh:
        if sessions[holder_key(request.holder)].seen_at <= uow.now - SEEN_EVERY:
            await note_seen(uow, request.holder)
    replies: Sequence[session.AcquireLeasesResponse | Pending | None] = ()
    if apart:
        replies = [await _each_apart(uow, settings, request, recalled or {}) for request in fresh]
    elif fresh:
        replies = await _answer(uow, settings, fresh, recalled, is_alone=len(requests) == 1)
    made = []
    for request, reply in zip(fresh, replies, strict=True):
        key = holder_key(request.holder)
        if isinstance(reply, session.AcquireLeasesResponse):
            reply.counted_through = sessions[key].cursor
            encoded = answers[key] = reply.SerializeToString(deterministic=True)
            made.append(Reply(request.holder, request.request_id, encoded))
        else:
            answers[key] = reply
    await store_replies(uow, made)
    return [answers.get(holder_key(request.holder)) for request in requests]


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
                (answer,) = await _answer(uow, settings, [alone], recalled, is_alone=True)
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
    requests: Sequence[session.AcquireLeasesRequest],
    recalled: Mapping[str, str] | None,
    *,
    is_alone: bool,
) -> list[session.AcquireLeasesResponse | Pending | None]:
    """Everything that is asked for, request by request. Where something is missing: for who asks alone what others
    have left, or, with None in `recalled`, recalls of it; of several None for who finds too little in its turn.
    """
    vault = Vault(uow)
    await lock_asked(vault, requests)
    asked = await ask_all(uow, requests)
    every = [item for items in asked for item in items]
    generation = await read_generation(uow)
    pause = pause_of(generation, settings, uow.now)
    await open_asked(vault, every, requests, is_paused=bool(pause.leases))
    held_back: Collection[str] = ()
    if is_alone and not pause.leases:
        missing = await _missing(vault, requests[0], every, recalled)
        if isinstance(missing, Pending):
            return [missing]
        held_back = missing
    granting = await Granting.begin(vault, settings, pause, generation.revision)
    replies: list[session.AcquireLeasesResponse | Pending | None] = []
    for request, items in zip(requests, asked, strict=True):
        if not is_alone and any(item.is_missing for item in items):
            replies.append(None)  # what it gave back stays booked: given back again, it is known
        else:
            replies.append(await granting.grant(request, items, held_back))
    await vault.save()  # slices refer to grants, some of which are new
    await insert_leases(uow, granting.made)
    await _add_hints(vault, asked, replies)
    return replies


async def _missing(
    vault: Vault,
    request: session.AcquireLeasesRequest,
    asked: Collection[Asked],
    recalled: Mapping[str, str] | None,
) -> Pending | set[str]:
    """Balances of which others hold what they may yet give back; or the recalls of it."""
    uow = vault.uow
    short = [item for item in asked if item.is_missing]
    others = await others_of(uow, request.holder, {balance_id(item.ref) for item in short})
    if recalled is None:
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
    return {other.balance_id for other in others if other.lease_id not in answers.obeyed}


async def _add_hints(
    vault: Vault,
    asked: Collection[Collection[Asked]],
    replies: Collection[session.AcquireLeasesResponse | Pending | None],
) -> None:
    """Tells how each balance stands after the transaction; rates have no hint."""
    told = [
        (item, acquired)
        for items, reply in zip(asked, replies, strict=True)
        if isinstance(reply, session.AcquireLeasesResponse)
        for item, acquired in zip(items, reply.acquired, strict=True)
    ]
    specs = {
        balance_id(item.ref): item.found.spec
        for item, _ in told
        if item.found is not None and item.found.spec.kind is not BalanceKind.RATE
    }
    standing = await stand(await vault.looked_at(specs), specs)
    for item, acquired in told:
        stands = standing.get(balance_id(item.ref))
        if stands is not None:
            acquired.hint.CopyFrom(stands.hint())
