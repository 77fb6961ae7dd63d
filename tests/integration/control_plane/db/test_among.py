"""`among`: one parameter, however many ids, on both databases."""

import pytest
from sqlalchemy import insert, select

from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.engine import create_engine
from control_plane.db.migrate import upgrade
from control_plane.db.unit_of_work import Database

ODD = ["a", "b, c", 'quo"ted', "back\\slash", "{}", "[1]", "NULL", "é 漢", "%s", ":name", ""]


@pytest.fixture
async def there(database: Database) -> Database:
    """With a customer of each odd name."""
    async with database.begin() as uow:
        rows = [{"id": name, "name": "", "external_ids": {}, "created_at": uow.now} for name in ODD]
        await uow.connection.execute(insert(customers), [{**row, "version": 1} for row in rows])
    return database


async def found(database: Database, *, but: bool = False, ids: list[str]) -> list[str]:
    """Customers with one of these names, or with none of them."""
    condition = among(customers.c.id, ids)
    query = select(customers.c.id).where(~condition if but else condition)
    async with database.read() as uow:
        return sorted((await uow.connection.execute(query)).scalars())


async def test_those_and_no_others(there: Database) -> None:
    """Names are compared as they are, whatever is in them."""
    assert await found(there, ids=ODD) == sorted(ODD)
    assert await found(there, ids=["a", "absent", "a"]) == ["a"]
    assert await found(there, but=True, ids=ODD[1:]) == ["a"]


async def test_none_and_very_many(there: Database) -> None:
    """More than a database takes parameters."""
    assert await found(there, ids=[]) == []
    assert await found(there, ids=[f"absent-{n}" for n in range(100_000)] + ["a"]) == ["a"]


async def test_a_name_with_nul_is_nobodys(there: Database) -> None:
    """PostgreSQL would refuse the statement, SQLite's JSON might cut it short."""
    assert await found(there, ids=["a\0", "a\0b", "b, c"]) == ["b, c"]


async def test_sqlite_looks_into_the_index(sqlite_url: str) -> None:
    """PostgreSQL decides by its statistics."""
    database = Database(create_engine(sqlite_url))
    query = select(customers.c.name).where(among(customers.c.id, ["a"]))
    await upgrade(sqlite_url)
    async with database.read() as uow:
        text = str(query.compile(dialect=uow.connection.dialect))
        plan = (await uow.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ('["a"]',))).all()
    await database.close()
    assert any("USING INDEX" in row.detail for row in plan), plan
