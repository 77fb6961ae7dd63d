"""Column types: instants, amounts at scale, JSON. None of them ever meets a float."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import BigInteger, Dialect, Text, TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


class AmountOutOfRange(ValueError):
    """An amount does not fit 64 bits at its unit's scale."""


def is_storable(text: str) -> bool:
    """Can both databases keep it? PostgreSQL keeps no NUL, and neither of them half of a surrogate pair."""
    return _NOT_STORABLE.search(text) is None


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 UTC. A naive datetime is a TypeError."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


class Instant(TypeDecorator[datetime]):
    """An aware datetime in Python; microseconds since 1970 UTC, 64 bits, in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_micros(value)


class Scaled(TypeDecorator[int]):
    """An amount at its unit's scale. What does not fit 64 bits is refused before it reaches the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is not None and not INT64_MIN <= value <= INT64_MAX:
            raise AmountOutOfRange(f"{value} does not fit 64 bits")
        return value


class Json(TypeDecorator[Any]):
    """Plain data as JSON text. Exact numbers travel as strings or integers in it, never as floats."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)
