"""What the specs of a balance come to at an instant: its periodic occurrences, under ids that follow from what they
are.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from control_plane.ledger.holding import Holding
from control_plane.ledger.identity import balance_id, occurrence_id
from control_plane.ledger.rows import BASE, BEYOND_LIMIT, BalanceRow, GrantRow
from sidecar.engine.catalog import BalanceScope, OveragePolicy
from sidecar.engine.entitlement import BalanceSpec, Entitlements, GrantSpec
from sidecar.engine.values import BalanceKind, BalanceRef, format_decimal

COUNTED: Final = frozenset({BalanceKind.ALLOWANCE, BalanceKind.BUDGET})
"""Kinds whose limit is a grant occurrence per period."""
COUNTED_NAMES: Final = frozenset(kind.name for kind in COUNTED)
"""The same, as rows name them."""


class Wanted(NamedTuple):
    """A balance to be opened, by what spec, for which instant."""

    ref: BalanceRef
    spec: BalanceSpec
    at: datetime
    grants: Sequence[GrantSpec] = ()
    """For a wallet: what its customer's plans put into wallets."""


def own_balances(customer_id: str, entitlements: Entitlements, at: datetime) -> list[Wanted]:
    """The customer's own balances; those of subjects and parents are made when an event touches them."""
    return [
        Wanted(BalanceRef(customer_id, "", spec.name), spec, at, entitlements.grants)
        for spec in entitlements.balances.values()
        if spec.scope is BalanceScope.CUSTOMER
    ]


def new_balance(item: Wanted, now: datetime) -> BalanceRow:
    """The row of a balance that nobody has touched yet."""
    ref, spec = item.ref, item.spec
    return BalanceRow(
        id=balance_id(ref),
        customer_id=ref.customer_id,
        subject_id=ref.subject_id,
        name=ref.balance,
        kind=spec.kind.name,
        unit=spec.unit,
        scale=spec.scale,
        overage=0,
        version=0,
        changed_at=now,
    )


def occurrences(holding: Holding, item: Wanted, now: datetime) -> Iterator[GrantRow]:
    """What a balance's spec comes to at the instant asked for, whether or not it is there already."""
    if item.spec.kind is BalanceKind.WALLET:
        for grant in item.grants:
            if grant.balance == item.spec.name and grant.amount:
                yield from recurrences(holding, grant, item.at, now)
    elif item.spec.kind in COUNTED and item.spec.limit is not None and not item.spec.decided_remotely:
        yield from limit_occurrences(holding, item.spec, item.at, now)


def limit_occurrences(holding: Holding, spec: BalanceSpec, at: datetime, now: datetime) -> Iterator[GrantRow]:
    """What a limit comes to at an instant: its period's occurrence, and one for what may be used beyond
    it.
    """
    assert spec.limit is not None, "an unlimited balance has no occurrence"
    window = spec.period.window(at) if spec.period is not None else None
    parts = [(BASE, spec.limit)]
    if spec.overage is OveragePolicy.ALLOW_UP_TO:
        parts.append((BEYOND_LIMIT, spec.cap))
    begins_at = window.start if window else _BEGINNING
    for role, amount in parts:
        yield GrantRow(
            id=occurrence_id(holding.row.id, role, begins_at, ""),
            balance_id=holding.row.id,
            customer_id=holding.row.customer_id,
            role=role,
            amount=amount,
            target=amount,
            available=amount,
            priority=0,
            scope=[],
            effective_at=begins_at,
            expires_at=window.end if window else None,
            window_start=window.start if window else None,
            cost_basis="0",
            source=", ".join(spec.sources) or "plan",
            created_at=now,
        )


_BEGINNING: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def recurrences(holding: Holding, spec: GrantSpec, at: datetime, now: datetime) -> Iterator[GrantRow]:
    """The plan's grant that is in force at an instant."""
    if spec.period is None:
        if spec.starts_at <= at:
            ends_at = spec.expires_after.after(spec.starts_at) if spec.expires_after else None
            yield _recurrence(
                holding,
                spec,
                begins_at=spec.starts_at,
                effective_at=spec.starts_at,
                expires_at=ends_at,
                now=now,
            )
        return
    number = spec.period.number(at)
    begins_at, ends_at = spec.period.begins(number), spec.period.begins(number + 1)
    effective_at = max(begins_at, spec.starts_at)
    if effective_at < ends_at and (spec.ends_at is None or effective_at < spec.ends_at):
        if spec.expires_after is not None:
            ends_at = spec.expires_after.after(effective_at)
        rolls_until = spec.period.begins(number + 2) if spec.rollover_max else None
        yield _recurrence(
            holding,
            spec,
            begins_at=begins_at,
            effective_at=effective_at,
            expires_at=ends_at,
            rolls_until=rolls_until,
            now=now,
        )


def _recurrence(
    holding: Holding,
    spec: GrantSpec,
    *,
    begins_at: datetime,
    effective_at: datetime,
    expires_at: datetime | None,
    now: datetime,
    rolls_until: datetime | None = None,
) -> GrantRow:
    return GrantRow(
        id=occurrence_id(holding.row.id, BASE, begins_at, spec.key),
        balance_id=holding.row.id,
        customer_id=holding.row.customer_id,
        role=BASE,
        amount=spec.amount,
        target=spec.amount,
        available=spec.amount,
        priority=spec.priority,
        scope=sorted(spec.scope),
        effective_at=effective_at,
        expires_at=expires_at,
        window_start=None,
        cost_basis=format_decimal(Decimal(spec.cost_basis)),
        rollover_max=spec.rollover_max,
        rolls_until=rolls_until,
        source=spec.source,
        created_at=now,
    )
