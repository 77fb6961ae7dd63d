"""PostgreSQL without us: what the same rows cost as plain statements, for so many seconds.

`inserts`: what ReportBatch has written, again under new names, into tables of the same shape with the same indexes; a
multi-row INSERT per table and a transaction per batch. `updates`: `UPDATE … RETURNING` of one row, a transaction each.
Prints how many rows of events, or transactions, it made per second. `psycopg` alone, a connection per thread.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

BATCH = 500
SCHEMA = "bare"
TAKE = f"UPDATE {SCHEMA}.grants SET available = available - %s, leased = leased + %s WHERE id = %s RETURNING available"
_PATIENCE_SECONDS = 60
TABLES = ("events", "event_keys", "postings")
ALL_TABLES = ("events", "event_keys", "transactions", "postings", "event_charges", "event_costs")
_BATCHES = count(int(time.time() * 1000) % 100_000_000 * 10)

Work = Callable[[psycopg.Connection, int], int]


def prepare(connection: psycopg.Connection) -> None:
    """Empty tables of the same shape, and the grants as they are."""
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    for table in (*ALL_TABLES, "grants"):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {SCHEMA}.{table} (LIKE public.{table} INCLUDING ALL)")
    connection.execute(f"TRUNCATE {SCHEMA}.grants")
    connection.execute(f"INSERT INTO {SCHEMA}.grants SELECT * FROM public.grants")
    connection.commit()


class Inserts:
    """One batch as it was booked, and copies of it under other names."""

    def __init__(self, connection: psycopg.Connection, tables: Sequence[str]) -> None:
        self._templates = {table: _booked(connection, table) for table in tables}
        self.events = len(next(iter(self._templates.values())).rows)

    def __call__(self, connection: psycopg.Connection, thread: int) -> int:
        batch = next(_BATCHES)
        for table, template in self._templates.items():
            connection.execute(template.insert(table), template.renamed(batch))
        connection.commit()
        return self.events


class _Template:
    """Rows of one table."""

    def __init__(self, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        self.columns = columns
        self.rows = [tuple(Jsonb(v) if isinstance(v, dict | list) else v for v in row) for row in rows]
        self._ids = {
            n
            for n, column in enumerate(columns)
            if column in {"uid", "id", "event_uid", "transaction_id", "idempotency_key"}
        }
        line = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(columns)))
        self._lines = sql.SQL(", ").join([line] * len(rows))

    def insert(self, table: str) -> sql.Composed:
        return sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
            sql.Identifier(SCHEMA, table), sql.SQL(", ").join(map(sql.Identifier, self.columns)), self._lines
        )

    def renamed(self, batch: int) -> list[Any]:
        """All values in a row; every name ends with the batch's number and its own, and is as long as it was."""
        ends: dict[str, str] = {}
        found: list[Any] = []
        for row in self.rows:
            for n, value in enumerate(row):
                if n in self._ids and isinstance(value, str):
                    end = ends.setdefault(value, f"{batch:010}{len(ends):06}")
                    found.append(value[: -len(end)] + end)
                else:
                    found.append(value)
        return found


def _booked(connection: psycopg.Connection, table: str) -> _Template:
    """What the latest batch has left in it; the names' ends tell its rows apart."""
    latest = (
        "SELECT uid, transaction_id, customer_id, idempotency_key FROM public.events ORDER BY recorded_at DESC,"
        f" uid DESC LIMIT {BATCH}"
    )
    joins = {
        "events": "t.uid = e.uid",
        "event_keys": "(t.customer_id, t.idempotency_key) = (e.customer_id, e.idempotency_key)",
        "transactions": "t.id = e.transaction_id",
        "postings": "t.transaction_id = e.transaction_id",
        "event_charges": "t.event_uid = e.uid",
        "event_costs": "t.event_uid = e.uid",
    }
    found = connection.execute(f"SELECT t.* FROM public.{table} t JOIN ({latest}) e ON {joins[table]}")
    columns = [column.name for column in found.description or ()]
    return _Template(columns, found.fetchall())


class Updates:
    """The grant of one customer after another, each thread its own."""

    def __init__(self, connection: psycopg.Connection, threads: int) -> None:
        ids = [row[0] for row in connection.execute(f"SELECT id FROM {SCHEMA}.grants ORDER BY id")]
        self._ids = [ids[thread::threads] for thread in range(threads)]
        self._turns = [count() for _ in range(threads)]

    def __call__(self, connection: psycopg.Connection, thread: int) -> int:
        ids = self._ids[thread]
        taken = connection.execute(TAKE, (1_000, 1_000, ids[next(self._turns[thread]) % len(ids)]))
        assert taken.fetchone() is not None, "there is such a grant"
        connection.commit()
        return 1


def per_second(conninfo: str, work: Work, *, threads: int, seconds: float) -> float:
    """Over all threads, from their start to the last one's end."""
    ready = threading.Barrier(threads + 1, timeout=_PATIENCE_SECONDS)

    def run(thread: int) -> int:
        with psycopg.connect(conninfo) as connection:
            try:
                work(connection, thread)  # plans and pages are warm
                ready.wait()
            except BaseException:
                ready.abort()  # nobody waits for one that does not come
                raise
            done, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                done += work(connection, thread)
            return done

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run, thread) for thread in range(threads)]
        with suppress(threading.BrokenBarrierError):  # whoever broke it says why, below
            ready.wait()
        began = time.perf_counter()
        done = sum(one.result() for one in running)
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["inserts", "all-inserts", "updates"])
    parser.add_argument("--conninfo", required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    with psycopg.connect(options.conninfo) as connection:
        prepare(connection)
        work: Work
        match options.what:
            case "inserts":
                work = Inserts(connection, TABLES)
            case "all-inserts":
                work = Inserts(connection, ALL_TABLES)
            case _:
                work = Updates(connection, options.threads)
    rate = per_second(options.conninfo, work, threads=options.threads, seconds=options.seconds)
    print(json.dumps({"per_second": rate}))


if __name__ == "__main__":
    main()
