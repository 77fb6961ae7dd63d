"""Many rows at once: appended, changed, and looked up by keys of several columns."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Column, Select, Table, Update, bindparam, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.db.parts import in_parts

COPIED: Final = 16
"""From so many rows on, PostgreSQL is given them by COPY: a half of what INSERTs cost it, and a quarter of what they
cost us."""
_PARAMETERS: Final = 500
"""Of keys in one statement, where each column is one."""


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
    arrays = [bindparam(f"all_{name}", type_=ARRAY(table.c[name].type)) for name in names]
    given = func.unnest(*arrays).table_valued(*names, name="given").render_derived()
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


def by_keys(
    dialect: str, wanted: Select[Any], columns: Sequence[Column[Any]], keys: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[Select[Any], dict[str, list[Any]]]]:
    """`wanted` of these keys, in as many statements as it takes, each with its parameters.

    PostgreSQL takes an array for each column: a list of hundreds of keys is parsed and planned anew each time, which
    costs more than the look-up.
    """
    if dialect == "postgresql":
        names = [f"asked_{column.name}" for column in columns]
        arrays = [
            bindparam(name, type_=ARRAY(column.type)) for name, column in zip(names, columns, strict=True)
        ]
        asked = func.unnest(*arrays).table_valued(*names, name="asked").render_derived()
        if keys:
            of_columns = map(list, zip(*keys, strict=True))
            yield (
                wanted.where(tuple_(*columns).in_(select(*asked.c))),
                dict(zip(names, of_columns, strict=True)),
            )
        return
    for part in in_parts(keys, _PARAMETERS // len(columns)):
        yield wanted.where(tuple_(*columns).in_(part)), {}
