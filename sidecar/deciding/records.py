"""What goes into the outbox: usage records as the control plane will book them.

Decided usage is on the path of every consume and so written field by field (`runtime/fields.py`), with what is the same
for every call of a customer kept encoded; a property test holds it against the library.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from sidecar.engine.evaluate import CostCharge, Draw
from sidecar.engine.values import BalanceKind, BalanceRef, format_decimal
from sidecar.leases.terms import Taken
from sidecar.outbox.port import LeaseChange
from sidecar.runtime.clock import EPOCH
from sidecar.runtime.fields import block, moment, number, text

_MICROSECOND: Final = timedelta(microseconds=1)
_KEPT_MAX: Final = 8192


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
    covered: tuple[Taken, ...],
    by_verdict: bool = False,
) -> tuple[bytes, tuple[LeaseChange, ...]]:
    """Decided usage, with what it charges and to which leases: a `purser.sync.v1.Usage`, written by hand; and what that
    does to the leases. `by_verdict`: the control plane allowed this change of a gauge.
    """
    usage, changes = DecidedForm(draws, costs).encoded(
        event.SerializeToString(),
        content_hash=content_hash,
        decision_id=decision_id,
        decided_at=moment(decided_at),
        view_revision=view_revision,
        covered=covered,
    )
    return usage + (b"\x48\x01" if by_verdict else b""), changes


class DecidedForm:
    """Decided usage with the same draws and costs, whatever its event, its moment, and the leases that pay."""

    __slots__ = ("_charges", "_costs", "_last")

    def __init__(self, draws: Sequence[Draw], costs: Sequence[CostCharge]) -> None:
        """Rates are not booked."""
        self._charges = [
            ((draw.ref, draw.feature), _ref(draw.ref), _charge(draw))
            for draw in draws
            if draw.spec.kind is not BalanceKind.RATE
        ]
        self._costs = b"".join([_cost(cost) for cost in costs])
        self._last: tuple[tuple[Taken, ...], bytes, tuple[LeaseChange, ...]] | None = None

    def encoded(
        self,
        event: bytes,
        *,
        content_hash: bytes,
        decision_id: str,
        decided_at: bytes,
        view_revision: int,
        covered: tuple[Taken, ...],
    ) -> tuple[bytes, tuple[LeaseChange, ...]]:
        """A `purser.sync.v1.Usage`, and what it does to leases.

        `event`: an encoded UsageEvent; `decided_at`: an encoded Timestamp.
        """
        last = self._last
        if last is None or covered != last[0]:
            # The next call is paid by the same lease, most often.
            last = self._last = covered, self._paid(covered), lease_changes(covered)
        _, paid, changes = last
        decided = (
            block(b"\x0a", event) + block(b"\x12", content_hash) + b"\x18\x01" + text(b"\x22", decision_id)
        )
        return decided + block(b"\x2a", decided_at) + number(b"\x30", view_revision) + paid, changes

    def _paid(self, covered: tuple[Taken, ...]) -> bytes:
        """The charges, each with the leases that cover it, and the costs."""
        leases: dict[tuple[BalanceRef, str], bytes] = {}
        for ref, feature, lease_id, amount, _, is_rate in covered:
            if not is_rate:
                of = ref, feature
                leases[of] = leases.get(of, b"") + _covered(lease_id, amount)
        parts = []
        for of, head, tail in self._charges:
            paid = leases.get(of, b"")
            parts.append(block(b"\x3a", head + paid + tail))
        parts.append(self._costs)
        return b"".join(parts)


def lease_changes(taken: Iterable[Taken], *, held: bool = False) -> tuple[LeaseChange, ...]:
    """What a write does to the leases it draws on: charges them, or holds."""
    sums: dict[str, int] = {}
    for _, _, lease_id, amount, _, is_rate in taken:
        if not is_rate:
            sums[lease_id] = sums.get(lease_id, 0) + amount
    if held:
        return tuple([LeaseChange(lease_id, 0, amount) for lease_id, amount in sums.items()])
    return tuple([LeaseChange(lease_id, amount) for lease_id, amount in sums.items()])


@lru_cache(maxsize=_KEPT_MAX)
def _covered(lease_id: str, amount: int) -> bytes:
    return block(b"\x12", text(b"\x0a", lease_id) + number(b"\x10", amount))


def _charge(draw: Draw) -> bytes:
    exact = text(b"\x22", format_decimal(draw.exact))
    return number(b"\x18", draw.uncovered) + exact + text(b"\x2a", draw.feature)


@lru_cache(maxsize=_KEPT_MAX)
def _ref(ref: BalanceRef) -> bytes:
    return block(
        b"\x0a", text(b"\x0a", ref.customer_id) + text(b"\x12", ref.subject_id) + text(b"\x1a", ref.balance)
    )


def _cost(cost: CostCharge) -> bytes:
    encoded = _card(cost.feature, cost.rate_card, cost.catalog_revision, cost.unit)
    encoded += number(b"\x28", cost.amount) + text(b"\x32", format_decimal(cost.exact))
    encoded += number(b"\x38", cost.billed)
    if cost.billed_exact:
        encoded += text(b"\x42", format_decimal(cost.billed_exact))
    return block(b"\x42", encoded)


@lru_cache(maxsize=_KEPT_MAX)
def _card(feature: str, rate_card: str, catalog_revision: int, unit: str) -> bytes:
    price = text(b"\x12", rate_card) + number(b"\x18", catalog_revision)
    return text(b"\x0a", feature) + price + text(b"\x22", unit)
