"""Acquiring: leases, shares and verdicts for one holder, several balances in one transaction, in full, in
part or not at all.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import and_, or_, select

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.faults import Faults, is_database_fault
from control_plane.feed.bus import Bus
from control_plane.leases import gauges, rates, verdicts
from control_plane.leases.letting_go import give_up
from control_plane.leases.recalls import post_recalls
from control_plane.leases.replies import forestall, store_reply, stored_reply
from control_plane.leases.restored import Pause, read_pause, refused
from control_plane.leases.returns import Return, Uid, apply_returns
from control_plane.leases.rows import (
    OPEN,
    QUARANTINED,
    LeaseRow,
    Slice,
    insert_leases,
    read_leases,
    update_leases,
)
from control_plane.leases.sessions import acquiring_session, save_session
from control_plane.leases.settings import DEFAULTS, LeaseSettings
from control_plane.leases.settle import Freed
from control_plane.leases.sizing import lease_size
from control_plane.leases.tables import leases, recall_answers, sessions
from control_plane.ledger.balances import stand
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id, new_id
from control_plane.ledger.occurrences import Wanted, open_balances
from control_plane.ledger.rows import BEYOND_LIMIT, GrantRow, in_burn_order
from control_plane.ledger.specs import Found, find_spec
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import OveragePolicy
from sidecar.engine.values import BalanceKind, BalanceRef

_LEASED: Final = frozenset({BalanceKind.WALLET, BalanceKind.ALLOWANCE, BalanceKind.BUDGET})


@dataclass(slots=True)
class Asked:
    """One want, with what was found out about it."""

    want: session.Want
    ref: BalanceRef
    at: datetime
    """The instant that it is for: now, or the next period's beginning."""
    found: Found | None
    holding: Holding | None = None

    @property
    def leased(self) -> bool:
        """Is it wanted as a lease, and not as a share or a verdict?"""
        return (
            self.found is not None
            and self.found.spec.kind in _LEASED
            and not self.found.spec.decided_remotely
        )

    @property
    def unlimited(self) -> bool:
        return self.found is not None and self.found.spec.unlimited

    def grants(self) -> list[GrantRow]:
        """What could be leased for it, in burn order."""
        if self.holding is None:
            return []
        feature = self.want.feature
        return in_burn_order(
            grant
            for grant in self.holding.grants.values()
            if grant.available and grant.active(self.at) and grant.serves(feature)
        )

    @property
    def short(self) -> bool:
        """Is there less than the waiting call needs (or nothing at all, where nobody waits)?"""
        return sum(grant.available for grant in self.grants()) < max(1, self.want.need)


class Other(NamedTuple):
    """A lease of somebody else with something unsettled."""

    balance_id: str
    lease_id: str
    state: str


@dataclass(slots=True)
class Pending:
    """Recalls are out; nothing was granted yet."""

    recall_ids: dict[str, str] = field(default_factory=dict)
    """Balance → recall."""
    needs: dict[str, int] = field(default_factory=dict)


async def acquire(
    database: Database, request: session.AcquireLeasesRequest, settings: LeaseSettings = DEFAULTS
) -> session.AcquireLeasesResponse:
    """Answers a request, and any repeat of it with the same bytes.

    Where a waiting call finds too little while others hold leases, they are recalled, and the answer waits
    until they have obeyed, something came back, or `settings.recall_wait` is over. Raises Superseded.
    """
    first = await database.transact(lambda uow: _attempt(uow, settings, request, recalled=None))
    if isinstance(first, bytes):
        return session.AcquireLeasesResponse.FromString(first)
    await _wait(database, settings, request, first)
    last = await database.transact(lambda uow: _attempt(uow, settings, request, recalled=first.recall_ids))
    assert isinstance(last, bytes), "the second attempt is final"
    return session.AcquireLeasesResponse.FromString(last)


