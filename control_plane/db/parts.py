"""Long lists of ids, in statements that every database takes."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

Id = TypeVar("Id")

IN_LIST: Final = 500
"""Ids in one statement: both databases bound the number of parameters."""


def in_parts(ids: Iterable[Id], size: int = IN_LIST) -> Iterator[list[Id]]:
    """The ids in their order, at most `size` at a time; all of them are known before the first part comes."""
    wanted = list(ids)
    return (wanted[start : start + size] for start in range(0, len(wanted), size))
