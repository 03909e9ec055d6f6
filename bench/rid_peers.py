"""What others would use for the resource index: the same nodes, queries and updates, each in its own way.

In: nodes as flat dictionaries, queries, changes. Out: names in order and how many match, so that the
benchmark checks every peer against brute force before it times it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import duckdb
import numpy as np
import polars as pl
from pymongo import UpdateOne
from pymongo.collection import Collection

from schemas.attributes import Value
from schemas.predicate import Condition, Every, Predicate, matches
from schemas.query import Query
from services.rid.index import Index
from tests.rid import mongo

Row = dict[str, Value]
Changes = Sequence[tuple[str, Row]]
Found = tuple[list[str], int]

_SQL = {"gte": ">=", "lt": "<", "lte": "<=", "gt": ">", "eq": "=", "ne": "<>"}
_ASKED = [
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


class Peer(Protocol):
    """An engine that holds nodes.

    Attributes:
        name: for the table.
        together: how many updates it is given at once; where one by one would be hopeless, many.
        quick: whether many of its answers can be checked within the patience of a benchmark.
    """

    name: str
    together: int
    quick: bool

    def ask(self, query: Query) -> Found:
        """The names in order, and how many match."""

    def update(self, changes: Changes) -> None:
        """Change some attributes of some nodes, each of them once."""


class Columns:
    """The index of rid, asked as the service asks it."""

    name, together, quick = "rid columns", 1, True

    def __init__(self, index: Index) -> None:
        self.index = index

    def ask(self, query: Query) -> Found:
        found = self.index.select(query.predicate, order=query.order, limit=query.limit, fields=query.fields)
        return [row["name"] for row in found.nodes], found.total

    def update(self, changes: Changes) -> None:
        for name, values in changes:
            self.index.update(name, values)


class Dicts:
    """One dictionary a node, scanned; also the meaning that all others are held to."""

    name, together, quick = "dict scan", 1, True

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = {str(row["name"]): row for row in rows}

    def ask(self, query: Query) -> Found:
        found = [row for row in self.rows.values() if matches(query.predicate, row)]
        found.sort(key=lambda row: (row["load.1m"], row["name"]))
        return [str(row["name"]) for row in found[: query.limit]], len(found)

    def update(self, changes: Changes) -> None:
        for name, values in changes:
            self.rows[name].update(values)


class Sqlite:
    """SQLite in memory, an index on each attribute that is asked for."""

    name, together, quick = "SQLite", 1000, True

    def __init__(self, rows: list[Row]) -> None:
        self.database = sqlite3.connect(":memory:")
        names = list(rows[0])
        columns = ",".join(f'"{name}"' for name in names)
        self.database.execute(f"create table nodes ({columns}, primary key (name))")
        marks = ",".join("?" * len(names))
        self.database.executemany(
            f"insert into nodes values ({marks})", [tuple(row[name] for name in names) for row in rows]
        )
        for name in _ASKED:
            self.database.execute(f'create index "i.{name}" on nodes ("{name}")')
        self.database.execute("analyze")

    def ask(self, query: Query) -> Found:
        text, values = to_sql(query)
        found = self.database.execute(text, values).fetchall()
        return [row[0] for row in found], found[0][3] if found else 0

    def update(self, changes: Changes) -> None:
        sets = ",".join(f'"{name}"=?' for name in changes[0][1])
        self.database.executemany(
            f"update nodes set {sets} where name=?", [(*values.values(), name) for name, values in changes]
        )
        self.database.commit()


class DuckDb:
    """DuckDB in memory."""

    name, together, quick = "DuckDB", 1000, True

    def __init__(self, rows: pl.DataFrame) -> None:
        self.database = duckdb.connect(":memory:")
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            rows.write_parquet(file.name)
            self.database.execute(f"create table nodes as select * from '{file.name}'")

    def ask(self, query: Query) -> Found:
        text, values = to_sql(query)
        found = self.database.execute(text, values).fetchall()
        return [row[0] for row in found], found[0][3] if found else 0

    def update(self, changes: Changes) -> None:
        names = np.array([name for name, _ in changes], dtype=object)
        columns = {key: np.array([values[key] for _, values in changes]) for key in changes[0][1]}
        self.database.register("changes", {"name": names, **columns})
        sets = ",".join(f'"{name}"=changes."{name}"' for name in changes[0][1])
        self.database.execute(f"update nodes set {sets} from changes where nodes.name=changes.name")
        self.database.unregister("changes")


class Polars:
    """A Polars data frame."""

    name, together, quick = "Polars", 1000, True

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows

    def ask(self, query: Query) -> Found:
        found = (
            self.rows.lazy().filter(_expression(query.predicate)).select(query.fields or pl.all()).collect()
        )
        best = found.sort("load.1m", "name").head(query.limit or len(found))
        return best["name"].to_list(), len(found)

    def update(self, changes: Changes) -> None:
        self.rows = self.rows.update(
            _frame([{"name": name, **values} for name, values in changes]), on="name"
        )


class Mongo:
    """A server that speaks MongoDB's protocol, an index on each attribute that is asked for."""

    together, quick = 1000, False

    def __init__(self, nodes: Collection[dict[str, Any]], rows: list[Row], name: str) -> None:
        self.name = name
        self.nodes = nodes
        for at in range(0, len(rows), 1000):
            self.nodes.insert_many(
                [{"_id": row["name"], "has": _colons(row)} for row in rows[at : at + 1000]], ordered=False
            )
        for attribute in _ASKED:
            self.nodes.create_index(f"has.{attribute.replace('.', ':')}")

    def ask(self, query: Query) -> Found:
        asked = mongo.filter_of(query.predicate)
        wanted = {f"has.{name.replace('.', ':')}": 1 for name in query.fields or ()}
        best = self.nodes.find(asked, wanted).sort([("has.load:1m", 1), ("_id", 1)]).limit(query.limit or 0)
        return [node["_id"] for node in best], self.nodes.count_documents(asked)

    def update(self, changes: Changes) -> None:
        self.nodes.bulk_write(
            [
                UpdateOne(
                    {"_id": name},
                    {"$set": {f"has.{key}": value for key, value in _colons(values).items()}},
                )
                for name, values in changes
            ],
            ordered=False,
        )


