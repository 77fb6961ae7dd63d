"""Granting: what is to be had of each balance that was asked for, in full, in part or not at all. All are locked."""

from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from typing import Final

from sqlalchemy import select

from control_plane.db.among import among
from control_plane.leases import gauges, rates, verdicts
from control_plane.leases.asked import Asked
from control_plane.leases.restored import Pause, refused
from control_plane.leases.rows import OPEN, LeaseRow, Slice
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.sizing import lease_size
from control_plane.leases.tables import HolderKey, holder_key, leases
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id, new_id
from control_plane.ledger.rows import BEYOND_LIMIT, GrantRow
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import OveragePolicy
from sidecar.engine.values import BalanceKind

OTHER_CONTENT: Final = "the idempotency key stands for another change of this holder"


class Granting:
    """All that is granted in one transaction: `made` are the leases, not written yet."""

    def __init__(self, vault: Vault, settings: LeaseSettings, pause: Pause, revision: int) -> None:
        self.made: list[LeaseRow] = []
        self._vault = vault
        self._settings = settings
        self._pause = pause
        self._revision = revision
        self._holders: defaultdict[str, set[HolderKey]] = defaultdict(set)

    @classmethod
    async def begin(cls, vault: Vault, settings: LeaseSettings, pause: Pause, revision: int) -> "Granting":
        """Finds out who holds what of the balances that are held locked: nothing is held by a lease that is settled to
        the last and waits for the sweep. `revision`: the newest that this transaction sees.
        """
        granting = cls(vault, settings, pause, revision)
        query = (
            select(leases.c.balance_id, leases.c.outbox_id, leases.c.incarnation_id)
            .where(
                among(leases.c.balance_id, vault.held),
                leases.c.state == OPEN,
                leases.c.unsettled > 0,
            )
            .distinct()
        )
        for identity, outbox_id, incarnation_id in await vault.uow.connection.execute(query):
            granting._holders[identity].add((outbox_id, incarnation_id))
        return granting

    async def grant(
        self,
        request: session.AcquireLeasesRequest,
        asked: Collection[Asked],
        held_back: Collection[str] = (),
    ) -> session.AcquireLeasesResponse:
        """The reply, an answer for each that was asked for, in order.

        Of the balances in `held_back` others hold something: a refusal is not final.
        """
        reply = session.AcquireLeasesResponse(revision=self._revision)
        for item in asked:
            reply.acquired.append(await self._one(request, item, held_back))
        return reply

    async def _one(
        self, request: session.AcquireLeasesRequest, item: Asked, held_back: Collection[str]
    ) -> session.Acquired:
        if item.found is None:
            return refusal(session.REFUSAL_KIND_NO_SUCH_BALANCE, "not entitled to this balance")
        if item.unlimited:
            return session.Acquired()
        identity, pause = balance_id(item.ref), self._pause
        if item.leased:
            if pause.leases:
                return refused(pause.leases)
            new = self._lease(request.holder, item)
            return _leased(item, new, self._settings, held_back=identity in held_back)
        if item.found.spec.kind is BalanceKind.RATE:
            if pause.shares:
                return refused(pause.shares)
            return await rates.acquire_share(
                self._vault.uow,
                self._settings,
                balance_id=identity,
                spec=item.found.spec,
                want=item.want,
                holder=request.holder,
            )
        return await _decide(self._vault, self._settings, request, item, pause.leases)

    def _lease(self, holder: session.Holder, item: Asked) -> list[LeaseRow]:
        """Takes what is to be had, in burn order; a lease of its own for every run of equal scope and end."""
        assert item.found is not None, "a balance without spec is refused"
        grants = item.grants()
        holders = self._holders[balance_id(item.ref)] | {holder_key(holder)}
        left = lease_size(
            need=item.want.need,
            amount=max(item.want.amount, item.want.need),
            available=sum(grant.available for grant in grants),
            holders=len(holders),
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
                made.append(self._new_lease(holder, item, grant))
            made[-1].slices.append(Slice(grant.id, part))
            made[-1].allotted += part
            made[-1].unsettled += part
            grant.available -= part
            grant.leased += part
            left -= part
        if made:
            self._holders[balance_id(item.ref)] = holders
            self.made += made
        return made

    def _new_lease(self, holder: session.Holder, item: Asked, grant: GrantRow) -> LeaseRow:
        assert item.found is not None, "a balance without spec is refused"
        now, ttl = self._vault.now, self._settings.ttl
        ends = [at for at in (grant.ends_at, item.found.entitlements.valid_until) if at is not None]
        never_after = min(ends) if ends else None
        begins_at = max(now, item.at)
        ends_at = begins_at + ttl if never_after is None else min(begins_at + ttl, never_after)
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
            quarantine_at=self._settings.lengthened(now, ends_at),
            revision=self._revision,
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
        acquired.refusal.CopyFrom(refusal(kind, words).refusal)
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
        verdict: gauges.Verdict | None = await gauges.decide(
            vault.uow,
            change,
            by=gauges.Ask(request.holder.outbox_id, request.holder.incarnation_id, request.request_id),
            customer_id=item.ref.customer_id,
            limit=verdicts.NOTHING_MORE if pause and limit is not None else limit,
            due_at=vault.now + settings.quarantine_lasts,
        )
        if verdict is None:
            # No kind says so, and whoever is refused for want of seats is not let through by a waiver either.
            return refusal(session.REFUSAL_KIND_EXHAUSTED, OTHER_CONTENT)
        if pause and not verdict.allowed:
            return refused(pause)
    else:
        verdict = await verdicts.judge(
            vault.uow, balance_id=balance_id(item.ref), spec=spec, value=want.need, at=at, limit=limit
        )
    if verdict.allowed and item.holding is not None:
        item.holding.touched = True
    return session.Acquired(
        verdict=session.Verdict(
            allowed=verdict.allowed, used=verdict.used, limit=spec.limit, frees=verdict.frees
        )
    )


def refusal(kind: session.RefusalKind.ValueType, message: str) -> session.Acquired:
    """An answer that grants nothing."""
    return session.Acquired(refusal=session.LeaseRefusal(kind=kind, message=message))
