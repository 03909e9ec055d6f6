"""The resource index beside SQLite: queries and updates over the same nodes, in one run.

``python -m bench.rid_query [--nodes 100000] [--queries 300]``. Each answer is checked against brute
force over plain dictionaries before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil

from schemas.attributes import Value
from schemas.predicate import matches
from schemas.query import Query
from services.rid.columns import ColumnIndex

_GIB = 1024**3
_CITIES = ["Athens", "Pisa", "Graz", "Turku", "Delft", "Porto", "Brno", "Cork"]
_SQL = {"$gte": ">=", "$lt": "<", "$lte": "<=", "$gt": ">", "$eq": "=", "$ne": "<>"}
_INDEXED = [
    "cpu.arch",
    "cpu.cores",
    "memory.total",
    "memory.available",
    "load.1m",
    "load.5m",
    "disk.free",
    "gpu",
    "region.city",
    "state",
    "cpu.used",
]


def metrics(rng: random.Random) -> dict[str, Value]:
    """One sample of a node."""
    return {
        "cpu.used": rng.uniform(0, 100),
        "memory.available": rng.randrange(64 * _GIB),
        "load.1m": rng.expovariate(1),
        "load.5m": rng.expovariate(1),
        "load.15m": rng.expovariate(1),
        "disk.free": rng.randrange(2048 * _GIB),
        "network.rx": rng.expovariate(1e-6),
        "network.tx": rng.expovariate(1e-6),
        "temperature": rng.uniform(20, 90),
    }


def node(at: int, rng: random.Random) -> dict[str, Value]:
    """A believable node with 25 attributes."""
    return {
        "name": f"node-{at:07}",
        "id": f"{rng.getrandbits(128):032x}",
        "minicloud": "home",
        "cpu.arch": rng.choice(["x86_64", "x86_64", "aarch64", "armv7l"]),
        "cpu.bits": 64,
        "cpu.cores": rng.choice([1, 2, 4, 8, 16]),
        "memory.total": rng.choice([1, 2, 4, 8, 16, 32, 64]) * _GIB,
        "disk.total": rng.choice([16, 32, 256, 1024]) * _GIB,
        "gpu": rng.random() < 0.1,
        "battery": rng.random() < 0.2,
        "os.name": rng.choice(["debian", "alpine", "ubuntu"]),
        "os.version": rng.choice(["11", "12", "13", "3.19", "22.04"]),
        "region.country": "GR",
        "region.city": rng.choice(_CITIES),
        "state": "alive" if rng.random() < 0.97 else "stale",
        "worker": rng.random() < 0.9,
        **metrics(rng),
    }


def queries(count: int, rng: random.Random) -> list[Query]:
    """Three to five conditions, sorted by a metric, the best 10 to 100."""
    made = []
    for _ in range(count):
        parts: list[dict[str, Any]] = [
            {"cpu.arch": rng.choice(["x86_64", "aarch64"])},
            {"memory.available": {"$gte": rng.randrange(1, 32) * _GIB}},
            {"load.5m": {"$lt": rng.uniform(0.2, 3)}},
            {"region.city": {"$in": rng.sample(_CITIES, 3)}},
            {"gpu": rng.random() < 0.3},
            {"cpu.cores": {"$gte": rng.choice([2, 4, 8])}},
            {"state": "alive"},
            {"temperature": {"$lt": rng.uniform(40, 80)}},
        ]
        where = {name: value for part in rng.sample(parts, rng.randint(3, 5)) for name, value in part.items()}
        made.append(
            Query.model_validate(
                {
                    "where": where,
                    "sort": [{"load.1m": "asc"}],
                    "limit": rng.choice([10, 20, 100]),
                    "fields": ["name", "load.1m", "memory.available"],
                }
            )
        )
    return made


def brute_force(rows: list[dict[str, Value]], query: Query) -> tuple[list[str], int]:
    """The names that the answer must have, and how many match."""
    found = [row for row in rows if matches(query.predicate, row)]
    found.sort(key=lambda row: (row["load.1m"], row["name"]))
    return [str(row["name"]) for row in found[: query.limit]], len(found)


def ask_columns(index: ColumnIndex, query: Query) -> tuple[list[str], int]:
    """The index, as the service asks it."""
    found = index.select(query.predicate, order=query.order, limit=query.limit, fields=query.fields)
    return [row["name"] for row in found.nodes], found.total


def to_sql(query: Query) -> tuple[str, list[Any]]:
    """The same query for SQLite; the total of all matches comes with the rows."""
    assert isinstance(query.where, dict)
    parts, values = [], []
    for name, condition in query.where.items():
        operators = condition if isinstance(condition, dict) else {"$eq": condition}
        for operator, value in operators.items():
            if operator == "$in":
                parts.append(f'"{name}" in ({",".join("?" * len(value))})')
                values += value
            else:
                parts.append(f'"{name}" {_SQL[operator]} ?')
                values.append(value)
    where = " and ".join(parts)
    columns = 'name, "load.1m", "memory.available"'
    count = f"(select count(*) from nodes where {where})"
    order = f'order by "load.1m", name limit {query.limit}'
    return f"select {columns}, {count} from nodes where {where} {order}", values * 2


def sqlite_of(rows: list[dict[str, Value]]) -> sqlite3.Connection:
    """SQLite in memory, an index on each attribute that is asked for."""
    database = sqlite3.connect(":memory:")
    names = list(rows[0])
    database.execute(
        "create table nodes (" + ",".join(f'"{name}"' for name in names) + ", primary key (name))"
    )
    database.executemany(
        f"insert into nodes values ({','.join('?' * len(names))})",
        [tuple(row[n] for n in names) for row in rows],
    )
    for name in _INDEXED:
        database.execute(f'create index "i.{name}" on nodes ("{name}")')
    database.execute("analyze")
    return database


def timed(work: Callable[[Query], Any], asked: list[Query]) -> tuple[float, float]:
    """p50 and p99, milliseconds."""
    taken = []
    for query in asked:
        begun = time.perf_counter()
        work(query)
        taken.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def updates_columns(index: ColumnIndex, changes: list[tuple[str, dict[str, Value]]]) -> float:
    """Updates a second, one node at a time."""
    begun = time.perf_counter()
    for name, values in changes:
        index.update(name, values)
    return len(changes) / (time.perf_counter() - begun)


def updates_sqlite(database: sqlite3.Connection, changes: list[tuple[str, dict[str, Value]]]) -> float:
    """Updates a second, one node at a time in one transaction."""
    sets = ",".join(f'"{name}"=?' for name in changes[0][1])
    begun = time.perf_counter()
    for name, values in changes:
        database.execute(f"update nodes set {sets} where name=?", (*values.values(), name))
    database.commit()
    return len(changes) / (time.perf_counter() - begun)


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--updates", type=int, default=100_000)
    options = parser.parse_args()
    rng = random.Random(1)
    rows = [node(at, rng) for at in range(options.nodes)]
    process = psutil.Process(os.getpid())
    gc.collect()
    before = process.memory_info().rss
    begun = time.perf_counter()
    index = ColumnIndex()
    for row in rows:
        index.put(str(row["name"]), row)
    loading = time.perf_counter() - begun
    bytes_a_node = (process.memory_info().rss - before) / options.nodes
    database = sqlite_of(rows)
    asked = queries(options.queries, rng)
    gc.freeze()
    for query in asked[:25]:
        expected = brute_force(rows, query)
        assert ask_columns(index, query) == expected, query.where
        text, values = to_sql(query)
        assert [row[0] for row in database.execute(text, values)] == expected[0], query.where
    columns = timed(lambda query: ask_columns(index, query), asked * 5)
    sql = timed(lambda query: database.execute(*to_sql(query)).fetchall(), asked[:60])
    changes = [
        (f"node-{rng.randrange(options.nodes):07}", metrics(rng)) for _ in range(min(options.updates, 20_000))
    ] * max(1, options.updates // 20_000)
    column_updates, sql_updates = updates_columns(index, changes), updates_sqlite(database, changes[:20_000])
    state = {str(row["name"]): row for row in rows}
    for name, values in changes:
        state[name].update(values)
    for query in asked[:10]:
        assert ask_columns(index, query) == brute_force(rows, query), query.where
    print(
        f"{options.nodes} nodes x {len(rows[0])} attributes; "
        "answers equal brute force before and after updates"
    )
    print(f"{'engine':<16}{'query p50 ms':>14}{'p99 ms':>10}{'updates/s (9 metrics each)':>30}")
    print(f"{'rid columns':<16}{columns[0]:>14.3f}{columns[1]:>10.3f}{column_updates:>30,.0f}")
    print(f"{'SQLite (memory)':<16}{sql[0]:>14.3f}{sql[1]:>10.3f}{sql_updates:>30,.0f}")
    print(
        f"loaded in {loading:.2f} s, {bytes_a_node:.0f} B a node (values shared with the caller not counted)"
    )


if __name__ == "__main__":
    main()
