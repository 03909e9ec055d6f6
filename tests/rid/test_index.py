"""What an index means, held against every engine; hypothesis holds the engines against each other."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from pymongo.database import Database

from schemas.attributes import MEANS, WINDOWS, Value, mean_of
from schemas.predicate import Every, matches
from schemas.version import version_key
from schemas.where import parse_where
from services.rid.columns import ColumnIndex
from services.rid.index import Index
from services.rid.rows import RowIndex
from tests.rid import fleets
from tests.rid.mongo import MongoIndex

Engine = Callable[..., Index]


@pytest.fixture(params=[RowIndex, ColumnIndex])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.param


def _names(index: Index, where: dict, **how: object) -> list[str]:
    return [node["name"] for node in index.select(parse_where(where, fleets.SEEN), **how).nodes]


def test_a_node_that_was_put_is_found_with_all_it_has(engine: Engine) -> None:
    index = engine()
    index.put("a", {"cpu.arch": "x86_64", "cpu.cores": 4, "gpu": True, "runtimes": ["container", "process"]})
    assert index.get("a") == {
        "name": "a",
        "cpu.arch": "x86_64",
        "cpu.cores": 4,
        "gpu": True,
        "runtimes": ["container", "process"],
    }
    assert "a" in index
    assert len(index) == 1
    found = index.select(parse_where({"runtimes": "process", "gpu": True}))
    assert found.nodes == [index.get("a")]
    assert found.total == 1


def test_put_again_replaces_and_update_adds(engine: Engine) -> None:
    index = engine()
    index.put("a", {"rack": "r1", "gpu": False})
    index.update("a", {"load.1m": 0.5})
    index.update("a", {"gpu": None})
    assert index.get("a") == {"name": "a", "rack": "r1", "load.1m": 0.5}
    index.put("a", {"rack": "r2"})
    assert index.get("a") == {"name": "a", "rack": "r2"}


def test_an_absent_attribute_never_matches(engine: Engine) -> None:
    index = engine()
    index.put("a", {})
    index.put("b", {"load.1m": 1.0, "cpu.arch": "arm64", "gpu": True, "runtimes": ["vm"], "kernel": "6.1"})
    for where in (
        {"load.1m": {"$ne": 5}},
        {"load.1m": {"$nin": [5]}},
        {"load.1m": {"$not": {"$gt": 5}}},
        {"cpu.arch": {"$ne": "x"}},
        {"cpu.arch": {"$nin": ["x"]}},
        {"gpu": {"$ne": False}},
        {"runtimes": {"$ne": "process"}},
        {"kernel": {"$nin": ["5"]}},
        {"$not": {"cpu.arch": "x"}},
    ):
        assert _names(index, where) == ["b"], where
    assert _names(index, {"load.1m": {"$exists": False}}) == ["a"]
    assert _names(index, {"label.never": {"$exists": False}}) == ["a", "b"]


def test_sorted_by_several_keys_with_the_absent_last_and_ties_by_name(engine: Engine) -> None:
    index = engine()
    for name, load, arch in (("c", 1.0, "x"), ("a", 1.0, "y"), ("b", 0.5, "x"), ("d", None, "x")):
        index.put(name, {"cpu.arch": arch, **({} if load is None else {"load.1m": load})})
    assert _names(index, {}, order=[("load.1m", False)]) == ["b", "a", "c", "d"]
    assert _names(index, {}, order=[("load.1m", True)]) == ["a", "c", "b", "d"]
    assert _names(index, {}, order=[("load.1m", True), ("cpu.arch", False)], limit=2) == ["c", "a"]
    assert _names(index, {}, order=[("cpu.arch", True)]) == ["a", "b", "c", "d"]
    assert _names(index, {}, limit=2) == ["a", "b"]


def test_versions_compare_as_versions(engine: Engine) -> None:
    index = engine()
    for name, version in (("a", "3.9.2"), ("b", "3.11.0"), ("c", "3.11rc1")):
        index.put(name, {"software.python3": version})
    assert _names(index, {"software.python3": {"$gte": "3.11"}}) == ["b"]
    assert _names(index, {"software.python3": "3.11"}) == ["b"]
    assert _names(index, {}, order=[("software.python3", True)]) == ["b", "c", "a"]


def test_rows_of_nodes_that_left_are_clean_for_the_next(engine: Engine) -> None:
    index = engine()
    for at in range(3000):
        index.put(f"n{at:04}", {"label.a": "x", "load.1m": float(at)})
    for at in range(0, 3000, 2):
        index.remove(f"n{at:04}")
    index.remove("unknown")
    index.put("new", {"rack": "r"})
    assert index.get("new") == {"name": "new", "rack": "r"}
    assert len(index) == 1501
    assert index.select(parse_where({"label.a": "x"})).total == 1500
    assert _names(index, {"load.1m": {"$lt": 6}}) == ["n0001", "n0003", "n0005"]


def test_attributes_beyond_the_bound_are_refused_and_counted_until_there_is_room(engine: Engine) -> None:
    index = engine(most=2)
    index.put("a", {"label.x": "1", "label.y": "1", "label.z": "1", "cpu.arch": "x"})
    assert index.get("a") == {"name": "a", "label.x": "1", "label.y": "1", "cpu.arch": "x"}
    assert index.refused == 1
    index.put("a", {"label.x": "1"})
    index.put("b", {"label.z": "1"})
    assert index.get("b") == {"name": "b", "label.z": "1"}
    assert index.attributes() == {"name": 2, "label.x": 1, "label.z": 1}


def test_a_scan_of_many_rows_gathers_and_finds_the_same(engine: Engine) -> None:
    index, rows = engine(), {}
    for at in range(20_000):
        row: dict[str, Value] = {
            "name": f"n{at:05}",
            "load.1m": (at * 7919 % 1000) / 100,
            "cpu.arch": "x86_64" if at % 3 else "aarch64",
            "gpu": at % 200 == 0,
            "memory.total": at * 2**20,
        }
        rows[row["name"]] = row
        index.put(str(row["name"]), row)
    where = {"gpu": True, "cpu.arch": "x86_64", "load.1m": {"$lt": 5}, "memory.total": {"$gte": "1GiB"}}
    expected = [name for name, row in rows.items() if matches(parse_where(where), row)]
    assert expected
    assert _names(index, where) == expected
    assert index.trace(parse_where(where))[-1].by == ("gather" if engine is ColumnIndex else "row")
    best = sorted(expected, key=lambda name: (rows[name]["load.1m"], name))[:10]
    assert _names(index, where, order=[("load.1m", False)], limit=10) == best


def test_numbers_stay_exact_while_their_column_widens_and_the_index_grows(engine: Engine) -> None:
    index, held = engine(), {}
    values: list[Value] = [3, 126.5, 127, 128, -128, 2**24 + 1, 0.1, 2**53 + 2, 7]
    for at in range(3000):
        held[f"n{at:04}"] = value = values[min(at // 300, len(values) - 1)]
        index.put(f"n{at:04}", {"load.1m": value})
        if at % 7 == 0:  # what was written once goes another way than what is written again
            held[f"n{at // 2:04}"] = value
            index.update(f"n{at // 2:04}", {"load.1m": value})
    assert {node: (index.get(node) or {})["load.1m"] for node in held} == held
    for bound in (*values, 0.1 + 1e-9, 127.5, 2**24, -128.5, 1e300, -1e300):
        for operator in ("$lt", "$lte", "$gt", "$gte", "$eq", "$ne"):
            where = {"load.1m": {operator: bound}}
            expected = [name for name in held if matches(parse_where(where), {"load.1m": held[name]})]
            assert _names(index, where) == expected, where
    best = sorted(held, key=lambda name: (-held[name], name))
    assert _names(index, {}, order=[("load.1m", True)], limit=500) == best[:500]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("alike", [False, True])
def test_the_best_of_very_many_matching_nodes_are_the_same_everywhere(
    engine: Engine, descending: bool, alike: bool
) -> None:
    index, rows = engine(), []
    for at in range(12_000):
        load = (at // 4000 if alike else at * 7919 % 12_007) / 8
        rows.append((f"n{at:05}", load))
        index.put(f"n{at:05}", {"load.1m": load, "temperature": at % 100, "gpu": at % 3 > 0})
    matching = [row for at, row in enumerate(rows) if at % 3 and at % 100 < 90]
    ordered = sorted(matching, key=lambda row: (-row[1] if descending else row[1], row[0]))
    for limit in (1, 10, 300):
        found = index.select(
            parse_where({"gpu": True, "temperature": {"$lt": 90}}),
            order=[("load.1m", descending)],
            limit=limit,
            fields=["load.1m"],
        )
        assert found.total == len(matching)
        assert [(row["name"], row["load.1m"]) for row in found.nodes] == ordered[:limit]


class Engines(RuleBasedStateMachine):
    """Any history of joins, updates and leaves; after each step any query gives the same everywhere."""

    def __init__(self, *more: Any) -> None:
        super().__init__()
        self.engines: list[Any] = [RowIndex(), ColumnIndex(), *more]
        self.model: dict[str, dict[str, Value]] = {}

    @rule(node=fleets.names_of_nodes, attributes=fleets.attributes)
    def put(self, node: str, attributes: dict[str, Value]) -> None:
        self.model[node] = {**attributes, "name": node}
        for index in self.engines:
            index.put(node, attributes)

    @rule(node=fleets.names_of_nodes, changes=fleets.changes)
    def update(self, node: str, changes: dict[str, Value | None]) -> None:
        if node not in self.model:
            return
        self.model[node].update({name: value for name, value in changes.items() if value is not None})
        for name in [name for name, value in changes.items() if value is None]:
            self.model[node].pop(name, None)
        for index in self.engines:
            index.update(node, changes)

    @rule(node=fleets.names_of_nodes)
    def remove(self, node: str) -> None:
        self.model.pop(node, None)
        for index in self.engines:
            index.remove(node)

    @rule(where=fleets.wheres, order=fleets.orders, limit=st.one_of(st.none(), st.integers(1, 5)))
    def query(self, where: dict, order: list[tuple[str, bool]], limit: int | None) -> None:
        predicate = parse_where(where, fleets.SEEN)
        expected = {name: row for name, row in self.model.items() if matches(predicate, row)}
        answers = [index.select(predicate, order=order, limit=limit) for index in self.engines]
        for answer in answers[1:]:
            assert answer == answers[0]
        assert answers[0].total == len(expected)
        wanted = len(expected) if limit is None else min(limit, len(expected))
        assert len(answers[0].nodes) == wanted
        for node in answers[0].nodes:
            assert node == expected[node["name"]]

    @rule()
    def same_attributes(self) -> None:
        for index in self.engines:
            assert index.attributes() == self.engines[0].attributes()
            for name in fleets.NAMES:
                assert index.get(name) == self.model.get(name)


def _histories(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_both_engines_answer_alike_after_any_history() -> None:
    run_state_machine_as_test(Engines, settings=_histories(40))  # type: ignore[no-untyped-call]


def test_both_engines_answer_as_mongodb_does_after_any_history(database: Database[dict[str, Any]]) -> None:
    def engines() -> Engines:
        return Engines(MongoIndex(database["nodes"]))

    # Every step asks another process: making a failure shorter would take longer than a test may.
    phases = [phase for phase in Phase if phase != Phase.shrink]
    how = settings(_histories(25), phases=phases)
    run_state_machine_as_test(engines, settings=how)  # type: ignore[no-untyped-call]


NODE = st.sampled_from(["a", "b", "c"])
METRIC = st.sampled_from(["load.1m", "temperature"])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("update"), NODE, METRIC, st.none() | st.floats(0, 1e12)),
            st.tuples(st.just("state"), NODE, st.sampled_from(["alive", "lost"])),
            st.tuples(st.just("remove"), NODE),
            st.tuples(st.just("wait"), st.sampled_from([5.0, 30.0, 60.0, 200.0, 1000.0, -100.0])),
            st.tuples(st.just("sample")),
        ),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None)
def test_running_means_are_those_of_a_list_of_samples(steps: list[Any]) -> None:
    """Both engines against lists of all samples ever, with nodes that come, go, fall silent and return."""
    engines: list[Index] = [RowIndex(), ColumnIndex()]
    samples: dict[str, dict[str, list[tuple[int, float]]]] = {}
    rows: dict[str, dict[str, Any]] = {}
    now, latest = 1e9, 0
    for kind, *arguments in steps:
        match kind:
            case "update" | "state":
                node = arguments[0]
                change = {arguments[1]: arguments[2]} if kind == "update" else {"state": arguments[1]}
                if node not in rows:
                    rows[node] = {"state": "alive"}
                    samples[node] = {}
                    for index in engines:
                        index.put(node, rows[node])
                rows[node].update(change)
                for index in engines:
                    index.update(node, change)
            case "remove":
                rows.pop(arguments[0], None)
                for index in engines:
                    index.remove(arguments[0])
            case "wait":
                now += arguments[0]
            case "sample":
                latest = max(latest, int(now // 60))
                for index in engines:
                    list(index.sampling(now))
                for node, row in rows.items():
                    for metric in ("load.1m", "temperature"):
                        if row["state"] == "alive" and row.get(metric) is not None:
                            samples[node].setdefault(metric, []).append((latest, row[metric]))
                for node in rows:
                    expected = {
                        mean_of(metric, window): pytest.approx(sum(within) / len(within), rel=1e-5)
                        for metric, all_of_them in samples[node].items()
                        for window, minutes in WINDOWS.items()
                        if (within := [value for minute, value in all_of_them if minute >= latest - minutes])
                    }
                    for index in engines:
                        found = index.get(node) or {}
                        assert {name: found[name] for name in found if name in MEANS} == expected


@pytest.mark.parametrize("engine", [RowIndex, ColumnIndex])
def test_a_mean_is_asked_for_sorted_by_and_counted_as_any_attribute(engine: Engine) -> None:
    index = engine()
    for at in range(2000):
        index.put(f"n{at:04}", {"load.1m": float(at), "state": "alive"})
        if at == 500:
            list(index.sampling(1e9))
    list(index.sampling(1e9 + 61))
    asked = {"load.1m.mean.10m": {"$lt": 3}}
    assert _names(index, asked) == ["n0000", "n0001", "n0002"]
    assert _names(index, {}, order=[("load.1m.mean.15m", True)], limit=2) == ["n1999", "n1998"]
    assert index.attributes()["load.1m.mean.5m"] == 2000
    index.remove("n0001")
    index.put("n0001", {"load.1m": 7.0, "state": "alive"})
    assert "load.1m.mean.5m" not in (index.get("n0001") or {})
    list(index.sampling(1e9 + 61))
    assert (index.get("n0001") or {})["load.1m.mean.5m"] == 7


@given(st.lists(fleets.free_names, max_size=200, unique=True), st.data())
@settings(max_examples=25, deadline=None)
def test_an_unsorted_answer_is_in_the_order_of_names_after_any_coming_and_going(
    names: list[str], data: st.DataObject
) -> None:
    index = ColumnIndex()
    left: set[str] = set()
    for name in names:
        index.put(name, {})
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(names))
            index.remove(gone)
            left = left | {gone}
        left.discard(name) if name in index else None
        if data.draw(st.integers(0, 9)) == 0:
            index.select(Every())
    expected = sorted(name for name in names if name in index)
    assert [node["name"] for node in index.select(Every()).nodes] == expected


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_best_of_many_rows_are_those_of_a_whole_sort(data: st.DataObject) -> None:
    """Many rows match and few are wanted: cut by a guess, with ties, absent keys and either direction."""
    distinct = data.draw(st.sampled_from([1, 3, 50, 100_000]), "distinct")
    absent = data.draw(st.sampled_from([0, 2, 50]), "one in so many lacks it")
    descending, limit = data.draw(st.booleans()), data.draw(st.sampled_from([1, 10, 300]))
    rng = random.Random(data.draw(st.integers(0, 99), "seed"))
    index, rows = ColumnIndex(), []
    for at in rng.sample(range(6000), 6000):
        row: dict[str, Value] = {"name": f"n{at:04}", "gpu": rng.random() < 0.9}
        if not absent or rng.randrange(absent):
            row["load.1m"] = float(rng.randrange(distinct))
        rows.append(row)
        index.put(str(row["name"]), row)
    for gone in rng.sample(rows, 100):
        index.remove(str(gone["name"]))
        rows.remove(gone)
    found = index.select(parse_where({"gpu": True}), order=[("load.1m", descending)], limit=limit)
    expected = [row for row in rows if row["gpu"]]
    assert found.total == len(expected)
    sign = -1 if descending else 1
    expected.sort(key=lambda row: (sign * row.get("load.1m", sign * math.inf), row["name"]))
    assert found.nodes == expected[:limit]


def test_version_order() -> None:
    ordered = ["1.0rc1", "1.0", "1.0.1", "1.2", "1.10", "2"]
    assert sorted(ordered, key=version_key) == ordered
    assert version_key("v1.0") == version_key("1.0.0")
    assert version_key("9" * 5000)
    assert not math.isnan(len(version_key("")))


def test_many_distinct_values_are_all_told_apart(engine: Engine) -> None:
    index = engine()
    for at in range(40_000):
        index.put(f"n{at:05}", {"id": f"id-{at}"})
    for at in (0, 126, 127, 128, 32_767, 32_768, 39_999):
        assert _names(index, {"id": f"id-{at}"}) == [f"n{at:05}"]
    assert index.select(parse_where({"id": {"$ne": "id-5"}})).total == 39_999
    some = [f"id-{at}" for at in range(100, 130)]
    assert _names(index, {"id": {"$in": some}}) == [f"n{at:05}" for at in range(100, 130)]


def test_of_very_many_rows_those_that_match_are_found_and_the_best_of_them() -> None:
    index = ColumnIndex()
    for at in range(260_000):
        index.put(f"n{at:06}", {"load.1m": at % 1000, "gpu": at % 4000 == 7})
    found = index.select(parse_where({"load.1m": {"$lt": 900}, "gpu": True}), limit=3)
    assert found.total == 65
    assert [node["name"] for node in found.nodes] == ["n000007", "n004007", "n008007"]
    best = index.select(parse_where({"load.1m": {"$gte": 0}}), order=[("load.1m", True)], limit=3)
    assert [node["name"] for node in best.nodes] == ["n000999", "n001999", "n002999"]
