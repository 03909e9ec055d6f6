"""Every field of a request is enforced by something named, or the request is refused with the cure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument
from services.vim.enforce import enforcements
from tests.rid.fleets import wheres
from tests.vim.levels import IMAGES, request

#: A value of each field that asks for something, beside what every request must have.
ASKING: dict[str, Any] = {
    "id": "d",
    "name": "d",
    "runtimes": ["process"],
    "images": {"process": IMAGES["process"]},
    "resources": {"cpu": 1, "memory": "64MiB"},
    "ports": [{"name": "http", "port": 80, "hostPort": 8080}],
    "env": {"A": "b"},
    "files": [{"path": "a", "content": "b"}],
    "replicas": 3,
    "where": {"gpu": True},
    "prefer": [{"load.5m": "asc"}],
    "spread": {"over": "rack"},
    "pack": True,
    "labels": {"app": "web"},
    "apart": [{"deployment": "other"}, {"itself": True, "over": "rack"}],
    "together": [{"labels": {"app": "cache"}}],
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "preempt": "lower",
    "data": [{"bucket": "photos"}],
    "health": {"console": "ready"},
    "restart": "never",
    "on_loss": {"singleton": True, "replaceAfter": "1m"},
    "user": "root",
    "priority": 5,
    "paused": True,
}


@pytest.mark.parametrize("field", DeploymentRequest.model_fields)
def test_every_field_is_held_or_refused(field: str) -> None:
    assert field in ASKING, f"{field} is new: who enforces it? Say so in enforce.py, and ask for it here"
    alias = DeploymentRequest.model_fields[field].alias or field
    given_ = {"runtimes": ["process"], "images": ASKING["images"], alias: ASKING[field]}
    asked = DeploymentRequest.model_validate(given_)
    plain = request()
    assert field in ("runtimes", "images") or getattr(asked, field) != getattr(plain, field)
    problems: list[dict[str, Any]] = []
    named: set[str] = set()
    try:
        named = {one.field.split(".")[0] for one in enforcements(asked)}
    except InvalidDocument as error:
        problems = error.problems
    assert all(problem["message"] and problem["expected"] for problem in problems)
    assert alias in named | {str(problem["field"]).split(".")[0] for problem in problems}


@pytest.mark.parametrize("field", ["resources", "on_loss"])
def test_every_part_of_a_document_of_limits_is_named(field: str) -> None:
    alias = DeploymentRequest.model_fields[field].alias or field
    named = {one.field for one in enforcements(request(**{alias: ASKING[field]}))}
    kind: Any = DeploymentRequest.model_fields[field].annotation
    assert {f"{alias}.{part.alias or name}" for name, part in kind.model_fields.items()} <= named


def test_only_what_was_asked_for_is_named() -> None:
    assert {one.field for one in enforcements(request())} == {
        "runtimes", "images.process", "replicas", "restart", "onLoss.replaceAfter",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "field", "expected"),
    [
        ({"where": {"memory.avalable": {"$gte": 1}}}, "where.memory.avalable", "memory.available"),
        ({"where": {"gpu": {"$gte": 1}}}, "where.gpu.$gte", None),
        ({"where": {"memory.available": {"$gt": "4 apples"}}}, "where.memory.available.$gt", None),
        ({"where": {"load.1m": {"$lt": 10**400}}}, "where.load.1m.$lt", None),
        ({"where": {"load.1m": {"$lt": float("nan")}}}, "where.load.1m.$lt", None),
        ({"prefer": [{"load.5": "asc"}]}, "prefer.0.load.5", "load.5m"),
        ({"prefer": [{"load.5m": "upwards"}]}, "prefer.0.load.5m", "asc or desc"),
        ({"prefer": [{"near": {"bucket": "b"}}]}, "prefer.0", None),
        ({"prefer": [{"near": {"place": "a b"}}]}, "prefer.0.near", None),
        ({"prefer": [{"near": {"place": "a", "within": 3}}]}, "prefer.0", None),
        ({"prefer": [{}]}, "prefer.0", None),
        ({"apart": [{"itself": True, "over": "racks"}]}, "apart.0", "rack"),
        ({"together": [{"deployment": "db", "over": "regon.city"}]}, "together.0", "region.city"),
        ({"spread": {"over": "racks"}}, "spread.over", "rack"),
        ({"data": [{"bucket": "b"}]}, "data", None),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_cure(
    asked: dict[str, Any], field: str, expected: str | None
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        enforcements(request(**asked))
    (problem,) = caught.value.problems
    assert problem["field"] == field
    assert problem["expected"]
    assert expected in (None, problem["expected"])


def test_a_site_that_preempts_nobody_refuses_to() -> None:
    asked = request(priority=5, preempt="lower")
    assert {"priority", "preempt"} <= {one.field for one in enforcements(asked)}
    with pytest.raises(InvalidDocument) as caught:
        enforcements(asked, preemption="never")
    assert caught.value.field == "preempt"


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidDocument, match="and 1 more") as caught:
        enforcements(request(data=[{"bucket": "b"}], spread={"over": "racks"}))
    assert {problem["field"] for problem in caught.value.problems} == {"data", "spread.over"}


def test_attributes_that_nobody_foresaw_may_be_asked_for_once_a_node_has_them() -> None:
    asked = request(
        where={"my.metric": {"$gt": 1}}, prefer=[{"my.metric": "asc"}], spread={"over": "my.metric"}
    )
    with pytest.raises(InvalidDocument):
        enforcements(asked)
    assert {"where", "prefer.0.my.metric", "spread.over"} <= {
        one.field for one in enforcements(asked, ["my.metric"])
    }


def test_conditions_leave_room_for_those_that_placement_adds() -> None:
    deep: dict[str, Any] = {"gpu": True}
    for _ in range(16):
        deep = {"$not": deep}
    with pytest.raises(InvalidDocument) as caught:
        enforcements(request(where=deep))
    assert caught.value.field == "where"
    with pytest.raises(InvalidDocument):
        enforcements(request(where={"$and": [{"gpu": True}] * 256}))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["$and", "$or", "$not", "$in", "$lt", "$eq", "cpu.cores", "gpu", "kernel", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["$and", "$not", "gpu", "load.1m", "kernel", "x"]), json_values, max_size=3
    ),
    st.lists(
        st.dictionaries(st.sampled_from(["load.1m", "runtimes", "x"]), json_values, max_size=2), max_size=2
    ),
)
def test_no_nonsense_raises_anything_but_a_refusal(
    where: dict[str, Any], prefer: list[dict[str, Any]]
) -> None:
    with suppress(InvalidDocument):
        enforcements(request(where=where, prefer=prefer))


@settings(deadline=None, max_examples=100)
@given(wheres)
def test_whatever_the_query_language_allows_is_held(where: dict[str, Any]) -> None:
    assert {"where"} == {one.field for one in enforcements(request(where=where), ["my.metric", "never"])} & {
        "where"
    } or (where == {})


def test_folders_are_for_unikernels_and_disks_for_vms() -> None:
    folder = {"folder": "/srv/data", "mount": "/data"}
    asked = request(runtimes=["unikernel"], images={"unikernel": {"kernel": "/k", "folders": [folder]}})
    assert "images.unikernel.folders" in {one.field for one in enforcements(asked)}
    with pytest.raises(InvalidDocument) as refused:
        enforcements(request(runtimes=["unikernel"], images={"unikernel": {"kernel": "/k", "disk": "/d"}}))
    assert refused.value.field == "images.unikernel.disk"
    with pytest.raises(ValidationError, match=r"images\.vm\.folders"):
        request(runtimes=["vm"], images={"vm": {"kernel": "/k", "folders": [folder]}})
