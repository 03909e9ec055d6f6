"""Virtual machines from the request to KubeVirt's objects and back, on a real API server.

KubeVirt itself is an imitation of its sequences (tests/cluster/kubevirt/README.md); the cluster, its scheduler, its
nodes that are lost and the taint that fences them are real.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.vim.cluster.field import Field, until

DISK = {"containerDisk": "registry.local/disk:1"}
OURS = "vm,vmi,vmim,secrets,services,pods"


async def deploy(machines: Field, image: dict[str, Any] | None = None, **fields: Any) -> str:
    """Publish a request for a virtual machine on the field's cluster, once it offers that."""
    await machines.nodes(40, **{"cluster.runtimes": "vm"})
    where = {"cluster.name": machines.name, **fields.pop("where", {})}
    name = machines.site.name("m")
    request = {"runtimes": ["vm"], "images": {"vm": image or DISK}, "where": where, **fields}
    await machines.site.publish(name, "request", request)
    return name


async def where_it_is(machines: Field, name: str) -> str:
    """The node of the only replica, once it runs there and the decision says so."""
    status = await machines.until_state(name, "running")
    return status.replicas[0].node


def host(machines: Field, name: str) -> str:
    """The Kubernetes node under its instance."""
    return str(machines.one("vmi", name)["status"]["nodeName"])


def patch(machines: Field, kind: str, name: str, document: dict[str, Any], *, status: bool = False) -> None:
    """As the imitated KubeVirt, or somebody by hand."""
    found = machines.one(kind, name)["metadata"]["name"]
    part = ["--subresource", "status"] if status else []
    machines.cluster.kubectl(
        "patch", kind, found, "-n", machines.namespace, "--type", "merge", *part, "-p", json.dumps(document)
    )


async def gone(machines: Field, name: str) -> None:
    await machines.site.cancel(name)
    await machines.until_state(name, "stopped")
    await until(lambda: not machines.lying(OURS, name), "all is gone")


async def test_a_machine_runs_and_ends_without_a_trace(machines: Field) -> None:
    name = await deploy(
        machines, resources={"cpu": 1.5, "memory": "512MiB"}, ports=[{"name": "http", "port": 80}]
    )
    status = await machines.until_state(name, "running")
    (replica,) = status.replicas
    assert (replica.cluster, replica.engine) == (machines.name, "kubevirt")
    instance = machines.one("vmi", name)
    domain = instance["spec"]["domain"]
    assert (domain["cpu"], domain["memory"]) == ({"cores": 2}, {"guest": "512Mi"})
    assert replica.endpoints
    assert replica.reference == f"vmi/{machines.namespace}/{instance['metadata']['name']}"
    placement = machines.site.decisions(name)[-1].placements[0]
    assert placement.memory_overhead == (220 + 16 + 8) * 1024 * 1024 + 35_000_000
    # It came up by Stopped and by Running that was not ready; neither was taken for what it says.
    assert not {"stopped", "failed", "completed"} & set(machines.site.states(name))
    await gone(machines, name)


async def test_long_cloud_init_is_a_secret_for_as_long_as_the_machine_is(machines: Field) -> None:
    data = "#cloud-config\n" + "# padding\n" * 300
    name = await deploy(machines, {**DISK, "cloudInit": {"userData": data}})
    await machines.until_state(name, "running")
    secret = machines.one("secrets", name)
    assert base64.b64decode(secret["data"]["userdata"]).decode() == data
    volumes = machines.one("vmi", name)["spec"]["volumes"]
    assert {"secretRef": {"name": secret["metadata"]["name"]}} in [v.get("cloudInitNoCloud") for v in volumes]
    await gone(machines, name)


async def test_a_machine_is_paused_and_goes_on_where_it_was(machines: Field) -> None:
    name = await deploy(machines)
    await machines.until_state(name, "running")
    uid = machines.one("vmi", name)["metadata"]["uid"]
    request = {"runtimes": ["vm"], "images": {"vm": DISK}, "where": {"cluster.name": machines.name}}
    await machines.site.publish(name, "request", {**request, "paused": True})
    await machines.until_state(name, "paused")
    assert machines.one("vm", name)["status"]["printableStatus"] == "Paused"
    assert machines.one("vm", name)["status"]["ready"] is True  # which is why nobody may go by it
    await machines.site.publish(name, "request", request)
    await machines.until_state(name, "running", generation=3)
    assert machines.one("vmi", name)["metadata"]["uid"] == uid
    await gone(machines, name)


