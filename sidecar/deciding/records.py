"""What goes into the outbox: usage records as the control plane will book them."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from sidecar.engine.evaluate import CostCharge, Draw
from sidecar.engine.values import BalanceKind, BalanceRef, format_decimal
from sidecar.leases.terms import Taken
from sidecar.outbox.port import LeaseChange
from sidecar.runtime.clock import EPOCH

_MICROSECOND: Final = timedelta(microseconds=1)


def filled(
    message: usage.UsageEvent,
    *,
    customer_id: str,
    subject_id: str,
    occurred_at: datetime,
    key: str = "",
    gauge_feature: str = "",
) -> usage.UsageEvent:
    """The event as the caller sent it, with the ids found, the instant, and the key that it is recorded under."""
    event = usage.UsageEvent()
    event.CopyFrom(message)
    event.customer_id = customer_id
    event.subject_id = subject_id
    if key:
        event.idempotency_key = key
    if gauge_feature:
        event.gauge_feature = gauge_feature
    set_instant(event.occurred_at, occurred_at)
    return event


def set_instant(target: object, at: datetime) -> None:
    """Writes an aware instant into a Timestamp."""
    seconds, micros = divmod((at - EPOCH) // _MICROSECOND, 1_000_000)
    target.seconds = seconds  # type: ignore[attr-defined]
    target.nanos = micros * 1000  # type: ignore[attr-defined]


def fact(event: usage.UsageEvent, *, content_hash: bytes, accepted_at: datetime) -> bytes:
    """A fact: the control plane rates and charges it."""
    record = sync.Usage(event=event, content_hash=content_hash)
    set_instant(record.decided_at, accepted_at)
    return record.SerializeToString()


def decided(
    event: usage.UsageEvent,
    *,
    content_hash: bytes,
    decision_id: str,
    decided_at: datetime,
    view_revision: int,
    draws: Sequence[Draw],
    costs: Sequence[CostCharge],
    covered: Iterable[Taken],
) -> bytes:
    """Decided usage, with what it charges and to which leases."""
    leases: dict[tuple[BalanceRef, str], list[session.LeaseAmount]] = {}
    for taken in covered:
        if not taken.is_rate:
            amount = session.LeaseAmount(lease_id=taken.lease_id, amount=taken.amount)
            leases.setdefault((taken.ref, taken.feature), []).append(amount)
    record = sync.Usage(
        event=event,
        content_hash=content_hash,
        decided=True,
        decision_id=decision_id,
        view_revision=view_revision,
        charges=[_charge(draw, leases) for draw in draws if draw.spec.kind is not BalanceKind.RATE],
        costs=[_cost(cost) for cost in costs],
    )
    set_instant(record.decided_at, decided_at)
    return record.SerializeToString()


def lease_changes(taken: Iterable[Taken], *, held: bool = False) -> tuple[LeaseChange, ...]:
    """What a write does to the leases it draws on: charges them, or holds."""
    sums: dict[str, int] = {}
    for part in taken:
        if not part.is_rate:
            sums[part.lease_id] = sums.get(part.lease_id, 0) + part.amount
    if held:
        return tuple(LeaseChange(lease_id, held=amount) for lease_id, amount in sums.items())
    return tuple(LeaseChange(lease_id, charged=amount) for lease_id, amount in sums.items())


def _charge(draw: Draw, leases: dict[tuple[BalanceRef, str], list[session.LeaseAmount]]) -> sync.Charge:
    ref = draw.ref
    return sync.Charge(
        ref=session.BalanceRef(customer_id=ref.customer_id, subject_id=ref.subject_id, balance=ref.balance),
        covered=leases.get((ref, draw.feature), ()),
        uncovered=draw.uncovered,
        exact=format_decimal(draw.exact),
        feature=draw.feature,
    )


def _cost(cost: CostCharge) -> sync.Cost:
    return sync.Cost(
        feature=cost.feature,
        rate_card=cost.rate_card,
        catalog_revision=cost.catalog_revision,
        unit=cost.unit,
        amount=cost.amount,
        exact=format_decimal(cost.exact),
        billed=cost.billed,
        billed_exact=format_decimal(cost.billed_exact) if cost.billed_exact else "",
    )
