"""Random fleets and queries: hypothesis strategies over the attributes of a node."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from schemas.attributes import Value

NAMES = [f"n{at}" for at in range(12)]
_WORDS = ["x86_64", "aarch64", "Athens", "Pisa", "", "é"]
_VERSIONS = ["3.9", "3.11", "3.11.0", "3.11.7", "1.0rc1", "1.0", "v2"]
_MEMBERS = ["process", "container", "vm", "unikernel"]
_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 4, 2**31, 2**40 + 1, 0.5, 1.5, 0.1, -1.0]),
    # About the bounds of what a column of one or four bytes a row can hold.
    st.sampled_from([-129, -128, -127, -127.5, 126.5, 127, 128, 2**24, 2**24 + 1, 2**24 + 2, 2**24 + 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
)
BY_KIND: dict[str, tuple[list[str], st.SearchStrategy[Any]]] = {
    "number": (["cpu.bits", "load.1m", "load.5m", "temperature", "my.metric"], _NUMBERS),
    "string": (["cpu.arch", "region.city", "label.zone"], st.sampled_from(_WORDS)),
    "label": (["label.slots"], st.sampled_from(["4", "10", "-1", "+3", "4.5", "many", ""])),
    "version": (["kernel", "software.python3"], st.sampled_from(_VERSIONS)),
    "bool": (["gpu", "battery"], st.booleans()),
    "set": (
        ["runtimes", "gpu.name"],
        st.lists(st.sampled_from(_MEMBERS), unique=True, max_size=3).map(sorted),
    ),
}
SEEN = {"my.metric"}


def _pairs(kind: str) -> st.SearchStrategy[dict[str, Value]]:
    names, values = BY_KIND[kind]
    return st.dictionaries(st.sampled_from(names), values, max_size=3)


attributes: st.SearchStrategy[dict[str, Value]] = st.tuples(*(_pairs(kind) for kind in BY_KIND)).map(
    lambda parts: {name: value for part in parts for name, value in part.items()}
)
changes: st.SearchStrategy[dict[str, Value | None]] = st.tuples(
    attributes,
    st.lists(st.sampled_from([name for names, _ in BY_KIND.values() for name in names]), max_size=3),
).map(lambda parts: {**parts[0], **dict.fromkeys(parts[1])})


def _leaf(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    names, values = BY_KIND[kind]
    if kind == "set":
        values = st.sampled_from(_MEMBERS)
    ordering = ["$lt", "$lte", "$gt", "$gte"]
    operators = ["$eq", "$ne"] + (ordering if kind in ("number", "version") else [])
    compared = st.tuples(st.sampled_from(operators), values).map(lambda pair: {pair[0]: pair[1]})
    if kind == "label":
        compared |= st.tuples(st.sampled_from(ordering), st.integers(-2, 11)).map(
            lambda pair: {pair[0]: pair[1]}
        )
    listed = st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=3)).map(
        lambda pair: {pair[0]: pair[1]}
    )
    exists = st.booleans().map(lambda wanted: {"$exists": wanted})
    test = st.one_of(compared, listed, exists, values)
    negated = st.one_of(compared, listed, exists).map(lambda inner: {"$not": inner})
    return st.tuples(st.sampled_from(names), st.one_of(test, negated)).map(lambda pair: {pair[0]: pair[1]})


_selectors: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.tuples(st.sampled_from(["In", "NotIn"]), st.lists(st.sampled_from(_WORDS), min_size=1)).map(
        lambda pair: {"key": "zone", "operator": pair[0], "values": pair[1]}
    ),
    st.sampled_from(["Exists", "DoesNotExist"]).map(lambda operator: {"key": "zone", "operator": operator}),
    st.tuples(st.sampled_from(["Gt", "Lt"]), st.integers(-2, 11)).map(
        lambda pair: {"key": "slots", "operator": pair[0], "values": [str(pair[1])]}
    ),
).map(lambda expression: {"matchExpressions": [expression]})
wheres: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(*(_leaf(kind) for kind in BY_KIND), _selectors, st.just({})),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        ),
        inner.map(lambda one: {"$not": one}),
    ),
    max_leaves=6,
)
orders: st.SearchStrategy[list[tuple[str, bool]]] = st.lists(
    st.tuples(
        st.sampled_from(["load.1m", "cpu.bits", "cpu.arch", "kernel", "runtimes", "gpu", "never"]),
        st.booleans(),
    ),
    max_size=3,
)
names_of_nodes = st.sampled_from(NAMES)
free_names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=8)