async def _attempt(
    uow: UnitOfWork,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    *,
    recalled: Mapping[str, str] | None,
) -> bytes | Pending:
    """One transaction: the reply, stored; or, the first time, recalls of what is missing."""
    row = await acquiring_session(uow, request.holder, request.epoch)
    stored = await stored_reply(uow, request)
    if stored is not None:
        return stored
    row.seen_at = uow.now
    await save_session(uow, row)
    try:
        async with uow.connection.begin_nested():
            reply = await _answer(uow, settings, request, recalled)
    except Exception as error:
        if is_database_fault(error):
            raise
        reply = await _each_apart(uow, settings, request, recalled or {})
    if isinstance(reply, Pending):
        return reply
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
                assert isinstance(answer, session.AcquireLeasesResponse), "recalls are out already"
                reply.acquired.extend(answer.acquired)
        except Exception as error:
            if is_database_fault(error):
                raise
            if want is None:
                uow.kept(Faults).set_apart("returns", outbox_id=request.holder.outbox_id)
                continue
            uow.kept(Faults).set_apart("want", customer_id=want.ref.customer_id, balance=want.ref.balance)
            refusal = _refused(session.REFUSAL_KIND_FAILED, "a fault of the control plane, logged there")
            refusal.refusal.retry_after.FromTimedelta(settings.retry_after)
            reply.acquired.append(refusal)
    return reply


async def _answer(
    uow: UnitOfWork,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    recalled: Mapping[str, str] | None,
) -> session.AcquireLeasesResponse | Pending:
    """Everything that is asked for; None in `recalled`: or, where something is missing, recalls of it."""
    vault = Vault(uow)
    asked = [await _ask(uow, want) for want in request.wants]
    await _open(vault, asked, request)
    short = [item for item in asked if item.leased and not item.unlimited and item.holding and item.short]
    others = await _others(uow, request.holder, {balance_id(item.ref) for item in short})
    pause = await read_pause(uow, settings)
    if recalled is None and not pause.leases:
        recallable = {other.balance_id for other in others if other.state == OPEN}
        waiting = {balance_id(item.ref): item.want.need for item in short if item.want.need}
        rows = [vault.held[identity].row for identity in sorted(recallable & waiting.keys())]
        if rows:
            await vault.save()
            return Pending(await post_recalls(uow, rows, idle_only=True), waiting)
    obeyed = await _have_obeyed(uow, recalled or {})
    held_back = {other.balance_id for other in others if other.lease_id not in obeyed}
    reply, made = await _grant_all(vault, settings, request, asked, held_back, pause=pause)
    await vault.save()  # slices refer to grants, some of which are new
    await insert_leases(uow, made)
    await _add_hints(uow, asked, reply)
    return reply


async def _ask(uow: UnitOfWork, want: session.Want) -> Asked:
    ref = BalanceRef(want.ref.customer_id, want.ref.subject_id, want.ref.balance)
    found = await find_spec(uow, ref, uow.now)
    if not want.next_period or found is None:
        return Asked(want, ref, uow.now, found)
    periods = [found.spec.period] if found.spec.period is not None else []
    periods += [
        spec.period
        for spec in found.entitlements.grants
        if spec.balance == ref.balance and spec.period is not None
    ]
    if not periods:
        return Asked(want, ref, uow.now, found)
    at = min(period.window(uow.now).end for period in periods)
    return Asked(want, ref, at, await find_spec(uow, ref, at))


