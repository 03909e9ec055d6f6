"""The query language: what is read, what it means, and that every error names a way out."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attributes import ATTRIBUTES, FAMILIES, lookup, nearest
from schemas.errors import InvalidQuery
from schemas.predicate import Condition, conditions, matches, negate, whole_number
from schemas.query import Query, parse_query
from schemas.shortform import _split, parse_shortform
from schemas.where import parse_where
from tests.rid import fleets

GIB = 1024**3
NODE = {
    "name": "pi-3",
    "cpu.arch": "x86_64",
    "cpu.cores": 4,
    "cpu.free": 0.5,
    "memory.available": 4 * GIB,
    "load.5m": 0.7,
    "gpu": True,
    "battery": False,
    "gpu.name": ["A2", "T4"],
    "region.city": "Athens",
    "software.python3": "3.11.7",
    "runtimes": ["container", "process"],
}


def _matches(where: dict[str, Any]) -> bool:
    return matches(parse_where(where), NODE)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"cpu.arch": "x86_64"},
        {"memory.available": {"$gte": "4GiB"}},
        {"memory.available": {"$gte": "4Gi", "$lt": "5GB"}},
        {"cpu.free": {"$gte": "250m"}},
        {"cpu.cores": 4},
        {"gpu": True, "battery": False},
        {"gpu.name": "T4"},
        {"gpu.name": {"$in": ["T4", "H100"]}},
        {"gpu.name": {"$nin": ["H100"]}},
        {"region.city": {"$ne": "Pisa"}},
        {"software.python3": {"$gte": "3.9", "$lt": 4}},
        {"$or": [{"gpu": False}, {"load.5m": {"$lt": 1}}]},
        {"$and": [{"gpu": True}, {"$not": {"battery": True}}]},
        {"load.5m": {"$not": {"$gt": 1}}},
        {"rack": {"$exists": False}},
        {"gpu": {"$exists": True}},
    ],
)
def test_matches(where: dict[str, Any]) -> None:
    assert _matches(where)
    assert not matches(negate(parse_where(where)), NODE)


@pytest.mark.parametrize(
    "where",
    [
        {"rack": "r1"},
        {"rack": {"$ne": "r1"}},
        {"rack": {"$nin": ["r1"]}},
        {"rack": {"$not": {"$eq": "r1"}}},
        {"temperature": {"$lt": 50}},
        {"temperature": {"$not": {"$lt": 50}}},
        {"$not": {"$or": [{"rack": "a"}, {"rack": "b"}]}},
    ],
)
def test_an_absent_attribute_never_matches_negated_or_not(where: dict[str, Any]) -> None:
    assert not _matches(where)


@pytest.mark.parametrize(
    ("where", "field", "expected"),
    [
        ({"memory.avail": 1}, "where.memory.avail", "memory.available"),
        ({"arch": "x"}, "where.arch", "cpu.arch"),
        ({"labels.zone": "x"}, "where.labels.zone", "label.zone"),
        ({"CPU.Arch": "x"}, "where.CPU.Arch", "cpu.arch"),
        ({"cpu.cores": {"$get": 1}}, "where.cpu.cores.$get", "$gt"),
        ({"$orr": []}, "where.$orr", "$or"),
        ({"memory.total": "4 apples"}, "where.memory.total", "bytes"),
        ({"memory.total": "5m"}, "where.memory.total", "bytes"),
        ({"load.5m": {"$lt": "fast"}}, "where.load.5m.$lt", "a number"),
        ({"load.5m": {"$lt": float("nan")}}, "where.load.5m.$lt", "a number"),
        ({"load.5m": None}, "where.load.5m", "a number"),
        ({"gpu": "yes"}, "where.gpu", "true or false"),
        ({"gpu": 1}, "where.gpu", "true or false"),
        ({"cpu.arch": 4}, "where.cpu.arch", "text"),
        ({"cpu.arch": {"$gt": "a"}}, "where.cpu.arch.$gt", "$eq"),
        ({"runtimes": {"$in": "process"}}, "where.runtimes.$in", "a list"),
        ({"gpu": {"$exists": "yes"}}, "where.gpu.$exists", "true or false"),
        ({"$or": []}, "where.$or", "$or"),
        ({"$and": [{"gpu": True}, {"gpux": True}]}, "where.$and.1.gpux", "gpu"),
        ({"gpu": {}}, "where.gpu", "a value"),
        ([], "where", "object"),
    ],
)
def test_an_error_names_the_place_and_the_nearest_neighbour(where: Any, field: str, expected: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse_where(where)
    assert caught.value.field == field
    assert expected in str(caught.value.expected)


def test_what_is_too_deep_or_too_much_is_refused() -> None:
    deep: dict[str, Any] = {"gpu": True}
    for _ in range(1000):
        deep = {"$not": deep}
    for where in (deep, {"$or": [{"gpu": True}] * 300}, {"cpu.arch": {"$in": ["x"] * 1001}}):
        with pytest.raises(InvalidQuery):
            parse_where(where)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"were": {}}, "were"),
        ({"limit": 0}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"sort": [{"lod.5m": "asc"}]}, "sort.0"),
        ({"sort": [{"load.5m": "up"}]}, "sort.0.load.5m"),
        ({"sort": [{"load.5m": "asc", "load.1m": "asc"}]}, "sort.0"),
        ({"fields": ["nam"]}, "fields.0"),
        ({"scope": {"mode": "guess"}}, "scope.mode"),
        ({"scope": {"maxAge": "15 apples"}}, "scope.maxAge"),
        ([], None),
    ],
)
def test_a_query_is_read_strictly(document: Any, field: str | None) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse_query(document)
    if field:
        assert caught.value.field == field


def test_the_contracts_example_is_read() -> None:
    query = parse_query(
        {
            "where": {
                "cpu.arch": "x86_64",
                "memory.available": {"$gte": "4GiB"},
                "load.5m": {"$lt": 1.5},
                "gpu": True,
                "gpu.name": {"$in": ["T4", "A2"]},
            },
            "sort": [{"load.5m": "asc"}],
            "limit": 10,
            "fields": ["id", "memory.available"],
            "scope": {"miniclouds": ["*"], "mode": "auto", "maxAge": "15s", "deadline": "300ms"},
        }
    )
    assert matches(query.predicate, NODE)
    assert query.order == [("load.5m", False)]
    assert (query.scope.max_age, query.scope.deadline) == (15, 0.3)


def test_a_metric_that_arrived_may_be_asked_for() -> None:
    with pytest.raises(InvalidQuery):
        parse_query({"where": {"queue.depth": {"$gt": 3}}})
    query = parse_query({"where": {"queue.depth": {"$gt": 3}}}, seen={"queue.depth"})
    assert matches(query.predicate, {"queue.depth": 4})
    assert nearest("queue.deep", {"queue.depth"}) == "queue.depth"


@pytest.mark.parametrize(
    ("short", "where"),
    [
        ("", {}),
        ("cpu.arch=x86_64", {"cpu.arch": {"$eq": "x86_64"}}),
        ("cpu.arch == x86_64", {"cpu.arch": {"$eq": "x86_64"}}),
        ("region.city!=Pisa", {"region.city": {"$ne": "Pisa"}}),
        ("memory.available>=4GiB", {"memory.available": {"$gte": "4GiB"}}),
        ("region.city in (Athens, Pisa)", {"region.city": {"$in": ["Athens", "Pisa"]}}),
        ("region.city notin (Athens)", {"region.city": {"$nin": ["Athens"]}}),
        ("gpu", {"gpu": True}),
        ("!battery", {"battery": False}),
        ("gpu=false", {"gpu": {"$eq": False}}),
        ("rack", {"rack": {"$exists": True}}),
        ("!rack", {"rack": {"$exists": False}}),
        ("label.kubernetes.io/arch=a b", {"label.kubernetes.io/arch": {"$eq": "a b"}}),
        ("label.x=", {"label.x": {"$eq": ""}}),
        ("gpu,!battery", {"$and": [{"gpu": True}, {"battery": False}]}),
    ],
)
def test_the_short_form(short: str, where: dict[str, Any]) -> None:
    assert parse_shortform(short) == where
    assert parse_query({"where": short}).predicate == parse_where(where)


def test_the_contracts_short_form_matches() -> None:
    text = "cpu.arch=x86_64,memory.available>=4GiB,load.5m<1.5,region.city in (Athens,Pisa),gpu,!battery"
    assert matches(parse_query({"where": text}).predicate, NODE)


@pytest.mark.parametrize(
    "text", ["gpu,", "a b c", "cpu.arch~x", "gpux", "gpu=maybe", "region.city in Athens", "!"]
)
def test_a_wrong_short_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        parse_query({"where": text})


@given(st.text(alphabet=",()ab =", max_size=20))
@settings(max_examples=300, deadline=None)
def test_the_short_form_parts_at_commas_outside_parentheses(text: str) -> None:
    assert _split(text) == re.split(r",(?![^(]*\))", text)


@pytest.mark.parametrize("part", ["gpu,", ",", "(,", "),", "rack in (a,", "a b,"])
def test_a_short_form_of_a_megabyte_is_refused_at_once(part: str) -> None:
    # What takes longer the longer it already is would hold up everybody else for minutes.
    with pytest.raises(InvalidQuery):
        parse_query({"where": part * (1024 * 1024 // len(part))})


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_short_form(text: str) -> None:
    with suppress(InvalidQuery):
        parse_query({"where": text})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["$and", "$or", "$not", "$in", "gpu", "load.5m", "cpu.arch", "x"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_json_breaks_the_parser(document: Any) -> None:
    with suppress(InvalidQuery):
        parse_query({"where": document})


@given(fleets.wheres, fleets.attributes)
@settings(max_examples=200, deadline=None)
def test_a_condition_and_its_negation_never_both_match(where: dict[str, Any], node: dict[str, Any]) -> None:
    predicate = parse_where(where, fleets.SEEN)
    assert not (matches(predicate, node) and matches(negate(predicate), node))
    # A label that is no whole number is neither above nor below one.
    words = whole_number(str(node.get("label.slots"))) is None
    if all(
        condition.attribute in node and not (words and condition.attribute == "label.slots")
        for condition in conditions(predicate)
    ):
        assert matches(predicate, node) or matches(negate(predicate), node)


def test_every_attribute_is_looked_up_by_its_name() -> None:
    for name, about in ATTRIBUTES.items():
        assert lookup(name) is about
        assert about.meaning
    for prefix in FAMILIES:
        assert lookup(prefix) is None
        assert lookup(f"{prefix}x") is not None
    assert lookup("load.5m.mean.10m") is not None
    assert lookup("@heard", {"@heard"}) is None


def test_a_query_survives_the_road() -> None:
    asked = Query.model_validate({"where": "gpu", "limit": 3})
    again = parse_query(asked.model_dump(mode="json", by_alias=True, exclude_unset=True))
    assert again.predicate == asked.predicate == Condition("gpu", "bool", "eq", value=True)
