"""Standing queries: whatever happens, what a reader holds is the query's answer, with every engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from schemas.attributes import Value
from schemas.errors import InvalidQuery
from schemas.predicate import matches
from schemas.query import Query, parse_query
from schemas.standing import StandingItem
from services.rid import sieve_columns
from services.rid.columns import ColumnIndex
from services.rid.fresh import HEARD, rewritten
from services.rid.index import Index
from services.rid.rows import RowIndex
from services.rid.standing import Standing, Watcher
from tests.rid import fleets


class Reader:
    """Whoever asked once, and holds what it was told."""

    def __init__(self, watcher: Watcher, query: Query) -> None:
        self.watcher = watcher
        self.query = query
        self.held: dict[str, dict[str, Any]] = {}
        self.kinds: list[str] = []
        self.synced = False

    def read(self, most: int = 100) -> list[StandingItem]:
        items = self.watcher.pull(most)
        for item in items:
            self.take(item)
        return items

    def take(self, item: StandingItem) -> None:
        self.kinds.append(item.kind)
        match item.kind:
            case "RESYNC":
                assert self.synced, "a reader that is not in step yet needs no resync"
                self.synced = False
            case "ITEM":
                assert not self.synced
                assert item.node not in self.held
            case "SYNC":
                assert not self.synced
                self.synced = True
            case "ENTER":
                assert item.node not in self.held
            case "UPDATE":
                assert self.held[str(item.node)] != item.attributes
            case "LEAVE":
                assert item.node in self.held
        item.apply(self.held)

    def read_all(self) -> None:
        while self.watcher.behind:
            self.read()
        assert self.synced


class Site:
    """An index with standing queries under a clock that the test sets."""

    def __init__(self, engine: Callable[[], Index], bound: int = 1000) -> None:
        self.now = 1_000_000.0
        self.revision = 0
        self.index = engine()
        self.standing = Standing(
            self.index, lambda: self.revision, lambda query: query.predicate, lambda: self.now, bound
        )
        self.write = self.standing.written

    def ask(self, where: Any, **more: Any) -> Reader:
        query = parse_query({"where": where, **more}, fleets.SEEN)
        return Reader(self.standing.add(query), query)

    def answer(self, query: Query) -> dict[str, dict[str, Any]]:
        """By the plain meaning of the query over every node."""
        found = {}
        for name in fleets.NAMES:
            row = self.index.get(name)
            if row is not None and matches(rewritten(query.predicate, self.now), row):
                found[name] = {
                    key: value
                    for key, value in row.items()
                    if key != HEARD and (query.fields is None or key in ("name", *query.fields))
                }
        return found


@pytest.fixture(params=[RowIndex, ColumnIndex])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


def told(reader: Reader) -> list[tuple[str, str | None]]:
    return [(item.kind, item.node) for item in reader.read()]


def test_what_matches_is_told_then_what_comes_changes_and_goes(site: Site) -> None:
    site.write.put("a", {"load.1m": 0.5, "rack": "r1"})
    site.write.put("b", {"load.1m": 1.5, "rack": "r1"})
    reader = site.ask("load.1m<1", fields=["rack"])
    assert told(reader) == [("ITEM", "a"), ("SYNC", None)]
    site.write.update("b", {"load.1m": 0.9})
    site.standing.sift()
    assert told(reader) == [("ENTER", "b")]
    site.write.update("b", {"load.1m": 0.8})
    site.write.update("a", {"rack": "r2"})
    site.standing.sift()
    assert told(reader) == [("UPDATE", "a")]
    assert reader.held == {"a": {"name": "a", "rack": "r2"}, "b": {"name": "b", "rack": "r1"}}
    site.write.update("a", {"load.1m": None})
    site.write.remove("b")
    site.standing.sift()
    assert sorted(told(reader)) == [("LEAVE", "a"), ("LEAVE", "b")]
    assert told(reader) == []


def test_of_a_node_that_changes_often_only_the_newest_is_told(site: Site) -> None:
    site.write.put("a", {"load.1m": 0.5})
    reader = site.ask("load.1m<1")
    reader.read_all()
    for value in (0.6, 2.0, 0.7):
        site.write.update("a", {"load.1m": value})
        site.standing.sift()
    (item,) = reader.read()
    assert (item.kind, item.attributes) == ("UPDATE", {"name": "a", "load.1m": 0.7})
    for value in (2.0, 0.7):
        site.write.update("a", {"load.1m": value})
        site.standing.sift()
    assert told(reader) == [], "it left and came back the same before anybody looked"


def test_a_write_of_the_same_values_is_no_news(site: Site) -> None:
    site.write.put("a", {"load.1m": 0.5, "rack": "r1"})
    reader = site.ask({})
    reader.read_all()
    site.write.put("a", {"load.1m": 0.5, "rack": "r1"})
    site.write.update("a", {"load.1m": 0.5, HEARD: 7.0})
    site.standing.sift()
    assert told(reader) == []


def test_who_does_not_keep_up_is_told_to_begin_anew(site: Site) -> None:
    small = Site(type(site.index), bound=4)
    for name in fleets.NAMES:
        small.write.put(name, {"load.1m": 0.5})
    reader = small.ask("load.1m<1", fields=["rack"])
    other = small.ask("load.1m<1", fields=["rack"])
    reader.read_all()
    other.read_all()
    for name in fleets.NAMES[:5]:
        small.write.update(name, {"load.1m": 2.0})
        small.standing.sift()
        other.read_all()
    reader.kinds.clear()
    reader.read_all()
    assert reader.kinds == ["RESYNC", *["ITEM"] * 7, "SYNC"]
    assert set(reader.held) == set(fleets.NAMES[5:])
    assert "RESYNC" not in other.kinds


def test_more_changes_than_may_wait_while_the_beginning_is_told_need_no_resync(site: Site) -> None:
    small = Site(type(site.index), bound=4)
    for name in fleets.NAMES:
        small.write.put(name, {"load.1m": 0.5})
    reader = small.ask("load.1m<1")
    reader.read(6)
    for name in fleets.NAMES:
        small.write.update(name, {"load.1m": 2.0 if name < "n5" else 0.6})
        small.standing.sift()
    reader.read_all()
    assert "RESYNC" not in reader.kinds
    assert reader.held == small.answer(reader.query)


def test_time_alone_makes_nodes_leave_a_query_on_age(site: Site) -> None:
    site.write.put("a", {HEARD: site.now})
    site.write.put("b", {HEARD: site.now - 8})
    reader = site.ask("age<10")
    reader.read_all()
    assert set(reader.held) == {"a", "b"}
    site.now += 3
    site.standing.settle()
    assert told(reader) == [("LEAVE", "b")]
    site.write.update("b", {HEARD: site.now})
    site.standing.sift()
    site.standing.settle()
    assert told(reader) == [("ENTER", "b")]


def test_a_revision_is_claimed_only_when_all_up_to_it_was_told(site: Site) -> None:
    site.revision = 5
    site.standing.whole_since(5)
    site.write.put("a", {"rack": "r1"})
    reader = site.ask("rack=r1")
    reader.read_all()
    site.write.put("b", {"rack": "r1"})
    site.revision = 6
    site.standing.settle()
    site.standing.settle()
    assert reader.watcher.bookmark().revision == 5
    site.standing.sift()
    (item,) = reader.read()
    assert (item.kind, item.node, item.revision) == ("ENTER", "b", 6)
    assert reader.watcher.bookmark().revision == 6


def test_a_reader_that_resumes_is_told_of_what_was_touched_since(site: Site) -> None:
    for name, rack in (("n0", "r1"), ("n1", "r1"), ("n2", "r1")):
        site.write.put(name, {"rack": rack})
    first = site.ask("rack=r1")
    first.read_all()
    first.watcher.close()
    site.write.remove("n0")
    site.write.put("n3", {"rack": "r1"})
    site.write.update("n1", {"label.zone": "x"})
    site.standing.sift()
    second = site.ask("rack=r1")
    second.watcher.resume(1, ["n0", "n1", "n3"])
    assert [(item.kind, item.node) for item in second.watcher.pull(10)] == [
        ("LEAVE", "n0"),
        ("UPDATE", "n1"),
        ("UPDATE", "n3"),
        ("SYNC", None),
    ]
    site.write.update("n2", {"rack": "r2"})
    site.standing.sift()
    assert [(item.kind, item.node) for item in second.watcher.pull(10)] == [("LEAVE", "n2")]


def test_which_queries_the_log_can_resume(site: Site) -> None:
    assert site.ask("rack=r1,gpu,state=alive,allocatable.cpu>1").watcher.lasting
    assert not site.ask("load.1m<1").watcher.lasting
    assert not site.ask("my.metric<1").watcher.lasting
    assert not site.ask("age<10").watcher.lasting


def test_order_and_limit_mean_nothing_here(site: Site) -> None:
    for more in ({"sort": [{"load.1m": "asc"}]}, {"limit": 3}, {"explain": True}):
        with pytest.raises(InvalidQuery, match="standing"):
            site.ask({}, **more)


def test_who_went_costs_nothing_and_is_told_nothing(site: Site) -> None:
    reader = site.ask("load.1m<1")
    reader.watcher.close()
    assert len(site.standing) == 0
    site.write.put("a", {"load.1m": 0.5})
    site.standing.sift()
    assert not site.standing.sieve._written
    assert reader.watcher.closed


_WHERES = [
    "load.1m<1",
    "load.1m>=0.5,gpu",
    "cpu.arch=x86_64",
    "!rack",
    "rack in (r1,r2),load.1m<1.5",
    "",
    "age<6",
]


class Crowd:
    """A few nodes that change all the time, and readers who come, lag and go: denser than chance makes it."""

    def __init__(self, engine: Callable[[], Index], rng: random.Random) -> None:
        self.rng = rng
        self.site = Site(engine, bound=rng.choice([2, 5, 1000]))
        self.readers: list[Reader] = []
        self.sifting: Iterator[None] = iter(())

    def value(self) -> dict[str, Value | None]:
        rng = self.rng
        every: dict[str, Value | None] = {
            "load.1m": rng.choice([0.2, 0.7, 1.2, 2.0, None]),
            "gpu": rng.choice([True, False]),
            "rack": rng.choice(["r1", "r2", "r3", None]),
            "cpu.arch": rng.choice(["x86_64", "aarch64"]),
        }
        return {name: every[name] for name in rng.sample(list(every), rng.choice([1, 1, 2, 4]))}

    def step(self) -> None:
        rng, site = self.rng, self.site
        node = rng.choice(fleets.NAMES)
        match rng.choice(
            ["put", "remove", *["update"] * 6, "ask", "go", *["sift"] * 4, *["read"] * 4, "time"]
        ):
            case "put":
                whole = {name: value for name, value in self.value().items() if value is not None}
                site.write.put(node, {**whole, HEARD: site.now})
            case "remove":
                site.write.remove(node)
            case "update" if node in site.index:
                site.write.update(node, {**self.value(), HEARD: site.now})
            case "ask" if len(self.readers) < 8:
                fields = rng.choice([None, ["name"], ["name"], ["rack"]])
                self.readers.append(site.ask(rng.choice(_WHERES), **({"fields": fields} if fields else {})))
            case "go" if len(self.readers) > 6:
                self.readers.pop().watcher.close()
            case "sift":
                for _ in range(rng.choice([1, 2, 100])):
                    if next(self.sifting, StopIteration) is StopIteration:
                        self.sifting = site.standing.sieve.sift()
            case "read" if self.readers:
                rng.choice(self.readers).read(rng.choice([1, 2, 50]))
            case "time":
                site.now += rng.choice([0, 1, 3])
                site.standing.settle()

    def check(self) -> None:
        for _ in self.sifting:
            pass
        self.site.standing.sift()
        self.site.standing.settle()
        for reader in self.readers:
            reader.read_all()
            held = {
                name: {key: value for key, value in row.items() if key != "age"}
                for name, row in reader.held.items()
            }
            assert held == self.site.answer(reader.query), reader.query.where


@pytest.mark.parametrize("block", [8, 65_536])
@pytest.mark.parametrize("seed", range(12))
def test_a_long_history_of_a_small_crowd(
    site: Site, seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small, it is sifted by blocks, by rows, and by what few rows are left of a block.
    monkeypatch.setattr(sieve_columns, "_FEW", seed % 3)
    monkeypatch.setattr(sieve_columns, "_TOGETHER", 1)
    monkeypatch.setattr(sieve_columns, "_BLOCK", block)
    monkeypatch.setattr(sieve_columns, "_DENSE", 4 if block == 8 else 0)
    crowd = Crowd(type(site.index), random.Random(seed))
    for at in range(1500):
        crowd.step()
        if at % 50 == 49:
            crowd.check()
    assert any("UPDATE" in reader.kinds for reader in crowd.readers)


class Standings(RuleBasedStateMachine):
    """Any history of joins, updates, leaves, siftings cut short and slow readers, with small queues."""

    engine: Callable[[], Index]

    @initialize(bound=st.integers(1, 8), block=st.sampled_from([8, 65_536]))
    def begin(self, bound: int, block: int) -> None:
        # So that a sifting is cut short between any two standing queries, and blocks of rows are sifted too.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sieve_columns, "_TOGETHER", 1)
        self.patch.setattr(sieve_columns, "_BLOCK", block)
        self.site = Site(self.engine, bound)
        self.readers: list[Reader] = []
        self.sifting: Iterator[None] = iter(())

    @rule(node=fleets.names_of_nodes, attributes=fleets.attributes)
    def put(self, node: str, attributes: dict[str, Value]) -> None:
        self.site.write.put(node, {**attributes, HEARD: self.site.now})

    @rule(node=fleets.names_of_nodes, changes=fleets.changes)
    def update(self, node: str, changes: dict[str, Value | None]) -> None:
        if node in self.site.index:
            self.site.write.update(node, {**changes, HEARD: self.site.now})

    @rule(node=fleets.names_of_nodes)
    def remove(self, node: str) -> None:
        self.site.write.remove(node)

    @rule(
        where=fleets.wheres,
        fields=st.one_of(st.none(), st.just(["load.1m", "cpu.arch"]), st.just(["name"])),
        age=st.one_of(st.none(), st.integers(0, 20)),
    )
    def ask(self, where: dict[str, Any], fields: list[str] | None, age: int | None) -> None:
        if age is not None:
            where = {"$and": [where, {"age": {"$lt": age}}]}
        if len(self.readers) < 6:
            self.readers.append(self.site.ask(where, **({"fields": fields} if fields else {})))

    @rule(which=st.integers(0, 5))
    def go(self, which: int) -> None:
        if which < len(self.readers) and which % 2:
            self.readers.pop(which).watcher.close()

    @rule(steps=st.integers(1, 3))
    def sift_a_little(self, steps: int) -> None:
        for _ in range(steps):
            if next(self.sifting, StopIteration) is StopIteration:
                self.sifting = self.site.standing.sieve.sift()

    @rule(which=st.integers(0, 5), most=st.integers(1, 4))
    def read_a_little(self, which: int, most: int) -> None:
        if which < len(self.readers):
            self.readers[which].read(most)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.site.now += seconds
        self.site.standing.settle()

    @rule()
    def everybody_holds_the_answer(self) -> None:
        for _ in self.sifting:
            pass
        self.site.standing.sift()
        self.site.standing.settle()
        for reader in self.readers:
            reader.read_all()
            held = {
                name: {key: value for key, value in row.items() if key != "age"}
                for name, row in reader.held.items()
            }
            assert held == self.site.answer(reader.query)

    def teardown(self) -> None:
        if hasattr(self, "site"):
            self.patch.undo()
            self.everybody_holds_the_answer()


_SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


class RowStandings(Standings):
    engine = RowIndex


class ColumnStandings(Standings):
    engine = ColumnIndex


TestRows = RowStandings.TestCase
TestRows.settings = _SETTINGS
TestColumns = ColumnStandings.TestCase
TestColumns.settings = _SETTINGS
