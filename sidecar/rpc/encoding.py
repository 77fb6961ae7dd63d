"""Decisions as bytes, without messages in between: the path of every answer.

Most of what an answer says changes only with a plan or a period: names, kinds, units, limits, when a balance resets.
Those fields are encoded once and kept; a call writes its amounts between them (`runtime/fields.py` says why that is a
message again). What is rare (values, shortfalls, explanations) is left to the library and put behind. A property test
says the whole decision in the library's words and compares.
"""

from datetime import datetime
from functools import lru_cache
from typing import Final

from purser.v1 import decision_pb2 as answers
from sidecar.engine.decision import Amount, BalanceState, Decision, Freshness, ViewSource
from sidecar.engine.values import BalanceKind, Reason, format_scaled
from sidecar.rpc import wire
from sidecar.runtime.fields import block, instant, number, span, text

_KEPT_MAX: Final = 8192

# Fields of Decision.
_ID: Final = b"\x0a"
_ALLOWED: Final = b"\x10"
_REASON: Final = b"\x18"
_MESSAGE: Final = b"\x22"
_BALANCES: Final = b"\x32"
_COST: Final = b"\x3a"
_WARNINGS: Final = b"\x5a"
_FRESHNESS: Final = b"\x62"

# Fields of BalanceState.
_NAME: Final = b"\x0a"
_KIND: Final = b"\x10"
_UNIT: Final = b"\x1a"
_LIMIT: Final = b"\x22"
_USED: Final = b"\x2a"
_REMAINING: Final = b"\x32"
_OVERAGE: Final = b"\x3a"
_RESERVED: Final = b"\x42"
_RESETS_AT: Final = b"\x4a"
_NEXT_EXPIRY_AT: Final = b"\x52"
_ZERO: Final = b"\x010"
"""The text `0` with its length."""

_NOTHING_OVER_OR_RESERVED: Final = _OVERAGE + _ZERO + _RESERVED + _ZERO
_NOTHING_RARE: Final = (None, None, None, (), ())


def decision_bytes(decision: Decision) -> bytes:
    """The whole answer."""
    return id_bytes(decision.decision_id) + lasting_bytes(decision) + freshness_bytes(decision.freshness)


def id_bytes(decision_id: str) -> bytes:
    """The field `decision_id`."""
    return text(_ID, decision_id)


def lasting_bytes(decision: Decision) -> bytes:
    """The answer without its id and freshness: what is the same when the same is answered again."""
    parts = [_verdict(decision.allowed, decision.reason, decision.message)]
    parts += [block(_BALANCES, _balance(state)) for state in decision.balances]
    parts.append(_rest(decision))
    return b"".join(parts)


def around_balances(decision: Decision) -> tuple[bytes, bytes]:
    """What of `lasting_bytes` stands before the balances, and what behind them."""
    return _verdict(decision.allowed, decision.reason, decision.message), _rest(decision)


def _rest(decision: Decision) -> bytes:
    parts: list[bytes] = []
    if decision.cost is not None:
        parts.append(_amount(_COST, decision.cost))
    if decision.warnings:
        parts += [block(_WARNINGS, warning.encode()) for warning in decision.warnings]
    rare = (
        decision.value,
        decision.shortfall,
        decision.retry_after,
        decision.upgrade_options,
        decision.explanation,
    )
    if rare != _NOTHING_RARE:
        parts.append(_rare(decision))
    return b"".join(parts)


def freshness_bytes(freshness: Freshness) -> bytes:
    """The field `freshness` of a decision."""
    confirmed = _confirmed(freshness.revision, freshness.as_of, freshness.source)
    return block(_FRESHNESS, confirmed if freshness.age is None else confirmed + span(b"\x1a", freshness.age))


@lru_cache(maxsize=64)
def _confirmed(revision: int, as_of: datetime | None, source: ViewSource) -> bytes:
    since = b"" if as_of is None else instant(b"\x12", as_of)
    return number(b"\x08", revision) + since + number(b"\x20", source)


@lru_cache(maxsize=_KEPT_MAX)
def _verdict(allowed: bool, reason: Reason, message: str) -> bytes:
    return number(_ALLOWED, allowed) + number(_REASON, reason) + text(_MESSAGE, message)


def _balance(state: BalanceState) -> bytes:
    scale = state.scale
    encoded = _spec(state.balance, state.kind, state.unit, scale, state.limit)
    encoded += _amounts(state.used, state.remaining, scale)
    if state.overage or state.reserved:
        encoded += _digits(_OVERAGE, state.overage, scale) + _digits(_RESERVED, state.reserved, scale)
    else:
        encoded += _NOTHING_OVER_OR_RESERVED
    return encoded + _ends(state.resets_at, state.next_expiry_at)


def _amounts(used: int, remaining: int | None, scale: int) -> bytes:
    digits = format_scaled(used, scale).encode()
    if remaining is None:
        return b"%b%c%b" % (_USED, len(digits), digits)
    left = format_scaled(remaining, scale).encode()
    return b"%b%c%b%b%c%b" % (_USED, len(digits), digits, _REMAINING, len(left), left)


def _ends(resets_at: datetime | None, next_expiry_at: datetime | None) -> bytes:
    encoded = b"" if resets_at is None else instant(_RESETS_AT, resets_at)
    return encoded if next_expiry_at is None else encoded + instant(_NEXT_EXPIRY_AT, next_expiry_at)


class BalanceForm:
    """One balance of an answer with nothing over, reserved or near its limit: only what is used and left moves."""

    __slots__ = ("_head", "_scale", "_tail")

    def __init__(self, state: BalanceState) -> None:
        """`state`: of which everything but the amounts lasts."""
        self._scale = state.scale
        self._head = _spec(state.balance, state.kind, state.unit, state.scale, state.limit)
        self._tail = _NOTHING_OVER_OR_RESERVED + _ends(state.resets_at, state.next_expiry_at)

    def encoded(self, used: int, remaining: int | None) -> bytes:
        """The field of the decision."""
        return block(_BALANCES, self._head + _amounts(used, remaining, self._scale) + self._tail)


@lru_cache(maxsize=_KEPT_MAX)
def _spec(name: str, kind: BalanceKind, unit: str, scale: int, limit: int | None) -> bytes:
    encoded = text(_NAME, name) + number(_KIND, kind) + text(_UNIT, unit)
    return encoded if limit is None else encoded + _digits(_LIMIT, limit, scale)


def _digits(tag: bytes, value: int, scale: int) -> bytes:
    return text(tag, format_scaled(value, scale)) if value else tag + _ZERO


def _amount(tag: bytes, amount: Amount) -> bytes:
    return block(tag, text(b"\x0a", amount.unit) + _digits(b"\x12", amount.value, amount.scale))


def _rare(decision: Decision) -> bytes:
    message = answers.Decision(
        value=None if decision.value is None else wire.value_message(decision.value),
        shortfall=None if decision.shortfall is None else wire.amount_message(decision.shortfall),
        retry_after=None if decision.retry_after is None else wire.duration(decision.retry_after),
        upgrade_options=decision.upgrade_options,
    )
    for finding in decision.explanation:
        message.explanation.add(
            step=finding.step,
            about=finding.about,
            finding=finding.finding,
            reason=int(finding.reason),
            source=finding.source,
        )
    return message.SerializeToString()
