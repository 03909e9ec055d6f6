"""Neighbours, taints, nearness and preemption, as pure functions: what they promise for any fleet."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.attributes import lookup
from schemas.decision import Placement
from schemas.deployment import DeploymentRequest
from schemas.flatten import may_be_metric, tainted
from services.vim.ledger import Held, Ledger, Reserved
from services.vim.neighbours import Around, Other, around
from services.vim.placement import Choice, place
from services.vim.preempt import Prey, preempting
from services.vim.taints import standing
from tests.vim.levels import MIB, node, request

RACKS = {"a": "r1", "b": "r1", "c": "r2", "d": "r2", "e": None}
FLEET = [node(name, **({"rack": rack} if rack else {})) for name, rack in RACKS.items()]


def value_of(name: str, attribute: str) -> Any:
    return next(one for one in FLEET if one["name"] == name).get(attribute)


def near(asked: DeploymentRequest, *others: Other, name: str = "d") -> Around:
    return around(name, asked, others, value_of)


def nodes_of(choice: Choice) -> list[str]:
    return [placement.node for placement in choice.placements]


def why_not(choice: Choice) -> dict[str, str]:
    return {name: group.reason for group in choice.rejected for name in group.nodes}


def test_apart_from_a_deployment_on_a_node_or_on_a_rack() -> None:
    asked = request(apart=[{"deployment": "db"}])
    choice = place(asked, FLEET, {}, around=near(asked, Other("db", request(), ["a"])))
    assert nodes_of(choice) == ["b"]
    assert why_not(choice) == {"a": "deployment db runs there"}
    asked = request(apart=[{"deployment": "db", "over": "rack"}])
    choice = place(asked, FLEET, {}, around=near(asked, Other("db", request(), ["a"])))
    assert nodes_of(choice) == ["c"]
    assert why_not(choice) == dict.fromkeys("ab", "deployment db runs on the same rack")
    assert {candidate.node for candidate in choice.candidates} == {"c", "d", "e"}, "no rack is beside nobody"


def test_apart_by_labels_names_all_that_carry_them() -> None:
    asked = request(apart=[{"labels": {"app": "db"}}])
    others = (
        Other("one", request(labels={"app": "db", "tier": "x"}), ["a"]),
        Other("two", request(labels={"app": "web"}), ["b"]),
        Other("three", request(), ["c"]),
    )
    assert nodes_of(place(asked, FLEET, {}, around=near(asked, *others))) == ["b"]


def test_who_wants_to_be_apart_is_left_apart_by_whoever_comes_later() -> None:
    shy = Other("shy", request(apart=[{"labels": {"noisy": "yes"}}]), ["a"])
    noisy = request(labels={"noisy": "yes"})
    choice = place(noisy, FLEET, {}, around=near(noisy, shy))
    assert nodes_of(choice) == ["b"]
    assert why_not(choice)["a"] == "deployment shy, which is to be apart from this, runs there"
    quiet = request()
    assert nodes_of(place(quiet, FLEET, {}, around=near(quiet, shy))) == ["a"]


@pytest.mark.parametrize(
    "apart", [[{"itself": True, "over": "rack"}], [{"labels": {"app": "me"}, "over": "rack"}]]
)
def test_replicas_apart_from_each_other_take_a_rack_each_and_no_more_than_there_are(apart: Any) -> None:
    asked = request(replicas=3, apart=apart, labels={"app": "me"})
    choice = place(asked, FLEET, {}, around=near(asked))
    assert len({RACKS[name] for name in nodes_of(choice)}) == 3, "two racks, and the node without"
    more = request(replicas=4, apart=apart, labels={"app": "me"})
    assert len(place(more, FLEET[:4], {}, around=near(more)).placements) == 2
    assert (
        "another replica runs on the same rack"
        in why_not(place(more, FLEET[:4], {}, around=near(more))).values()
    )


def test_a_replica_may_be_replaced_where_it_is_and_not_put_beside_another() -> None:
    asked = request(replicas=2, apart=[{"itself": True}])
    there = [
        Placement(replica=0, node="a", runtime="process"),
        Placement(replica=1, node="b", runtime="process"),
    ]
    assert nodes_of(place(asked, FLEET, {}, current=there, around=near(asked))) == ["a", "b"]
    lost = place(asked, FLEET[:1], {}, current=there[:1], replicas=[1], around=near(asked))
    assert lost.placements == []
    assert why_not(lost) == {"a": "another replica runs there"}


def test_together_goes_where_the_other_is_or_waits() -> None:
    asked = request(together=[{"deployment": "cache", "over": "rack"}])
    choice = place(asked, FLEET, {}, around=near(asked, Other("cache", request(), ["d"])))
    assert nodes_of(choice) == ["c"]
    assert why_not(choice) == dict.fromkeys("abe", "deployment cache does not run on the same rack")
    alone = place(asked, FLEET, {}, around=near(asked))
    assert alone.placements == []
    assert len(why_not(alone)) == len(FLEET)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("apart", {}),
        ("apart", {"deployment": "a", "itself": True}),
        ("apart", {"labels": {}}),
        ("together", {"itself": True}),
        ("tolerations", {}),
        ("tolerations", {"key": "a", "operator": "Exists", "value": "b"}),
        ("tolerations", {"key": "a", "effect": "Nothing"}),
    ],
)
def test_rules_that_say_nothing_are_refused(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request(**{field: [wrong]})


def test_labels_of_a_node_become_its_taints() -> None:
    labels = {
        "taint.gpu": "yes:NoSchedule",
        "taint.old": "PreferNoSchedule",
        "taint.odd": "x:y",
        "other": "1",
    }
    assert tainted(labels) == ["gpu=yes:NoSchedule", "odd=x:y:NoSchedule", "old:PreferNoSchedule"]


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "cpu", "operator": "Exists"}, False),
    ],
)
def test_a_tainted_node_takes_only_who_tolerates_it(toleration: dict[str, Any], tolerated: bool) -> None:
    fleet = [node("a", taints=["gpu=yes:NoSchedule"])]
    refused = place(request(), fleet, {})
    assert refused.placements == []
    assert why_not(refused) == {"a": "taint gpu=yes:NoSchedule is not tolerated"}
    assert len(place(request(tolerations=[toleration]), fleet, {}).placements) == tolerated


def test_what_runs_on_a_node_that_is_tainted_then_is_let_run() -> None:
    there = [Placement(replica=0, node="a", runtime="process")]
    fleet = [node("a", taints=["gpu:NoExecute"]), node("b")]
    assert nodes_of(place(request(), fleet, {}, current=there)) == ["a"]


def test_a_taint_may_only_ask_for_another_node() -> None:
    fleet = [node("a", taints=["old:PreferNoSchedule"]), node("b", **{"load.1m": 3.9})]
    choice = place(request(), fleet, {})
    assert nodes_of(choice) == ["b"]
    assert {candidate.node: candidate.scores["taints"] for candidate in choice.candidates} == {"a": 0, "b": 1}
    assert nodes_of(place(request(tolerations=[{"operator": "Exists"}]), fleet, {})) == ["a"]


def test_taints_of_kubernetes_hold_what_the_cluster_would_run() -> None:
    tainted_node = {"cluster.taints": ["control-plane:NoSchedule"], "taints": []}
    assert standing(request(), tainted_node, "kubernetes") == "control-plane:NoSchedule"
    assert standing(request(), tainted_node, "host") is None


def test_near_is_the_least_measured_latency_first() -> None:
    fleet = [node("a", **{"latency.athens": 0.04}), node("b", **{"latency.athens": 0.002}), node("c")]
    asked = request(prefer=[{"near": {"place": "athens"}}])
    assert [candidate.node for candidate in place(asked, fleet, {}).candidates] == ["b", "a", "c"]
    about = lookup("latency.athens")
    assert about
    assert (about.kind, about.unit, about.dynamic) == ("number", "s", True)
    assert may_be_metric("latency.athens")
    assert not may_be_metric("label.athens")


# -- preemption ----------------------------------------------------------------------------------


def prey(ledger: Ledger, priorities: dict[str, int]) -> list[Prey]:
    return [
        Prey(priority, deployment, held.replica, held)
        for deployment, priority in priorities.items()
        for held in ledger.of(deployment)
    ]


def preempted(
    asked: DeploymentRequest, fleet: list[dict[str, Any]], ledger: Ledger, **priorities: int
) -> Any:
    def attempt(reserved: Any, among: set[str] | None) -> Choice:
        return place(asked, [one for one in fleet if among is None or one["name"] in among], reserved)

    return preempting(attempt, ledger.of_nodes(), prey(ledger, priorities), asked.replicas)


def test_the_lowest_go_first_and_no_more_than_must() -> None:
    ledger = Ledger()
    ledger.reserve("low", [Held("a", 1.0), Held("a", 1.0, replica=1)])
    ledger.reserve("middle", [Held("a", 2.0)])
    ledger.reserve("other", [Held("b", 3.0)])
    fleet = [node("a"), node("b")]
    choice, gone = preempted(request(resources={"cpu": 2}), fleet, ledger, low=1, middle=2, other=2)
    assert nodes_of(choice) == ["a"]
    assert {(one.deployment, one.replica) for one in gone} == {("low", 0), ("low", 1)}
    _, gone = preempted(request(resources={"cpu": 2}), fleet, ledger, other=2)
    assert [one.deployment for one in gone] == ["other"]
    assert preempted(request(resources={"cpu": 5}), fleet, ledger, low=1, middle=1, other=1) is None


def test_a_host_port_is_given_up_as_well() -> None:
    ledger = Ledger()
    ledger.reserve("low", [Held("a", ports=(80,))])
    ledger.reserve("beside", [Held("a", 1.0)])
    asked = request(ports=[{"name": "p", "port": 80, "hostPort": 80}])
    choice, gone = preempted(asked, [node("a")], ledger, low=0, beside=0)
    assert nodes_of(choice) == ["a"]
    assert [one.deployment for one in gone] == ["low"]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 3)), max_size=12
    ),
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.integers(1, 3),
)
def test_whoever_goes_makes_the_room_and_everyone_who_goes_is_needed(
    held: list[tuple[str, float, int]], cpu: float, replicas: int
) -> None:
    fleet = [node(name) for name in "abc"]
    ledger, priorities = Ledger(), {}
    used: dict[str, float] = defaultdict(float)
    for number, (name, cores, priority) in enumerate(held):
        if used[name] + cores <= 4:
            used[name] += cores
            ledger.reserve(f"d{number}", [Held(name, cores)])
            priorities[f"d{number}"] = priority
    asked = request(replicas=replicas, resources={"cpu": cpu})
    result = preempted(asked, fleet, ledger, **priorities)
    if result is None:
        assert not priorities or len(place(asked, fleet, {}).placements) < replicas
        return
    choice, gone = result
    assert len(choice.placements) == replicas
    for one in gone:
        ledger.release(one.deployment)
    ledger.reserve("new", [Held(p.node, p.cpu, p.memory) for p in choice.placements])
    assert all(reserved.cpu <= 4 + 1e-6 for reserved in ledger.of_nodes().values())
    for one in gone:
        assert ledger.of_nodes()[one.held.node].cpu + one.held.cpu > 4, "it would have fitted beside"


def test_preemption_counts_in_bytes_too() -> None:
    ledger = Ledger()
    ledger.reserve("low", [Held("a", 0.0, 900 * MIB)])
    choice, gone = preempted(request(resources={"memory": 512 * MIB}), [node("a")], ledger, low=0)
    assert nodes_of(choice) == ["a"]
    assert [one.deployment for one in gone] == ["low"]
    assert ledger.of_nodes()["a"] == Reserved(0.0, 900 * MIB, {})