def frame_of(rows: list[Row]) -> pl.DataFrame:
    """The nodes as a data frame."""
    return _frame(rows)


def to_sql(query: Query) -> tuple[str, list[Any]]:
    """The same query in SQL; the total of all matches comes with the rows."""
    parts: list[str] = []
    values: list[Any] = []
    for condition in _conditions(query.predicate):
        if condition.op == "in":
            parts.append(f'"{condition.attribute}" in ({",".join("?" * len(condition.value))})')
            values += condition.value
        else:
            parts.append(f'"{condition.attribute}" {_SQL[condition.op]} ?')
            values.append(condition.value)
    where = " and ".join(parts)
    columns = ",".join(f'"{name}"' for name in query.fields or ())
    order = f'order by "load.1m", name limit {query.limit}'
    total = f"(select count(*) from nodes where {where})"
    return f"select {columns}, {total} from nodes where {where} {order}", values * 2


def _expression(predicate: Predicate) -> pl.Expr:
    compare = {"gte": "ge", "lt": "lt", "lte": "le", "gt": "gt", "eq": "eq", "ne": "ne"}
    made = []
    for condition in _conditions(predicate):
        column = pl.col(condition.attribute)
        made.append(
            column.is_in(list(condition.value))
            if condition.op == "in"
            else getattr(column, compare[condition.op])(condition.value)
        )
    return pl.all_horizontal(made)


def _conditions(predicate: Predicate) -> list[Condition]:
    parts = predicate.parts if isinstance(predicate, Every) else (predicate,)
    assert all(isinstance(part, Condition) for part in parts), "the benchmark joins plain conditions"
    return [part for part in parts if isinstance(part, Condition)]


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=1)


def _colons(row: Row) -> Row:
    return {name.replace(".", ":"): value for name, value in row.items()}
