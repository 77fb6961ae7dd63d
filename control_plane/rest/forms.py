"""The forms of values in JSON: ids, exact amounts, instants."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from control_plane.db.types import is_storable
from sidecar.engine.catalog import Catalog
from sidecar.engine.values import NotANumber, format_decimal, from_scaled, parse_decimal

MAX_ID_BYTES = 255


class Form(BaseModel):
    """A request's body. What it does not know is an error, not ignored."""

    model_config = ConfigDict(extra="forbid", str_max_length=10_000)


def _id(value: str) -> str:
    if not 1 <= len(value.encode()) <= MAX_ID_BYTES:
        raise ValueError(f"1 to {MAX_ID_BYTES} bytes")
    if not value.isprintable():
        raise ValueError("without control characters")
    return value


def example(text: str) -> Any:
    """What the documentation shows in this field."""
    return Field(examples=[text])


Id = Annotated[str, AfterValidator(_id)]
CustomerId = Annotated[Id, example("acme")]


def _text(value: str) -> str:
    if not is_storable(value):
        raise ValueError("without NUL")
    return value


Text = Annotated[str, AfterValidator(_text)]
"""What people write. (Half of a surrogate pair is no text to pydantic already.)"""


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('write it as a decimal string, such as "20.5": a number would lose digits')  # noqa: TRY004 - pydantic turns a ValueError into a problem
    try:
        return parse_decimal(str(value))
    except NotANumber as error:
        raise ValueError(str(error)) from error


Exact = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    WithJsonSchema({"type": ["string", "integer"], "pattern": r"^-?\d+(\.\d+)?$", "examples": ["20.5"]}),
]
"""A decimal string or an integer; never a float."""


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside of the years 1 to 9999 in UTC") from error


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
"""RFC 3339 with an offset; kept in UTC, to the microsecond."""

ExternalIds = Annotated[
    dict[Annotated[Id, example("crm")], Annotated[Text, Field(max_length=MAX_ID_BYTES)]], Field(max_length=64)
]


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC: `2030-01-01T12:00:00Z`, with microseconds where there are any."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def amount(scaled: int | None, scale: int) -> str | None:
    """An amount as an exact decimal string."""
    return None if scaled is None else format_decimal(from_scaled(scaled, scale))


def scale_of(catalog: Catalog, unit: str) -> int | None:
    """The scale of a unit; None: the catalog does not have it."""
    found = catalog.units.get(unit)
    return None if found is None else found.scale
