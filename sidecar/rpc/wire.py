"""Between `purser.v1` and the engine's values. What arrives here was validated; nothing here can refuse."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from purser.v1 import decision_pb2 as answers
from purser.v1 import usage_pb2 as usage
from sidecar.engine.catalog import ConfigValue
from sidecar.engine.decision import Amount, BalanceState, Freshness
from sidecar.engine.values import format_decimal, format_scaled

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime.fromtimestamp(0, UTC)


def instant(at: Timestamp) -> datetime:
    """An aware datetime in UTC; what is finer than a microsecond is cut off."""
    # Not fromtimestamp: it is for years that the C library knows.
    return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)


def timestamp(at: datetime) -> Timestamp:
    """The inverse of `instant`."""
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def span(of: Duration) -> timedelta:
    """What is finer than a microsecond is cut off."""
    return timedelta(seconds=of.seconds, microseconds=of.nanos // 1000)


def duration(of: timedelta) -> Duration:
    """The inverse of `span`."""
    seconds, micros = divmod(of // _MICROSECOND, 1_000_000)
    return Duration(seconds=seconds, nanos=micros * 1000)


def balance_message(state: BalanceState) -> answers.BalanceState:
    """One balance."""
    scale = state.scale
    return answers.BalanceState(
        balance=state.balance,
        kind=int(state.kind),  # type: ignore[arg-type]  # the numbers are the proto's
        unit=state.unit,
        limit=None if state.limit is None else format_scaled(state.limit, scale),
        used=format_scaled(state.used, scale),
        remaining=None if state.remaining is None else format_scaled(state.remaining, scale),
        overage=format_scaled(state.overage, scale),
        reserved=format_scaled(state.reserved, scale),
        resets_at=None if state.resets_at is None else timestamp(state.resets_at),
        next_expiry_at=None if state.next_expiry_at is None else timestamp(state.next_expiry_at),
    )


def freshness_message(freshness: Freshness) -> answers.Freshness:
    """How old the view was."""
    return answers.Freshness(
        revision=freshness.revision,
        as_of=None if freshness.as_of is None else timestamp(freshness.as_of),
        age=None if freshness.age is None else duration(freshness.age),
        source=int(freshness.source),  # type: ignore[arg-type]  # the numbers are the proto's
    )


def amount_message(amount: Amount) -> usage.Amount:
    """An exact amount."""
    return usage.Amount(unit=amount.unit, value=format_scaled(amount.value, amount.scale))


def value_message(value: ConfigValue) -> answers.FeatureValue:
    """A switch's or a config's value."""
    if isinstance(value, bool):
        return answers.FeatureValue(on=value)
    if isinstance(value, Decimal):
        return answers.FeatureValue(number=format_decimal(value))
    if isinstance(value, str):
        return answers.FeatureValue(text=value)
    if isinstance(value, frozenset):
        return answers.FeatureValue(set=answers.StringSet(items=sorted(value)))
    return answers.FeatureValue(json=json_text(value))


def json_text(value: object) -> str:
    """JSON with exact numbers."""
    if isinstance(value, Decimal):
        return format_decimal(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(json_text(item) for item in value) + "]"
    return json.dumps(value)