async def _open(vault: Vault, asked: Collection[Asked], request: session.AcquireLeasesRequest) -> None:
    """Locks everything that is touched, in order; first applies what the caller gives back and gives up."""
    uow = vault.uow
    returns = [
        Return(Uid(item.uid.outbox_id, item.uid.incarnation_id, item.uid.seq), item.lease_id, item.amount)
        for item in request.returns
    ]
    theirs = leases.c.id.in_([item.lease_id for item in returns])
    also = (
        (await uow.connection.execute(select(leases.c.balance_id).where(theirs))).scalars() if returns else ()
    )
    wanted = [
        Wanted(item.ref, item.found.spec, item.at, item.found.entitlements.grants)
        for item in asked
        if item.found is not None and not item.unlimited
    ]
    given_up: defaultdict[str, list[str]] = defaultdict(list)
    for one in request.given_up:
        ref = BalanceRef(one.ref.customer_id, one.ref.subject_id, one.ref.balance)
        given_up[balance_id(ref)].append(one.request_id)
    held = await open_balances(vault, wanted, also={*also, *given_up})
    for identity, request_ids in given_up.items():
        if identity in vault.held and await give_up(uow, identity, request.holder, request_ids):
            vault.held[identity].touched = True
    await forestall(uow, request.holder, [one.request_id for one in request.given_up])
    for item in asked:
        item.holding = held.get(item.ref)
    if returns:
        freed = Freed(vault)
        found = await read_leases(uow, theirs)
        await freed.load(found.values())
        changed = await apply_returns(uow, freed, found, returns)
        await freed.pay()
        await update_leases(uow, changed)
    for holding in vault.held.values():
        await catch_up(vault, holding)


async def _grant_all(
    vault: Vault,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    asked: Collection[Asked],
    held_back: Collection[str],
    *,
    pause: Pause,
) -> tuple[session.AcquireLeasesResponse, list[LeaseRow]]:
    reply = session.AcquireLeasesResponse(revision=await vault.uow.read_revision())
    holders = await _count_holders(vault, request.holder)
    made: list[LeaseRow] = []
    for item in asked:
        if item.found is None:
            reply.acquired.append(
                _refused(session.REFUSAL_KIND_NO_SUCH_BALANCE, "not entitled to this balance")
            )
        elif item.unlimited:
            reply.acquired.append(session.Acquired())
        elif item.leased and pause.leases:
            reply.acquired.append(refused(pause.leases))
        elif item.leased:
            terms = _Terms(vault.now, settings, request.holder, reply.revision)
            new = _lease(terms, item, holders.get(balance_id(item.ref), 1))
            made += new
            reply.acquired.append(_leased(item, new, settings, held_back=balance_id(item.ref) in held_back))
        elif item.found.spec.kind is BalanceKind.RATE and pause.shares:
            reply.acquired.append(refused(pause.shares))
        elif item.found.spec.kind is BalanceKind.RATE:
            acquired = await rates.acquire_share(
                vault.uow,
                settings,
                balance_id=balance_id(item.ref),
                spec=item.found.spec,
                want=item.want,
                holder=request.holder,
            )
            reply.acquired.append(acquired)
        else:
            reply.acquired.append(await _decide(vault, settings, request, item, pause.leases))
    return reply, made


class _Terms(NamedTuple):
    """What all leases of one reply share."""

    now: datetime
    settings: LeaseSettings
    holder: session.Holder
    revision: int


def _lease(terms: _Terms, item: Asked, holders: int) -> list[LeaseRow]:
    """Takes what is to be had, in burn order; a lease of its own for every run of equal scope and end."""
    assert item.found is not None, "a balance without spec is refused"
    grants = item.grants()
    left = lease_size(
        need=item.want.need,
        amount=max(item.want.amount, item.want.need),
        available=sum(grant.available for grant in grants),
        holders=holders,
        partly=item.found.spec.overage is OveragePolicy.ALLOW,
    )
    made: list[LeaseRow] = []
    run: tuple[object, ...] | None = None
    for grant in grants:
        part = min(left, grant.available)
        if not part:
            break
        if (grant.scope, grant.ends_at) != run:
            run = (grant.scope, grant.ends_at)
            made.append(_new_lease(terms, item, grant))
        made[-1].slices.append(Slice(grant.id, part))
        made[-1].allotted += part
        made[-1].unsettled += part
        grant.available -= part
        grant.leased += part
        left -= part
    return made