async def test_another_wish_restarts_the_machine_and_more_replicas_do_not(machines: Field) -> None:
    name = await deploy(machines, resources={"memory": "256MiB"})
    await machines.until_state(name, "running")
    uid = machines.one("vmi", name)["metadata"]["uid"]
    request = {"runtimes": ["vm"], "images": {"vm": DISK}, "where": {"cluster.name": machines.name}}
    await machines.site.publish(
        name, "request", {**request, "resources": {"memory": "256MiB"}, "replicas": 2}
    )
    await machines.until_state(name, "running", generation=2)
    assert uid in [one["metadata"]["uid"] for one in machines.lying("vmi", name)]
    await machines.site.publish(
        name, "request", {**request, "resources": {"memory": "512MiB"}, "replicas": 2}
    )
    await machines.until_state(name, "running", generation=3)
    instances = machines.lying("vmi", name)
    assert [one["spec"]["domain"]["memory"]["guest"] for one in instances] == ["512Mi", "512Mi"]
    assert uid not in [one["metadata"]["uid"] for one in instances]
    await gone(machines, name)


@pytest.mark.parametrize(
    ("restart", "phase", "state"),
    [
        ("always", "Succeeded", "running"),
        ("on-failure", "Failed", "running"),
        ("on-failure", "Succeeded", "completed"),
        ("never", "Succeeded", "completed"),
        ("never", "Failed", "failed"),
    ],
)
async def test_a_guest_that_ends_by_itself(machines: Field, restart: str, phase: str, state: str) -> None:
    name = await deploy(machines, restart=restart)
    await machines.until_state(name, "running")
    uid = machines.one("vmi", name)["metadata"]["uid"]
    patch(machines, "vmi", name, {"status": {"phase": phase}}, status=True)
    if state == "running":
        await until(
            lambda: [1 for one in machines.lying("vmi", name) if one["metadata"]["uid"] != uid],
            "it is started anew",
        )
        await until(lambda: machines.one("vm", name)["status"].get("ready"), "it is ready again")
    await machines.until_state(name, state)
    assert not {"stopped", "failed", "completed"} - {state} & set(machines.site.states(name))
    await gone(machines, name)


async def test_a_machine_that_was_deleted_by_hand_comes_back(machines: Field) -> None:
    name = await deploy(machines)
    await machines.until_state(name, "running")
    made = machines.one("vm", name)["metadata"]
    machines.cluster.kubectl("delete", "vm", made["name"], "-n", machines.namespace, "--wait=false")
    await until(
        lambda: [1 for one in machines.lying("vm", name) if one["metadata"]["uid"] != made["uid"]],
        "it is made again",
    )
    await until(lambda: machines.one("vm", name)["status"].get("ready"), "it is ready again")
    await gone(machines, name)


async def test_a_start_that_would_undo_the_halt_is_waited_for(machines: Field) -> None:
    name = await deploy(machines)
    await machines.until_state(name, "running")
    patch(machines, "vm", name, {"status": {"stateChangeRequests": [{"action": "Start"}]}}, status=True)
    await machines.site.cancel(name)
    await until(lambda: "StartUnderWay" in machines.workers[-1].text(), "the worker says what it waits for")
    assert machines.one("vm", name)["spec"]["runStrategy"] == "Always"
    patch(machines, "vm", name, {"status": {"stateChangeRequests": None}}, status=True)
    await machines.until_state(name, "stopped")
    await until(lambda: not machines.lying(OURS, name), "all is gone")


