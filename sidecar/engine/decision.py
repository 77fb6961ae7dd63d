"""The answer: everything that a caller needs to act on a decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from sidecar.engine.catalog import ConfigValue
from sidecar.engine.values import BalanceKind, BalanceRef, Finding, Reason


class ViewSource(IntEnum):
    """Where the view came from; numbers as in `purser.v1.ViewSource`."""

    UNSPECIFIED = 0
    LIVE = 1
    CACHED = 2
    PERSISTED = 3
    FALLBACK = 4


class Freshness(NamedTuple):
    """How old the view behind an answer is. `as_of` and `age` None: never confirmed."""

    revision: int
    as_of: datetime | None
    age: timedelta | None
    source: ViewSource


class Standing(NamedTuple):
    """How a balance stands, as the shell knows it: for answers, never for deciding. Amounts at the balance's scale."""

    limit: int | None
    """The limit or what was granted and is active. None: unlimited."""
    used: int
    overage: int = 0
    reserved: int = 0
    remaining: int | None = None
    """Wallets: what is left. None: it follows from limit, used and reserved."""
    resets_at: datetime | None = None
    next_expiry_at: datetime | None = None


Standings = Mapping[BalanceRef, Standing]


class BalanceState(NamedTuple):
    """One balance that a decision touched. Amounts at `scale`; None: unlimited."""

    balance: str
    kind: BalanceKind
    unit: str
    scale: int
    limit: int | None
    used: int
    remaining: int | None
    overage: int
    reserved: int
    resets_at: datetime | None
    next_expiry_at: datetime | None


class Amount(NamedTuple):
    """An amount of one unit at its scale."""

    unit: str
    value: int
    scale: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one question; fields as in `purser.v1.Decision`."""

    decision_id: str
    allowed: bool
    reason: Reason
    message: str
    freshness: Freshness
    value: ConfigValue = None
    balances: tuple[BalanceState, ...] = ()
    cost: Amount | None = None
    shortfall: Amount | None = None
    retry_after: timedelta | None = None
    upgrade_options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    explanation: tuple[Finding, ...] = ()
