"""Placement, as a pure function: what it promises for any fleet and any sequence of requests."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decision import Attempt, Placement
from schemas.deployment import DeploymentRequest
from services.vim.ledger import Held, Ledger
from services.vim.overhead import OVERHEAD
from services.vim.placement import place
from services.vim.room import GUEST_MEMORY
from tests.vim.levels import MIB, node, request

RUNTIMES = ["process", "container", "unikernel", "vm"]


def requests_of(
    cores: list[float | None],
    memory: list[int | None],
    replicas: st.SearchStrategy[int],
    pinned: list[int | None],
    styles: list[dict[str, Any]],
) -> st.SearchStrategy[DeploymentRequest]:
    """Requests of any runtimes, with one of each."""
    return st.builds(
        lambda runtimes, cpu, memory, replicas, port, style: request(
            runtimes=runtimes,
            replicas=replicas,
            resources={k: v for k, v in {"cpu": cpu, "memory": memory}.items() if v},
            ports=[{"name": "p", "port": 80, "hostPort": port}] if port else [],
            **style,
        ),
        st.lists(st.sampled_from(RUNTIMES), min_size=1, max_size=3, unique=True),
        st.sampled_from(cores),
        st.sampled_from(memory),
        replicas,
        st.sampled_from(pinned),
        st.sampled_from(styles),
    )


requests = requests_of(
    [None, 0.1, 0.25, 1, 3.9],
    [None, MIB, 64 * MIB, 300 * MIB, 1024 * MIB],
    st.integers(0, 5),
    [None, None, None, 8080, 8081],
    [{}, {"pack": True}, {"spread": {"over": "rack"}}, {"prefer": [{"load.1m": "asc"}]}],
)
fleets = st.lists(
    st.builds(
        lambda cores, memory, runtimes, rack, load, available: {
            "cpu.cores": cores,
            "memory.total": memory * MIB,
            "runtimes": runtimes,
            "load.1m": load,
            **({"rack": rack} if rack else {}),
            **({} if available is None else {"memory.available": available * MIB}),
        },
        st.sampled_from([1, 2, 4]),
        st.sampled_from([128, 512, 2048]),
        st.lists(st.sampled_from(RUNTIMES), unique=True),
        st.sampled_from([None, "r1", "r2"]),
        st.sampled_from([0.0, 0.5, 7.0]),
        st.sampled_from([None, 100, 4096]),
    ),
    min_size=1,
    max_size=6,
).map(lambda made: [{"name": f"n{at}", **fields} for at, fields in enumerate(made)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(0, 5), requests),
        st.tuples(st.just("release"), st.integers(0, 5), st.none()),
        st.tuples(st.just("again"), st.integers(0, 5), st.integers(0, 4)),
    ),
    max_size=25,
)


def held(asked: DeploymentRequest, placements: list[Placement]) -> list[Held]:
    ports = tuple(port.host_port for port in asked.ports if port.host_port)
    return [Held(p.node, p.cpu, p.memory + p.memory_overhead, ports) for p in placements]


@settings(deadline=None, max_examples=150)
@given(fleets, steps)
def test_no_node_is_ever_promised_more_than_it_has(fleet: list[dict[str, Any]], todo: list[Any]) -> None:
    """Whatever is placed, moved and released in whatever order: cores, memory and ports suffice."""
    ledger = Ledger()
    lives: dict[str, tuple[DeploymentRequest, list[Placement]]] = {}
    for verb, number, extra in todo:
        name = f"d{number}"
        if verb == "release":
            lives.pop(name, None)
            ledger.release(name)
        elif verb == "place":
            current = lives.get(name, (None, []))[1]
            choice = place(extra, fleet, ledger.of_nodes(without=name), current=current)
            if len(choice.placements) == extra.replicas:
                lives[name] = (extra, choice.placements)
                ledger.reserve(name, held(*lives[name]))
        elif name in lives:
            # One replica is placed anew beside the others, as after the loss of a node.
            asked, placements = lives[name]
            kept = [p for p in placements if p.replica != extra]
            gone = [p.replica for p in placements if p.replica == extra]
            choice = place(asked, fleet, ledger.of_nodes(without=name), current=kept, replicas=gone)
            lives[name] = (asked, [*kept, *choice.placements])
            ledger.reserve(name, held(*lives[name]))
        cpu: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        ports: dict[str, Counter[int]] = defaultdict(Counter)
        for asked, placements in lives.values():
            for placement in placements:
                cpu[placement.node] += placement.cpu  # type: ignore[assignment]
                memory[placement.node] += placement.memory + placement.memory_overhead
                ports[placement.node].update(port.host_port for port in asked.ports if port.host_port)
        for one in fleet:
            assert cpu[one["name"]] <= one["cpu.cores"] + 1e-4
            assert memory[one["name"]] <= one["memory.total"]
            assert max(ports[one["name"]].values(), default=0) <= 1
        taken = ledger.of_nodes()
        assert {n: r.memory for n, r in taken.items() if r.memory} == {n: m for n, m in memory.items() if m}


@settings(deadline=None, max_examples=100)
@given(fleets, requests, st.randoms())
def test_the_same_facts_give_the_same_decision(
    fleet: list[dict[str, Any]], asked: DeploymentRequest, rng: random.Random
) -> None:
    first = place(asked, fleet, {})
    shuffled = rng.sample(fleet, len(fleet))
    assert place(asked, shuffled, {}) == first


@settings(deadline=None, max_examples=100)
@given(fleets, requests)
def test_every_node_is_a_candidate_or_has_a_reason(
    fleet: list[dict[str, Any]], asked: DeploymentRequest
) -> None:
    choice = place(asked, fleet, {})
    candidates = {candidate.node for candidate in choice.candidates}
    rejected = {name for group in choice.rejected for name in group.nodes}
    assert {one["name"] for one in fleet} == candidates | rejected
    assert all(group.reason and group.count == len(group.nodes) for group in choice.rejected)
    if len(choice.placements) < asked.replicas:
        # Where it does not fit, each node says why it takes no more, in each runtime.
        for runtime in asked.runtimes:
            told = {name for group in choice.rejected if group.runtime == runtime for name in group.nodes}
            assert told == {one["name"] for one in fleet}
        assert choice.message


@settings(deadline=None, max_examples=100)
@given(fleets, requests)
def test_nothing_healthy_is_moved(fleet: list[dict[str, Any]], asked: DeploymentRequest) -> None:
    first = place(asked, fleet, {})
    if len(first.placements) < asked.replicas:
        return
    again = place(asked, fleet, {}, current=first.placements)
    assert [(p.replica, p.node, p.runtime) for p in again.placements] == [
        (p.replica, p.node, p.runtime) for p in first.placements
    ]
    assert all(p.reason == "kept" for p in again.placements)


def test_the_first_runtime_that_fits_wins_with_its_overhead_counted() -> None:
    fleet = [node("a", memory=100 * MIB, runtimes=["unikernel", "container"])]
    asked = request(runtimes=["unikernel", "container"], resources={"memory": 64 * MIB})
    choice = place(asked, fleet, {})
    (only,) = choice.placements
    assert (only.runtime, only.memory, only.memory_overhead) == ("container", 64 * MIB, OVERHEAD["container"])
    (refused,) = choice.rejected
    assert (refused.runtime, refused.reason) == ("unikernel", "memory 100MiB unreserved < 128MiB")
    fleet[0]["memory.total"] = 128 * MIB
    assert place(asked, fleet, {}).placements[0].runtime == "unikernel"
    silent = place(request(runtimes=["vm"]), [node("a", runtimes=["vm"])], {})
    assert silent.placements[0].memory == GUEST_MEMORY["vm"]


def test_replicas_are_spread_over_nodes_racks_or_packed() -> None:
    fleet = [node(f"n{at}", rack=f"r{at % 2}") for at in range(4)]
    assert Counter(p.node for p in place(request(replicas=8), fleet, {}).placements) == {
        f"n{at}": 2 for at in range(4)
    }
    fleet = [node("a", rack="r1"), node("b", rack="r1"), node("c", rack="r1"), node("d", rack="r2")]
    spread = place(request(replicas=4, spread={"over": "rack"}), fleet, {}).placements
    assert Counter("r2" if p.node == "d" else "r1" for p in spread) == {"r1": 2, "r2": 2}
    assert len({p.node for p in spread}) == 3
    packed = place(request(replicas=3, pack=True, resources={"cpu": 1}), fleet, {}).placements
    assert len({p.node for p in packed}) == 1
    ledger = Ledger()
    ledger.reserve("other", [Held("c", 1.0, 512 * MIB)])
    assert place(request(pack=True), fleet, ledger.of_nodes()).placements[0].node == "c", "the fullest"
    assert place(request(), fleet, ledger.of_nodes()).placements[0].node == "a", "not the fullest"


def test_preferences_rank_numbers_versions_sets_and_what_is_missing() -> None:
    fleet = [
        node("a", **{"temperature": 50.0, "software.python3": "3.9", "gpu.name": ["T4"]}),
        node("b", **{"temperature": 40.0, "software.python3": "3.11", "gpu.name": ["A2"]}),
        node("c"),
    ]

    def order(*prefer: Any) -> list[str]:
        return [c.node for c in place(request(prefer=list(prefer)), fleet, {}).candidates]

    assert order({"temperature": "asc"}) == ["b", "a", "c"]
    assert order({"temperature": "desc"}) == ["a", "b", "c"]
    assert order({"software.python3": "desc"}) == ["b", "a", "c"], "3.11 is newer than 3.9"
    assert order({"gpu.name": "asc"}) == ["b", "a", "c"]
    assert order({"temperature": "asc"}, {"software.python3": "asc"}) == ["b", "a", "c"], (
        "the first weighs most"
    )
    assert order() == ["a", "b", "c"], "equal scores fall to the name"


def test_what_was_tried_in_vain_is_not_tried_again() -> None:
    tried = [Attempt(replica=0, node="a", runtime="process", reason="ImageNotFound", message="no such file")]
    choice = place(request(), [node("a"), node("b")], {}, attempts=tried)
    assert [p.node for p in choice.placements] == ["b"]
    (refused,) = choice.rejected
    assert (refused.reason, refused.nodes, refused.had) == (
        "was tried there: ImageNotFound",
        ["a"],
        "no such file",
    )
    assert place(request(), [node("a")], {}, attempts=tried).placements == []


def test_replicas_of_one_deployment_count_against_each_other() -> None:
    one = [Placement(replica=0, node="a", runtime="process", cpu=1.0, memory=600 * MIB)]
    asked = request(replicas=2, resources={"memory": 600 * MIB})
    assert place(asked, [node("a")], {}, current=one, replicas=[1]).placements == []
    pinned = request(replicas=2, ports=[{"name": "p", "port": 80, "hostPort": 80}])
    assert place(pinned, [node("a")], {}, current=one, replicas=[1]).placements == []


def test_as_many_as_fit_are_told_where_not_all_do() -> None:
    choice = place(request(replicas=5, resources={"cpu": 2}), [node("a"), node("b", cores=2)], {})
    assert len(choice.placements) == 3
    assert choice.message == "2 matching nodes can take 3 of the 5 x process"


def test_very_many_different_reasons_are_told_together() -> None:
    fleet = [node(f"n{at:04}", memory=(at + 1) * MIB) for at in range(1000)]
    choice = place(request(resources={"memory": "4GiB"}), fleet, {})
    (group,) = choice.rejected
    assert group.reason == "memory 1MiB to 1000MiB unreserved < 4GiB"
    assert group.count == len(group.nodes) == 1000


@pytest.mark.parametrize("style", [{}, {"spread": {"over": "rack"}}, {"pack": True}])
def test_a_thousand_replicas_on_a_thousand_nodes_do_not_hold_up_the_others(style: dict[str, Any]) -> None:
    """The lease is lost by whoever is away for 4.5 s; so long must no choice take, on a slow machine either."""
    fleet = [node(f"n{at:04}", rack=f"r{at % 40}", **{"load.1m": at / 100}) for at in range(1000)]
    begun = time.process_time()
    choice = place(request(replicas=1000, resources={"cpu": 1}, **style), fleet, {})
    assert len(choice.placements) == 1000
    assert time.process_time() - begun < 1.5


def test_what_is_paused_goes_only_to_what_can_pause_it() -> None:
    clustered = {
        "cluster.name": "alpha",
        "cluster.runtimes": ["container", "vm"],
        "cluster.engine.container": ["k3s"],
        "cluster.engine.vm": ["kubevirt"],
        "worker.runtimes": ["container"],
    }
    both = node("both", runtimes=["container", "vm"], **clustered)
    cluster = node("cluster", runtimes=["container", "vm"], **{**clustered, "worker.runtimes": []})
    asked = request(runtimes=["container"])
    assert {c.driver for c in place(asked, [both, cluster], {}).candidates} == {"kubernetes"}
    still = asked.model_copy(update={"paused": True})
    choice = place(still, [both, cluster], {})
    assert [(c.node, c.driver, c.engine) for c in choice.candidates] == [("both", "host", "runc")]
    assert [(g.nodes, g.reason) for g in choice.rejected] == [
        (["cluster"], "offers no container for this: k3s: it pauses nothing")
    ]
    machine = request(runtimes=["vm"], paused=True)
    machine.images.vm = machine.images.vm.model_copy(update={"kernel": None, "image": "registry.local/vm:1"})  # type: ignore[union-attr]
    assert [c.engine for c in place(machine, [cluster], {}).candidates] == ["kubevirt"]
