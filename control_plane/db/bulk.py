"""Many rows at once: appended, changed, and looked up by keys of several columns."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import (
    Column,
    Row,
    Select,
    Table,
    TableValuedAlias,
    Update,
    bindparam,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

AnyRow = Row[*tuple[Any, ...]]
"""A row of a statement whose columns the type checker does not know."""

COPIED: Final = 16
"""From so many rows on, PostgreSQL is given them by COPY: a half of what INSERTs cost it, and a quarter of what they
cost us."""
_PARAMETERS: Final = 500
"""Of keys in one statement on SQLite, where each column is one."""


async def append(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows that all name the same columns. Raises what an INSERT would."""
    if len(rows) >= COPIED and connection.dialect.name == "postgresql":
        await _copy(connection, table, rows)
    elif rows:
        await connection.execute(insert(table), rows)


async def update_rows(
    connection: AsyncConnection, table: Table, key: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Sets the columns that the rows name, all the same ones, in those rows of the table whose `key` they name.

    PostgreSQL takes them as an array for each column, in one statement: one a row costs both sides several times that.
    """
    if rows:
        names = tuple(rows[0])
        if connection.dialect.name == "postgresql":
            columns = {f"all_{name}": [row[name] for row in rows] for name in names}
            await connection.execute(_update_of_arrays(table, key, names), columns)
        else:
            values = [{f"to_{name}": value for name, value in row.items()} for row in rows]
            await connection.execute(_update_one(table, key, names), values)


@cache
def _update_of_arrays(table: Table, key: str, names: tuple[str, ...]) -> Update:
    given = _given([table.c[name] for name in names])
    changed: dict[str, Any] = {name: given.c[name] for name in names if name != key}
    return update(table).where(table.c[key] == given.c[key]).values(changed)


@cache
def _update_one(table: Table, key: str, names: tuple[str, ...]) -> Update:
    changed: dict[str, Any] = {name: bindparam(f"to_{name}") for name in names if name != key}
    return update(table).where(table.c[key] == bindparam(f"to_{key}")).values(changed)


async def _copy(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(rows[0])
    processors = [
        (name, table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect))
        for name in names
    ]
    values = [
        [row[name] if process is None else process(row[name]) for name, process in processors] for row in rows
    ]
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection), "PostgreSQL is spoken to by psycopg"
    try:
        async with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for value in values:
                await copy.write_row(value)
    except psycopg.Error as error:
        # As if SQLAlchemy had executed it: who catches its errors need not know which way the rows went.
        raise DBAPIError.instance(
            f"COPY {table.name}", None, error, psycopg.Error, connection_invalidated=driver.closed
        ) from error


async def read_by_keys(
    connection: AsyncConnection,
    wanted: Select[Any],
    columns: Sequence[Column[Any]],
    keys: Sequence[tuple[Any, ...]],
) -> Sequence[AnyRow]:
    """The rows of `wanted` that have one of these keys.

    PostgreSQL takes an array for each column: a list of hundreds of keys is parsed and planned anew each time, which
    costs more than the look-up.
    """
    if not keys:
        return ()
    if connection.dialect.name == "postgresql":
        query = wanted.where(tuple_(*columns).in_(select(*_given(columns).c)))
        of_columns = zip(columns, zip(*keys, strict=True), strict=True)
        values = {f"all_{column.name}": list(several) for column, several in of_columns}
        rows: Sequence[AnyRow] = (await connection.execute(query, values)).all()
        return rows
    found: list[AnyRow] = []
    at_once = _PARAMETERS // len(columns)
    for start in range(0, len(keys), at_once):
        query = wanted.where(tuple_(*columns).in_(keys[start : start + at_once]))
        found += (await connection.execute(query)).all()
    return found


def _given(columns: Sequence[Column[Any]]) -> TableValuedAlias:
    """A row for each place in the arrays `all_…`, a parameter for each column."""
    arrays = [bindparam(f"all_{column.name}", type_=ARRAY(column.type)) for column in columns]
    names = [column.name for column in columns]
    return func.unnest(*arrays).table_valued(*names, name="given").render_derived()
