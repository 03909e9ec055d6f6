"""Which worker runs what on a node that has two, and how failures of a whole cluster are gone around."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.decision import Attempt, Placement
from services.vim.lifecycle import STUCK, adrift, hopeless, moved
from services.vim.offer import offer
from services.vim.placement import place
from tests.vim.levels import NOW, decision, life, node, observed, request, state


def member(name: str, cluster: str = "alpha", **more: Any) -> dict[str, Any]:
    """A node of a cluster without an agent."""
    return node(
        name,
        **{
            "runtimes": ["container"],
            "worker.runtimes": [],
            "cluster.name": cluster,
            "cluster.runtimes": ["container"],
            "cluster.engine.container": ["k3s"],
            "cluster.cpu": 3.5,
            "cluster.memory": 1 << 30,
            **more,
        },
    )


def containers(**fields: Any) -> Any:
    return request(runtimes=["container"], **fields)


def test_what_the_cluster_runs_there_it_runs_else_the_nodes_own_worker() -> None:
    both = member("n", **{"worker.runtimes": ["container", "process"], "runtimes": ["container", "process"]})
    by = offer(containers(), "container", both)
    assert by is not None
    assert (by.driver, by.cluster, by.engine) == ("kubernetes", "alpha", "k3s")
    by = offer(request(), "process", both)
    assert by is not None
    assert (by.driver, by.cluster, by.engine) == ("host", None, "process")
    on_disk = containers().model_copy(deep=True)
    on_disk.images.container.image, on_disk.images.container.rootfs = None, "/srv/x"
    by = offer(on_disk, "container", both)
    assert by is not None
    assert (by.driver, by.engine) == ("host", "runc")
    assert "registry only" in by.reason
    assert offer(on_disk, "container", member("n")) is None


def test_of_several_engines_the_better_one_is_taken_and_the_decision_says_why() -> None:
    known = member(
        "n",
        **{
            "cluster.runtimes": ["unikernel"],
            "cluster.engine.unikernel": ["qemu-pod", "urunc"],
            "cluster.acceleration": "kvm",
        },
    )
    asked = request(runtimes=["unikernel"])
    asked.images.unikernel.kernel, asked.images.unikernel.image = None, "localhost/u:1"
    by = offer(asked, "unikernel", known)
    assert by is not None
    assert (by.engine, by.acceleration) == ("urunc", "kvm")
    assert by.reason.startswith("urunc of cluster alpha")


def test_root_runs_only_where_whoever_would_run_it_allows_it() -> None:
    rooted = containers(user="root")
    assert offer(rooted, "container", member("n")) is None
    assert offer(rooted, "container", member("n", **{"cluster.allow_root": True})) is not None


def test_pods_get_what_the_cluster_gives_them_and_no_more() -> None:
    choice = place(containers(resources={"cpu": 3.8}), [member("n")], {})
    assert not choice.placements
    assert choice.rejected[0].attribute == "allocatable.cpu"
    assert place(containers(resources={"cpu": 3.4}), [member("n")], {}).placements


def test_what_failed_in_a_cluster_is_tried_on_none_of_its_nodes() -> None:
    nodes = [member("a1"), member("a2"), member("b1", cluster="beta")]
    failed = Attempt(replica=0, node="a1", runtime="container", cluster="alpha", reason="ImageNotFound")
    choice = place(containers(), nodes, {}, attempts=[failed])
    assert [placement.node for placement in choice.placements] == ["b1"]
    (group,) = choice.rejected
    assert group.nodes == ["a1", "a2"]
    assert "tried there: ImageNotFound" in group.reason
    alone = Attempt(replica=0, node="a1", runtime="container", reason="NodeLost")
    choice = place(containers(), nodes[:2], {}, attempts=[alone])
    assert [placement.node for placement in choice.placements] == ["a2"]


def _decided(**placement: Any) -> Any:
    made = decision("a1", request=containers())
    there = Placement(
        replica=0, node="a1", runtime="container", driver="kubernetes", cluster="alpha", **placement
    )
    return made.model_copy(update={"placements": [there]})


def test_a_hopeless_failure_there_is_the_clusters() -> None:
    decided = _decided()
    seen = observed("a1", "failed", runtime="container", reason="ImageNotFound")
    (attempt,) = hopeless(life(decided, seen), decided)
    assert (attempt.node, attempt.cluster) == ("a1", "alpha")


def test_what_is_stuck_there_is_better_elsewhere_after_a_while() -> None:
    decided = _decided()
    for reason in STUCK:
        seen = observed("a1", "creating", runtime="container", reason=reason, observed_at=NOW)
        soon = adrift(life(decided, seen), decided, state(), NOW + timedelta(seconds=29))
        assert soon == []
        (attempt,) = adrift(life(decided, seen), decided, state(), NOW + timedelta(seconds=31))
        assert (attempt.reason, attempt.cluster) == (reason, "alpha")


def test_where_the_scheduler_put_it_is_heard_of_clusters_only() -> None:
    decided = _decided()
    seen = observed("a1", "running", runtime="container", moved_to="a2")
    assert moved(life(decided, seen), decided) == {0: "a2"}
    same = observed("a1", "running", runtime="container", moved_to="a1")
    assert moved(life(decided, same), decided) == {}
    on_host = decision("a1")
    seen = observed("a1", "running", moved_to="a2")
    assert moved(life(on_host, seen), on_host) == {}