class TestMigration:
    async def test_a_wish_to_migrate_is_a_live_migration(self, machines: Field) -> None:
        name = await deploy(machines, ports=[{"name": "http", "port": 80}])
        origin = await where_it_is(machines, name)
        uid, address = _identity(machines, name)
        await machines.site.publish(name, "migrate", {})
        await machines.site.until(lambda: "migrating" in machines.site.states(name), "it migrates")
        status = await machines.until_state(name, "running")
        assert status.replicas[0].node != origin
        assert _identity(machines, name)[0] == uid  # the same run of the same guest
        assert _identity(machines, name)[1] != address
        await until(lambda: not machines.lying("vmim", name), "the migration is tidied away")
        assert len(machines.lying("vmi", name)) == 1
        await gone(machines, name)

    async def test_where_the_guest_does_not_arrive_it_stays_and_says_why(self, machines: Field) -> None:
        name = await deploy(machines, {"containerDisk": "registry.local/migration-fails:1"})
        origin = await where_it_is(machines, name)
        uid, _ = _identity(machines, name)
        others = [node for node in await machines.nodes(40) if node != origin]
        await machines.site.publish(name, "migrate", {"to": others[0]})
        await machines.site.until(
            lambda: any("ran out of memory" in one.message for one in machines.site.statuses(name)), "why"
        )
        assert _identity(machines, name)[0] == uid
        await gone(machines, name)

    async def test_what_cannot_migrate_says_why_and_runs_on(self, machines: Field) -> None:
        name = await deploy(machines, {"claim": "alone"})
        await where_it_is(machines, name)
        uid, _ = _identity(machines, name)
        await machines.site.publish(name, "migrate", {})
        await machines.site.until(
            lambda: any("PVC is not shared" in one.message for one in machines.site.statuses(name)), "why"
        )
        assert _identity(machines, name)[0] == uid
        assert not machines.lying("vmim", name)
        await gone(machines, name)


def _identity(machines: Field, name: str) -> tuple[str, str]:
    instance = machines.one("vmi", name)
    return instance["metadata"]["uid"], instance["status"]["interfaces"][0]["ipAddress"]


@pytest.mark.parametrize(
    ("image", "state", "reason", "says"),
    [
        ({"claim": "missing-disk"}, "failed", "VolumeNotFound", "PVC missing-disk does not exist"),
        ({"dataVolume": "missing-disk"}, "failed", "VolumeNotFound", "missing-disk"),
        ({"dataVolume": "broken"}, "failed", "VolumeFailed", "the import failed"),
        ({"containerDisk": "registry.local/failed-create:1"}, "failed", "Refused", "must be larger"),
        (
            {"containerDisk": "registry.local/no-such-image:1"},
            "failed",
            "ImagePullFailed",
            "ImagePullBackOff",
        ),
        ({"containerDisk": "registry.local/crashing:1"}, "degraded", "CrashLoopBackOff", "3 times"),
        ({"containerDisk": "registry.local/never-ready:1"}, "starting", "NotReady", "not ready yet"),
    ],
)
async def test_what_is_accepted_and_fails_later_is_told(
    machines: Field, image: dict[str, str], state: str, reason: str, says: str
) -> None:
    name = await deploy(machines, image)
    await machines.site.until(
        lambda: [
            one
            for one in machines.site.statuses(name)
            if (one.state, one.reason) == (state, reason) and says in one.message
        ],
        f"{state} {reason}",
        seconds=40,
    )
    await gone(machines, name)


async def test_a_policy_that_refuses_machines_is_told(machines: Field, own_kubernetes: Cluster) -> None:
    """At once, and retried until it is lifted."""
    rule = {
        "apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["virtualmachines"],
    }  # fmt: skip
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": machines.namespace},
        "spec": {
            "matchConstraints": {
                "resourceRules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": machines.namespace}},
            },
            "validations": [{"expression": "false", "message": "no machines on Fridays"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": machines.namespace},
        "spec": {"policyName": machines.namespace, "validationActions": ["Deny"]},
    }
    own_kubernetes.apply(policy, binding)
    try:
        name = await deploy(machines)
        await machines.site.until(
            lambda: any("no machines on Fridays" in one.message for one in machines.site.statuses(name)),
            "why",
        )
    finally:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            own_kubernetes.kubectl("delete", kind, machines.namespace)
    await machines.until_state(name, "running", seconds=90)
    await gone(machines, name)