def _new_lease(terms: _Terms, item: Asked, grant: GrantRow) -> LeaseRow:
    now, settings, holder, revision = terms
    assert item.found is not None, "a balance without spec is refused"
    ends = [at for at in (grant.ends_at, item.found.entitlements.valid_until) if at is not None]
    never_after = min(ends) if ends else None
    begins_at = max(now, item.at)
    ends_at = begins_at + settings.ttl if never_after is None else min(begins_at + settings.ttl, never_after)
    return LeaseRow(
        id=new_id("lse", now),
        balance_id=grant.balance_id,
        outbox_id=holder.outbox_id,
        incarnation_id=holder.incarnation_id,
        scope=grant.scope,
        allotted=0,
        unsettled=0,
        begins_at=begins_at,
        ends_at=ends_at,
        never_after=never_after,
        quarantine_at=settings.lengthened(now, ends_at),
        revision=revision,
        created_at=now,
        changed_at=now,
    )


def _leased(
    item: Asked, made: Collection[LeaseRow], settings: LeaseSettings, *, held_back: bool
) -> session.Acquired:
    assert item.holding is not None, "an open balance was leased"
    acquired = session.Acquired()
    for lease in made:
        message = acquired.leases.add(lease_id=lease.id, scope=lease.scope)
        for piece in lease.slices:
            beyond = item.holding.grants[piece.grant_id].role == BEYOND_LIMIT
            message.slices.add(grant_id=piece.grant_id, amount=piece.amount, beyond_limit=beyond)
        message.ttl.FromTimedelta(lease.ends_at - lease.created_at)
        message.ends_at.FromDatetime(lease.ends_at)
        if lease.never_after is not None:
            message.never_after.FromDatetime(lease.never_after)
        if lease.begins_at > lease.created_at:
            message.begins_at.FromDatetime(lease.begins_at)
    if sum(lease.allotted for lease in made) < max(1, item.want.need):
        kind = session.REFUSAL_KIND_HELD_BY_OTHERS if held_back else session.REFUSAL_KIND_EXHAUSTED
        # Whoever hears the other says what is left: it need not be nothing.
        words = "others hold what is left" if held_back else ""
        acquired.refusal.CopyFrom(_refused(kind, words).refusal)
        if held_back:
            acquired.refusal.retry_after.FromTimedelta(settings.retry_after)
    return acquired


async def _decide(
    vault: Vault,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    item: Asked,
    pause: timedelta,
) -> session.Acquired:
    """A verdict, at once, but for a gauge that would grow during the pause after a restore: who else holds what may be
    in rows that are sent again by then. One that shrinks frees at once, and `max` and `latest` depend on
    nobody else's value.
    """
    assert item.found is not None, "a balance without spec is refused"
    want, spec = item.want, item.found.spec
    at = want.occurred_at.ToDatetime(vault.now.tzinfo) if want.HasField("occurred_at") else vault.now
    limit = verdicts.most(spec)
    if spec.kind is BalanceKind.GAUGE:
        change = gauges.Change(
            balance_id=balance_id(item.ref),
            holder_id=want.holder_id,
            event_key=want.idempotency_key,
            at=at,
            quantity=want.need,
            adds=want.adds,
            state=gauges.State.VERDICT,
        )
        verdict = await gauges.decide(
            vault.uow,
            change,
            by=gauges.Ask(request.holder.outbox_id, request.holder.incarnation_id, request.request_id),
            customer_id=item.ref.customer_id,
            limit=verdicts.NOTHING_MORE if pause and limit is not None else limit,
            due_at=vault.now + settings.quarantine_lasts,
        )
        if pause and not verdict.allowed:
            return refused(pause)
    else:
        verdict = await verdicts.judge(
            vault.uow, balance_id=balance_id(item.ref), spec=spec, value=want.need, at=at, limit=limit
        )
    if verdict.allowed and item.holding is not None:
        item.holding.touched = True
    return session.Acquired(
        verdict=session.Verdict(allowed=verdict.allowed, used=verdict.used, limit=spec.limit)
    )


def _refused(kind: session.RefusalKind.ValueType, message: str) -> session.Acquired:
    return session.Acquired(refusal=session.LeaseRefusal(kind=kind, message=message))


