"""`among`: rows whose column is one of many ids."""

import json
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Boolean, Dialect, Text, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from control_plane.db.types import is_storable

_TEXTS: Final = ARRAY(Text())


class _Ids(TypeDecorator[list[str]]):
    """An array on PostgreSQL, the text of a JSON list on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_TEXTS if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> Any:
        possible = [one for one in value or () if is_storable(one)]  # neither database has a row of any other
        return possible if dialect.name == "postgresql" else json.dumps(possible)


class _Among(FunctionElement[bool]):
    name = "among"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        """As it is: SQLite, which has no booleans, would be given `… = 1`, and would not look into its index."""
        return self


def among(column: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
    """Is the column's value one of these, however many there are?

    They are one parameter, so the statement is the same for all numbers of them: neither side parses and plans it anew
    each time, as it does with `column.in_(ids)`, and no database's bound on parameters is in the way.
    """
    return _Among(column, bindparam(None, list(ids), type_=_Ids(), unique=True))


@compiles(_Among, "postgresql")
def _on_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY ({ids})"


@compiles(_Among, "sqlite")
def _on_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 - both are SQLAlchemy's
