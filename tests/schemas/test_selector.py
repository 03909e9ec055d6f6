"""Selectors of Kubernetes and OCM: read as Kubernetes reads them, refused with a way out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attributes import Value
from schemas.errors import InvalidQuery
from schemas.predicate import matches
from schemas.query import parse_query
from schemas.selector import from_selector
from schemas.where import parse_where

KEYS = ["zone", "slots", "kubernetes.io/arch"]
VALUES = ["kitchen", "hall", "4", "10", "-3", "+4", "4.5", "", "४"]
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
expressions = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {"key": st.sampled_from(KEYS), "operator": st.sampled_from(["Exists", "DoesNotExist"])}
    ),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "operator": st.sampled_from(["Gt", "Lt"]),
            "values": st.sampled_from(["4", "-3", "0", "+4"]).map(lambda text: [text]),
        }
    ),
)


def kubernetes(expression: dict[str, Any], node: dict[str, str]) -> bool:
    """What ``k8s.io/apimachinery/pkg/labels.Requirement.Matches`` says, rewritten from its documentation."""
    key, operator, values = expression["key"], expression["operator"], expression.get("values", [])
    match operator:
        case "In":
            return key in node and node[key] in values
        case "NotIn":
            return key not in node or node[key] not in values
        case "Exists":
            return key in node
        case "DoesNotExist":
            return key not in node
    digits = node.get(key, "").removeprefix("+").removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return False
    return int(node[key]) > int(values[0]) if operator == "Gt" else int(node[key]) < int(values[0])


def _attributes(node: dict[str, str]) -> dict[str, Value]:
    return {f"label.{key}": value for key, value in node.items()}


@given(labels, labels, st.lists(expressions, max_size=3))
@settings(max_examples=500, deadline=None)
def test_a_selector_matches_what_kubernetes_matches(
    node: dict[str, str], wanted: dict[str, str], asked: list[dict[str, Any]]
) -> None:
    predicate = parse_where({"matchLabels": wanted, "matchExpressions": asked})
    expected = all(node.get(key) == value for key, value in wanted.items())
    expected = expected and all(kubernetes(one, node) for one in asked)
    assert matches(predicate, _attributes(node)) is expected


@given(labels, st.lists(st.lists(expressions, max_size=2), max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_term_of_a_node_selector_is_enough_and_an_empty_one_matches_nothing(
    node: dict[str, str], terms: list[list[dict[str, Any]]]
) -> None:
    predicate = parse_where({"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]})
    expected = any(term and all(kubernetes(one, node) for one in term) for term in terms)
    assert matches(predicate, {"name": "n", **_attributes(node)}) is expected


def test_a_selector_stands_among_other_conditions() -> None:
    where = {
        "cpu.cores": {"$gte": 4},
        "$or": [
            {"matchLabels": {"zone": "hall"}},
            {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
        ],
    }
    predicate = parse_query({"where": where}).predicate
    assert matches(predicate, {"cpu.cores": 4, "label.zone": "hall"})
    assert matches(predicate, {"cpu.cores": 4, "label.x": ""})
    assert not matches(predicate, {"cpu.cores": 4, "label.zone": "kitchen"})
    assert not matches(predicate, {"cpu.cores": 2, "label.zone": "hall"})


def test_an_empty_selector_asks_for_everything() -> None:
    assert from_selector({}) == {}
    assert matches(parse_where({"matchLabels": {}}), {})
    assert matches(parse_where({"matchExpressions": []}), {})


def test_a_label_has_the_order_of_whole_numbers_in_a_where_too() -> None:
    predicate = parse_where({"label.slots": {"$gte": "4", "$lt": 10}})
    assert [matches(predicate, {"label.slots": slots}) for slots in ("3", "4", "9", "10", "many")] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert matches(parse_query({"where": "label.slots>3"}).predicate, {"label.slots": "4"})


@pytest.mark.parametrize(
    ("where", "field", "expected"),
    [
        ({"matchLabels": ["zone"]}, "where.matchLabels", "zone"),
        ({"matchLabels": {"zone": 4}}, "where.matchLabels.zone", '"4"'),
        ({"matchLabels": {"a b": "x"}}, "where.matchLabels", "at most"),
        ({"matchExpressions": {}}, "where.matchExpressions", "operator"),
        ({"matchExpressions": ["zone"]}, "where.matchExpressions.0", "key"),
        ({"matchExpresions": []}, "where.matchExpresions", "matchExpressions"),
        (
            {"matchExpressions": [{"key": "a", "operator": "NotIN", "values": ["b"]}]},
            "where.matchExpressions.0.operator",
            "NotIn",
        ),
        (
            {"matchExpressions": [{"key": "a", "operater": "In", "values": ["b"]}]},
            "where.matchExpressions.0.operater",
            "operator",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "In"}]},
            "where.matchExpressions.0.values",
            "kitchen",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
            "where.matchExpressions.0.values",
            "no values",
        ),
        (
            {"$and": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["4.5"]}]}]},
            "where.$and.0.matchExpressions.0.values",
            '["4"]',
        ),
        ({"nodeSelectorTerms": [{"matchFields": []}]}, "where.nodeSelectorTerms.0", "matchExpressions"),
        ({"label.slots": {"$gt": "many"}}, "where.label.slots.$gt", "such as 4"),
        ({"label.slots": {"$gt": 4.5}}, "where.label.slots.$gt", "such as 4"),
        ({"label.slots": {"$gt": True}}, "where.label.slots.$gt", "such as 4"),
    ],
)
def test_what_is_wrong_is_named_with_a_way_out(where: Any, field: str, expected: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse_where(where)
    assert caught.value.field == field
    assert expected in str(caught.value.expected)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["matchLabels", "matchExpressions", "nodeSelectorTerms", "key", "operator", "values"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_json_breaks_a_selector(document: Any) -> None:
    with suppress(InvalidQuery):
        parse_query({"where": document})
