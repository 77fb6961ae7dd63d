"""Rates: token buckets whose shares never sum to more than the plan's rate. In any window T at most burst +
rate x T pass, fleet-wide.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import delete, insert, select, update

from control_plane.db.types import from_micros, to_micros
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import holder_key, rate_buckets, rate_shares
from control_plane.ledger.holding import insert_missing
from control_plane.ledger.identity import new_id
from purser.sync.v1 import session_pb2 as session
from sidecar.engine import rates as rate_rules
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.rates import MICRO

_SHARE_OF_FREE: Final = 4
"""A holder gets a quarter of what is free to refill by itself; the rest is handed over on demand, by whoever
has it."""

_SOONEST: Final = timedelta(milliseconds=10)


@dataclass(slots=True, kw_only=True)
class Share:
    """What one holder may refill by itself until `free_at`. `burst`: the most that its bucket holds."""

    id: str
    balance_id: str
    outbox_id: str
    incarnation_id: str
    micro_per_second: int
    burst: int
    free_at: datetime


@dataclass(slots=True, kw_only=True)
class Bucket:
    """The control plane's own bucket, and the shares that are out. Tokens are counted in millionths."""

    balance_id: str
    micro_tokens: int
    refilled_at: datetime
    burst: int
    micro_per_second: int
    shares: list[Share]

    def refill(self, now: datetime) -> None:
        """Brings it to an instant. A share that ended meanwhile counts as out until now, which errs on the
        safe side.
        """
        refilled = rate_rules.refill(self._central(), to_micros(now))
        self.micro_tokens = min(refilled.micro_tokens, self.most)
        self.refilled_at = from_micros(refilled.at_micros)
        self.shares = [share for share in self.shares if share.free_at > now]

    @property
    def most(self) -> int:
        """The most that may be in it: burst less what the shares may hold, in millionths."""
        return max(0, self.burst - sum(share.burst for share in self.shares)) * MICRO

    def wait_for(self, need: int, now: datetime) -> timedelta:
        """When asking again can help: it has refilled so far, or a share has ended."""
        waits = [share.free_at - now for share in self.shares]
        _, micros = rate_rules.take(self._central(), need, to_micros(now))
        if micros > 0:
            waits.append(timedelta(microseconds=micros))
        return max(_SOONEST, min(waits, default=_SOONEST))

    def _central(self) -> rate_rules.Bucket:
        """What no share has, as the engine's bucket."""
        free_rate = max(0, self.micro_per_second - sum(share.micro_per_second for share in self.shares))
        return rate_rules.Bucket(
            self.micro_tokens, free_rate, self.most // MICRO, to_micros(self.refilled_at)
        )


class Handed(NamedTuple):
    """What one holder gets: its share as it is now, and tokens (at scale) to put into its bucket."""

    share: Share
    tokens: int