async def _add_hints(uow: UnitOfWork, asked: Collection[Asked], reply: session.AcquireLeasesResponse) -> None:
    """Tells how each balance stands after the transaction; rates have no hint."""
    vault = Vault(uow, reading=True)
    specs = {
        balance_id(item.ref): item.found.spec
        for item in asked
        if item.found is not None and item.found.spec.kind is not BalanceKind.RATE
    }
    await vault.lock(list(specs))
    standing = await stand(vault, specs)
    for item, acquired in zip(asked, reply.acquired, strict=True):
        stands = standing.get(balance_id(item.ref))
        if stands is not None:
            acquired.hint.CopyFrom(stands.hint())


async def _others(uow: UnitOfWork, holder: session.Holder, balance_ids: Collection[str]) -> set[Other]:
    if not balance_ids:
        return set()
    query = select(leases.c.balance_id, leases.c.id, leases.c.state).where(
        leases.c.balance_id.in_(balance_ids),
        leases.c.state.in_((OPEN, QUARANTINED)),
        leases.c.unsettled > 0,
        or_(leases.c.outbox_id != holder.outbox_id, leases.c.incarnation_id != holder.incarnation_id),
    )
    return {Other(*row) for row in await uow.connection.execute(query)}


async def _have_obeyed(uow: UnitOfWork, recall_ids: Mapping[str, str]) -> set[str]:
    """Leases of which nothing idle is left with their holders: they have said so, and what came back is in the books.

    A lease that was granted while the recall was on its way is not among them: its holder may not have known of it.
    """
    if not recall_ids:
        return set()
    reached = and_(
        sessions.c.outbox_id == recall_answers.c.outbox_id,
        sessions.c.incarnation_id == recall_answers.c.incarnation_id,
        sessions.c.cursor >= recall_answers.c.last_seq,
    )
    query = (
        select(recall_answers.c.lease_ids)
        .join(sessions, reached)
        .where(recall_answers.c.recall_id.in_(recall_ids.values()))
    )
    answers = (await uow.connection.execute(query)).scalars()
    return {lease_id for lease_ids in answers for lease_id in lease_ids}


async def _count_holders(vault: Vault, holder: session.Holder) -> dict[str, int]:
    """Incarnations that hold open leases of each locked balance, the asking one included."""
    query = (
        select(leases.c.balance_id, leases.c.outbox_id, leases.c.incarnation_id)
        .where(leases.c.balance_id.in_(list(vault.held)), leases.c.state == OPEN)
        .distinct()
    )
    found: dict[str, set[tuple[str, str]]] = {
        identity: {(holder.outbox_id, holder.incarnation_id)} for identity in vault.held
    }
    for identity, outbox_id, incarnation_id in await vault.uow.connection.execute(query):
        found[identity].add((outbox_id, incarnation_id))
    return {identity: len(holders) for identity, holders in found.items()}


async def _wait(
    database: Database, settings: LeaseSettings, request: session.AcquireLeasesRequest, pending: Pending
) -> None:
    """Until every holder has obeyed, or enough came back, or the time is over. No transaction is open
    meanwhile.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.recall_wait.total_seconds()
    bus = database.kept(Bus)
    while (left := deadline - loop.time()) > 0:
        async with database.read() as uow:
            obeyed = await _have_obeyed(uow, pending.recall_ids)
            others = await _others(uow, request.holder, list(pending.recall_ids))
            if all(other.lease_id in obeyed or other.state != OPEN for other in others):
                return
            vault = Vault(uow, reading=True)
            held = await vault.lock(list(pending.recall_ids))
            await vault.load_live(list(held))
            if all(_enough(holding, pending.needs[identity], uow.now) for identity, holding in held.items()):
                return
        await asyncio.wait(
            [asyncio.ensure_future(bus.wait_changed(identity, left)) for identity in pending.recall_ids],
            return_when=asyncio.FIRST_COMPLETED,
        )


def _enough(holding: Holding, need: int, now: datetime) -> bool:
    return sum(grant.available for grant in holding.grants.values() if grant.active(now)) >= need
