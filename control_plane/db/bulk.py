"""Many rows at once: appended, changed, and looked up by keys of two parts."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Column, Select, Table, Text, Update, bindparam, func, insert, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.db.parts import in_parts

COPIED: Final = 16
"""From so many rows on, PostgreSQL is given them by COPY: a half of what INSERTs cost it, and a quarter of what they
cost us."""
_PAIRS: Final = 250
"""Keys in one statement, where each is two parameters."""


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


def by_pairs(
    dialect: str,
    wanted: Select[Any],
    columns: tuple[Column[str], Column[str]],
    pairs: Sequence[tuple[str, str]],
) -> Iterator[tuple[Select[Any], dict[str, list[str]]]]:
    """`wanted` of these keys, in as many statements as it takes, each with its parameters.

    PostgreSQL takes them as two arrays: a list of hundreds of pairs is parsed and planned anew each time, which costs
    more than the look-up.
    """
    if dialect == "postgresql":
        first, second = (bindparam(name, type_=ARRAY(Text)) for name in ("firsts", "seconds"))
        asked = func.unnest(first, second).table_valued("one", "other", name="asked").render_derived()
        is_asked = (columns[0] == asked.c.one) & (columns[1] == asked.c.other)
        yield (
            wanted.join_from(columns[0].table, asked, is_asked),
            {
                "firsts": [pair[0] for pair in pairs],
                "seconds": [pair[1] for pair in pairs],
            },
        )
        return
    for part in in_parts(pairs, _PAIRS):
        yield wanted.where(tuple_(*columns).in_(part)), {}
