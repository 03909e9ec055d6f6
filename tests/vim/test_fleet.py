"""vim's own view of the fleet chooses what the plain way chooses, for any fleet, request and reservations."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.deployment import DeploymentRequest
from schemas.predicate import conjuncts, matches
from schemas.where import parse_where
from services.vim.fleet import Fleet
from services.vim.ledger import Held, Ledger
from services.vim.placement import place
from services.vim.question import question
from tests.rid.fleets import NAMES, attributes, wheres
from tests.vim.levels import MIB, node, request
from tests.vim.test_placement import RUNTIMES, requests_of

GOOD: dict[str, Any] = {"worker": True, "state": "alive"}

asking = requests_of(
    [None, 0.1, 1, 3.9],
    [None, MIB, 64 * MIB, 300 * MIB],
    st.integers(1, 4),
    [None, None, None, 8080],
    [
        {},
        {"pack": True},
        {"where": {"rack": "r1"}},
        {"where": {"$or": [{"rack": "r2"}, {"cpu.cores": {"$gte": 4}}]}},
        {"prefer": [{"rack": "desc"}, {"kernel": "asc"}]},
        {"prefer": [{"memory.total": "asc"}]},
        {"tolerations": [{"key": "t", "operator": "Exists"}]},
        {"user": "root"},
    ],
)
some_nodes = st.lists(
    st.fixed_dictionaries(
        {
            "cpu.cores": st.sampled_from([1, 2, 4]),
            "memory.total": st.sampled_from([128 * MIB, 512 * MIB, 2048 * MIB]),
            "runtimes": st.lists(st.sampled_from(RUNTIMES), unique=True).map(sorted),
            "worker": st.sampled_from([True, True, True, False]),
            "state": st.sampled_from(["alive", "alive", "alive", "lost"]),
        },
        optional={
            "rack": st.sampled_from(["r1", "r2"]),
            "kernel": st.sampled_from(["5.9", "5.10", "6.1"]),
            "load.1m": st.sampled_from([0.0, 0.5, 7.0]),
            "memory.available": st.sampled_from([100 * MIB, 4096 * MIB]),
            "taints": st.sampled_from([["t:NoSchedule"], ["t:PreferNoSchedule"]]),
            "worker.allow_root": st.booleans(),
        },
    ),
    min_size=1,
    max_size=8,
)
holding = st.lists(
    st.tuples(
        st.integers(0, 7), st.sampled_from([0.3, 0.1, 1.0]), st.sampled_from([0, 100 * MIB]), st.booleans()
    ),
    max_size=6,
)


def fleet_of(nodes: list[dict[str, Any]], ledger: Ledger) -> Fleet:
    fleet = Fleet()
    for one in nodes:
        fleet.put(one["name"], one)
    for name, reserved in ledger.of_nodes().items():
        fleet.reserve(name, reserved)
    return fleet


def plainly(asked: DeploymentRequest, nodes: list[dict[str, Any]], ledger: Ledger) -> Any:
    wanted = parse_where(question(asked)["where"])
    return place(asked, [one for one in nodes if matches(wanted, one)], ledger.of_nodes())


@settings(deadline=None, max_examples=200)
@given(some_nodes, holding, asking, st.randoms())
def test_it_chooses_and_explains_as_the_plain_way_does(
    made: list[dict[str, Any]], held: list[Any], asked: DeploymentRequest, rng: random.Random
) -> None:
    nodes = [{"name": f"n{at}", **fields} for at, fields in enumerate(made)]
    ledger = Ledger()
    for at, (which, cpu, memory, port) in enumerate(held):
        ledger.reserve(f"d{at}", [Held(f"n{which}", cpu, memory, (8080,) if port else ())])
    plain = plainly(asked, nodes, ledger)
    fleet = fleet_of(rng.sample(nodes, len(nodes)), ledger)
    assert fleet.answers(asked)
    picked = fleet.choose(asked)
    if len(plain.placements) < asked.replicas:
        assert picked is None, "what does not fit is told the plain way"
        return
    if picked is None:
        # Some of an earlier runtime's replicas fit, which is told the plain way, too.
        assert len(asked.runtimes) > 1
        assert asked.replicas > 1
        return
    assert picked.placements == plain.placements
    choice = picked.explained()
    assert choice.candidates == plain.candidates
    told_so, plainly_so = (
        sorted(group.model_dump_json() for group in one.rejected) for one in (choice, plain)
    )
    assert told_so == plainly_so
    told = {name for group in picked.unmatched() for name in group.nodes}
    wanted = parse_where(question(asked)["where"])
    assert told == {one["name"] for one in nodes if not matches(wanted, one)}
    assert all(group.count == len(group.nodes) and group.reason for group in picked.unmatched())


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(NAMES), attributes), wheres)
def test_conditions_mean_what_they_mean_in_the_index(
    made: dict[str, dict[str, Any]], where: dict[str, Any]
) -> None:
    predicate = parse_where(where, ["my.metric", "never"])
    fleet = Fleet()
    for name, fields in made.items():
        fleet.put(name, fields)
    for part in conjuncts(predicate):
        assert fleet.matching(part) == {
            name for name, fields in made.items() if matches(part, {**fields, "name": name})
        }


@pytest.mark.parametrize(
    ("asked", "can"),
    [
        ({}, True),
        ({"where": {"label.x": "y", "gpu": True}}, True),
        ({"where": {"load.5m": {"$lt": 1}}}, False),
        ({"where": {"age": {"$lt": 1}}}, False),
        ({"where": {"my.metric": 1}}, False),
        ({"prefer": [{"near": {"place": "athens"}}]}, False),
        ({"prefer": [{"rack": "asc"}]}, True),
        ({"spread": {"over": "rack"}}, False),
        ({"spread": {"over": "name"}}, True),
    ],
)
def test_what_changes_all_the_time_is_left_to_the_index(asked: dict[str, Any], can: bool) -> None:
    assert Fleet().answers(request(**asked)) is can


def test_it_follows_what_changes_and_what_is_reserved() -> None:
    fleet = Fleet()
    for name in ("b", "a"):
        fleet.put(name, {**node(name), **GOOD})
    asked = request(resources={"cpu": 3})

    def where() -> str | None:
        picked = fleet.choose(asked)
        return picked.placements[0].node if picked else None

    ledger = Ledger(fleet.reserve)
    assert where() == "a"
    ledger.reserve("d", [Held("a", 2.0)])
    assert where() == "b"
    fleet.put("b", {**node("b"), **GOOD, "state": "lost"})
    assert where() is None
    ledger.release("d")
    assert where() == "a"
    fleet.put("c", {**node("c", cores=16, memory=64 * MIB), **GOOD})
    fleet.measure("a", {"load.1m": 400.0, "memory.available": 1 * MIB})
    assert where() == "c"


def test_a_thousand_of_any_memory_are_told_together_and_cut_to_what_can_be_read() -> None:
    fleet = Fleet()
    for at in range(3000):
        fleet.put(f"n{at:04}", {**node(f"n{at:04}", memory=(at + 1) * MIB), **GOOD, "label.serial": f"s{at}"})
    picked = fleet.choose(request(resources={"memory": 3000 * MIB}))
    assert picked
    (group,) = picked.explained().rejected
    assert group.count == 2999
    assert group.reason == "memory 1MiB to 2.929GiB unreserved < 2.93GiB"
    everywhere = fleet.choose(request())
    assert everywhere
    choice = everywhere.explained()
    assert choice.further
    assert len(choice.candidates) == 100
    assert choice.able == 1000, "as many as a message holds"
    plain = plainly(
        request(), [{**node(f"n{at:04}", memory=(at + 1) * MIB), **GOOD} for at in range(3000)], Ledger()
    )
    assert [one.node for one in choice.candidates] + choice.further.nodes == [
        one.node for one in plain.candidates[:1000]
    ]
    assert choice.further.scores == [one.score for one in plain.candidates[100:1000]]
    only = fleet.choose(request(where={"label.serial": "s7"}))
    assert only
    (other,) = only.unmatched()
    assert (other.count, other.attribute) == (2999, "label.serial")
    assert [placement.node for placement in only.placements] == ["n0007"]