def hand_over(bucket: Bucket, mine: Share, *, need: int, amount: int, free_at: datetime) -> Handed | None:
    """Hands tokens to a share of this bucket, new or prolonged, which never shrinks; None: there are not
    `need`. The bucket is refilled.

    What the share may hold and refill comes out of what no other share has, so the sums stay below burst and
    rate. No token is lost: what stays here still fits, and what is handed over fits there.
    """
    others = [share for share in bucket.shares if share.id != mine.id]
    free_rate = bucket.micro_per_second - sum(share.micro_per_second for share in others)
    free_burst = bucket.burst - sum(share.burst for share in others)
    there = min(bucket.micro_tokens // MICRO, free_burst)
    if there < need:
        return None
    tokens = max(need, min(amount, there // 2))
    left = bucket.micro_tokens - tokens * MICRO
    # What a share may hold comes off what the central bucket may: no more room than is filled now, beside what stays.
    # A prolonged share has less than `need` in it, or than `amount` ahead of need, else its holder would not ask.
    room = min(tokens + min(mine.burst, need or amount), free_burst - -(-left // MICRO))
    share = Share(
        id=mine.id,
        balance_id=mine.balance_id,
        outbox_id=mine.outbox_id,
        incarnation_id=mine.incarnation_id,
        micro_per_second=max(mine.micro_per_second, free_rate // _SHARE_OF_FREE, 0),
        burst=max(mine.burst, room),
        free_at=max(mine.free_at, free_at),
    )
    bucket.shares = [*others, share]
    bucket.micro_tokens = left
    return Handed(share, tokens)


async def acquire_share(
    uow: UnitOfWork,
    settings: LeaseSettings,
    *,
    balance_id: str,
    spec: BalanceSpec,
    want: session.Want,
    holder: session.Holder,
) -> session.Acquired:
    """Gives or prolongs a share of a rate with tokens, or says when to ask again. The balance is locked."""
    bucket = await _load(uow, balance_id, spec)
    bucket.refill(uow.now)
    end = uow.now + settings.rate_ttl
    mine = next((share for share in bucket.shares if _is_of(share, holder)), None)
    fresh = mine is None
    if mine is None:
        mine = Share(
            id=new_id("shr", uow.now),
            balance_id=balance_id,
            outbox_id=holder.outbox_id,
            incarnation_id=holder.incarnation_id,
            micro_per_second=0,
            burst=0,
            free_at=uow.now,
        )
    handed = hand_over(
        bucket, mine, need=want.need, amount=want.amount, free_at=settings.lengthened(uow.now, end)
    )
    await _save(uow, bucket, handed.share if handed else None, fresh=fresh)
    if handed is None:
        return _refusal(bucket, want.need, uow.now)
    share = session.RateShare(
        lease_id=handed.share.id,
        tokens=handed.tokens,
        micro_per_second=handed.share.micro_per_second,
        burst=handed.share.burst,
    )
    share.ttl.FromTimedelta(settings.rate_ttl)
    return session.Acquired(rate_share=share)


def _refusal(bucket: Bucket, need: int, now: datetime) -> session.Acquired:
    if need > bucket.burst:
        return session.Acquired(
            refusal=session.LeaseRefusal(
                kind=session.REFUSAL_KIND_EXHAUSTED, message=f"more than the whole burst of {bucket.burst}"
            )
        )
    refusal = session.LeaseRefusal(
        kind=session.REFUSAL_KIND_HELD_BY_OTHERS, message="the rate is used up for the moment"
    )
    refusal.retry_after.FromTimedelta(bucket.wait_for(need, now))
    refusal.available = bucket.micro_tokens // MICRO
    return session.Acquired(refusal=refusal)


def _is_of(share: Share, holder: session.Holder) -> bool:
    return holder_key(share) == holder_key(holder)


async def _load(uow: UnitOfWork, balance_id: str, spec: BalanceSpec) -> Bucket:
    burst, rate = spec.burst, spec.micro_per_second
    full = {
        "balance_id": balance_id,
        "micro_tokens": burst * MICRO,
        "refilled_at": uow.now,
        "burst": burst,
        "micro_per_second": rate,
    }
    connection = uow.connection
    await connection.execute(insert_missing(uow, rate_buckets), [full])
    query = select(rate_buckets).where(rate_buckets.c.balance_id == balance_id)
    row = (await connection.execute(query)).mappings().one()
    out = select(rate_shares).where(rate_shares.c.balance_id == balance_id)
    shares = [Share(**share) for share in (await connection.execute(out)).mappings()]
    bucket = Bucket(**row, shares=shares)
    bucket.refill(uow.now)
    bucket.burst, bucket.micro_per_second = burst, rate
    return bucket


async def _save(uow: UnitOfWork, bucket: Bucket, changed: Share | None, *, fresh: bool) -> None:
    connection = uow.connection
    out = rate_shares.c.balance_id == bucket.balance_id
    await connection.execute(delete(rate_shares).where(out, rate_shares.c.free_at <= uow.now))
    await connection.execute(
        update(rate_buckets)
        .where(rate_buckets.c.balance_id == bucket.balance_id)
        .values(
            micro_tokens=bucket.micro_tokens,
            refilled_at=bucket.refilled_at,
            burst=bucket.burst,
            micro_per_second=bucket.micro_per_second,
        )
    )
    if changed is None:
        return
    values = {name: getattr(changed, name) for name in Share.__slots__}
    if fresh:
        await connection.execute(insert(rate_shares), [values])
    else:
        await connection.execute(update(rate_shares).where(rate_shares.c.id == changed.id).values(values))
