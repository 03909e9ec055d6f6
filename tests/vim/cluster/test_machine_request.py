"""A machine in a request: each field is enforced, or refused with a reason, by each that could run it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from schemas.decision import Placement
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument
from services.vim.enforce import enforcements
from services.vim.lifecycle import adrift, hopeless
from services.vim.placement import place
from tests.vim.levels import MIB, NOW, decision, life, observed, state

DISK = {"containerDisk": "registry.local/disk:1"}
BY_HOST = {"name": "h", "runtimes": ["vm"], "cpu.cores": 4, "memory.total": 4096 * MIB}
BY_CLUSTER = {
    **BY_HOST,
    "name": "k",
    "cluster.name": "c",
    "cluster.runtimes": ["vm"],
    "cluster.engine.vm": ["kubevirt"],
    "worker.runtimes": [],
}


def request(image: dict[str, Any], **more: Any) -> DeploymentRequest:
    return DeploymentRequest.model_validate({"runtimes": ["vm"], "images": {"vm": image}, **more})


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({}, "exactly one of kernel, layout, image, containerDisk, dataVolume, claim"),
        ({**DISK, "claim": "c"}, "got containerDisk, claim"),
        ({**DISK, "arguments": ["quiet"]}, "brings its own kernel"),
        ({**DISK, "cloudInit": {}}, "it is empty"),
        ({"kernel": "k", "cloudInit": {"userData": "x"}}, "needs a disk to boot"),
        ({"claim": "Not/A/Name"}, "claim"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_schema(image: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        request(image)


def test_a_disk_goes_to_kubevirt_and_the_node_without_it_says_so() -> None:
    choice = place(request(DISK), [BY_HOST, BY_CLUSTER], {})
    (placement,) = choice.placements
    assert (placement.node, placement.driver, placement.engine) == ("k", "kubernetes", "kubevirt")
    (rejection,) = choice.rejected
    assert rejection.nodes == ["h"]
    assert "containerDisk, dataVolume and claim need KubeVirt" in rejection.reason


def test_a_kernel_that_is_a_file_of_a_node_goes_to_the_node_and_kubevirt_says_so() -> None:
    choice = place(request({"kernel": "./vmlinuz"}), [BY_HOST, BY_CLUSTER], {})
    assert [one.node for one in choice.placements] == ["h"]
    (rejection,) = choice.rejected
    assert rejection.nodes == ["k"]
    assert "no file of a node" in rejection.reason


def test_a_guest_that_fits_without_its_launcher_does_not_fit() -> None:
    asked = request(DISK, resources={"memory": "3900MiB"})
    assert not place(asked, [BY_CLUSTER], {}).placements
    assert place(request(DISK, resources={"memory": "3700MiB"}), [BY_CLUSTER], {}).placements


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"env": {"A": "b"}}, "env"),
        ({"files": [{"path": "a", "content": "b"}]}, "files"),
        ({"health": {"console": "up"}}, "health.console"),
        ({"ports": [{"name": "http", "port": 80, "hostPort": 8080}]}, "ports.hostPort"),
    ],
)
def test_what_nobody_can_hold_a_disk_to_is_rejected_or_sends_it_elsewhere(
    more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        enforcements(request(DISK, **more))
    assert field in [problem["field"] for problem in caught.value.problems]
    both = DeploymentRequest.model_validate(
        {"runtimes": ["vm", "process"], "images": {"vm": DISK, "process": {"command": ["/bin/true"]}}, **more}
    )
    enforcements(both)
    nodes = [BY_CLUSTER, {**BY_HOST, "runtimes": ["process"]}]
    choice = place(both, nodes, {})
    assert [(one.node, one.runtime) for one in choice.placements] == [("h", "process")]
    assert any(field in one.reason for one in choice.rejected if one.nodes == ["k"])


def _placed() -> Placement:
    return Placement(
        replica=0, node="a", runtime="process", driver="kubernetes", cluster="c", engine="kubevirt"
    )


def test_a_machine_on_a_lost_node_is_its_clusters_affair() -> None:
    decided = decision("a").model_copy(update={"placements": [_placed()]})
    lost = state("a", since=timedelta(hours=1))
    assert not adrift(life(decided, observed("a", "running")), decided, lost, NOW)
    other = decision("a")
    assert adrift(life(other, observed("a", "running")), other, lost, NOW)


@pytest.mark.parametrize(
    ("reason", "cluster"), [("MigrationStuck", None), ("NotMigratable", None), ("InvalidWorkload", "c")]
)
def test_a_move_in_vain_rules_out_one_node_and_what_cannot_start_the_cluster(
    reason: str, cluster: str | None
) -> None:
    decided = decision("a").model_copy(update={"placements": [_placed()]})
    (attempt,) = hopeless(life(decided, observed("a", "failed", reason=reason)), decided)
    assert (attempt.node, attempt.cluster) == ("a", cluster)
