"""Lists in pages: `{"items", "next_cursor"}`."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Annotated, Any

import orjson
from fastapi import Query
from sqlalchemy import ColumnElement, and_, or_

from control_plane.db.types import is_storable
from control_plane.errors import FieldProblem, Invalid

MAX_LIMIT = 1000
LAST_KEY = 2**62
"""Above every revision and every instant in microseconds."""

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="The most items of one page.")]
LimitOfAll = Annotated[
    int,
    Query(ge=1, le=MAX_LIMIT, description="The most items of one page. What stands beside them is of all."),
]
Cursor = Annotated[
    str | None, Query(max_length=2000, description="`next_cursor` of the page before; none: the first page.")
]


def page(items: Sequence[Any], keys: Sequence[Sequence[str | int]], limit: int) -> dict[str, Any]:
    """A page of at most `limit` items; pass one item more than that when there is one, and the key of each."""
    more = len(items) > limit
    return {"items": list(items[:limit]), "next_cursor": encode(keys[limit - 1]) if more else None}


def page_of_all(
    keyed: Iterable[tuple[tuple[str, ...], Any]], limit: int, cursor: str | None, names: int
) -> dict[str, Any]:
    """A page of a list that is computed as a whole each time, by keys of `names` texts. Raises Invalid."""
    after = tuple(decode(cursor, ("",) * names)) if cursor else ()
    rest = sorted((pair for pair in keyed if pair[0] > after), key=itemgetter(0))[: limit + 1]
    return page([item for _, item in rest], [key for key, _ in rest], limit)


def comes_after(
    first: ColumnElement[Any], first_value: Any, second: ColumnElement[Any], second_value: Any
) -> ColumnElement[bool]:
    """Rows behind this place in the order of two columns."""
    return or_(first > first_value, and_(first == first_value, second > second_value))


def encode(key: Sequence[str | int]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).decode().rstrip("=")


def decode(cursor: str | None, first: Sequence[str | int]) -> Sequence[Any]:
    """The key after which the page begins; `first` for the first page, and for the types. Raises Invalid."""
    if not cursor:
        return first
    try:
        key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise Invalid(FieldProblem("cursor", "not one that was answered here")) from error
    if not isinstance(key, list) or [type(part) for part in key] != [type(part) for part in first]:
        raise Invalid(FieldProblem("cursor", "not one that was answered here"))
    if not all(_is_key(part) for part in key):
        raise Invalid(FieldProblem("cursor", "not one that was answered here"))
    return key


def _is_key(part: str | int) -> bool:
    """Can a column hold it?"""
    return is_storable(part) if isinstance(part, str) else 0 <= part <= LAST_KEY
