"""The imitation refuses what KubeVirt refuses, in its words, and we tell each by the field of the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.vim.cluster.api import Api, ApiError
from services.vim.cluster.machine import virtual_machine
from services.vim.cluster.machine_refusal import refused
from services.vim.cluster.virtual_machines import MACHINES
from tests.cluster.any_cluster import AnyCluster
from tests.vim.cluster.machines import DISK, level, metadata

Spoil = Callable[[dict[str, Any]], Any]


def spec(machine: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = machine["spec"]["template"]["spec"]
    return found


def init(machine: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec(machine)["volumes"][1]["cloudInitNoCloud"]
    return found


REFUSALS: list[tuple[str, Spoil, str, str]] = [
    ("no volume", lambda m: spec(m).update(volumes=[]), "images.vm", "'root' not found."),
    ("running too", lambda m: m["spec"].update(running=True), "restart", "mutually exclusive"),
    ("no strategy", lambda m: m["spec"].pop("runStrategy"), "restart", "RunStrategy must be specified"),
    ("a strange one", lambda m: m["spec"].update(runStrategy="X"), "restart", "Invalid RunStrategy (X)"),
    (
        "two sources",
        lambda m: spec(m)["volumes"][0].update(emptyDisk={"capacity": "1Gi"}),
        "images.vm",
        "must have exactly one source type set",
    ),
    (
        "more than the limit",
        lambda m: spec(m)["domain"].update(
            resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}
        ),
        "resources.memory",
        "'2Gi' is greater than",
    ),
    (
        "a disk of the host",
        lambda m: spec(m)["volumes"].__setitem__(
            0, {"name": "root", "hostDisk": {"path": "/x", "type": "Disk"}}
        ),
        "images.vm",
        "HostDisk feature gate is not enabled",
    ),
    (
        "arguments without a kernel",
        lambda m: spec(m)["domain"].update(firmware={"kernelBoot": {"kernelArgs": "quiet"}}),
        "images.vm.arguments",
        "without an external kernel",
    ),
    ("two user data", lambda m: init(m).update(secretRef={"name": "x"}), "images.vm.cloudInit", "only one"),
    ("long user data", lambda m: init(m).update(userData="x" * 2049), "images.vm.cloudInit.userData", "2048"),
    (
        "an instancetype",
        lambda m: m["spec"].update(instancetype={"name": "x"}),
        "resources",
        "conflicts with",
    ),
    ("no pod network", lambda m: spec(m).update(networks=[]), "ports", "only implemented with pod network"),
]


def made() -> dict[str, Any]:
    wish = level(image={**DISK, "cloud_init": {"user_data": "#!/bin/sh"}}, cpu=1.0)
    machine = virtual_machine(wish.desired, metadata(), ["rack-1-000"])
    copied: dict[str, Any] = json.loads(json.dumps(machine))
    return copied


async def apply(kubernetes: AnyCluster, namespace: str, machine: dict[str, Any]) -> None:
    api = await Api.connect(kubernetes.kubeconfig)
    machine["metadata"]["namespace"] = namespace
    try:
        await api.apply(MACHINES, namespace, machine)
    finally:
        await api.close()


async def test_what_we_make_is_accepted(kubernetes: AnyCluster, namespace: str) -> None:
    await apply(kubernetes, namespace, made())


@pytest.mark.parametrize(
    ("spoil", "field", "says"), [one[1:] for one in REFUSALS], ids=[one[0] for one in REFUSALS]
)
async def test_a_refusal_names_the_field_of_the_request(
    kubernetes: AnyCluster, namespace: str, spoil: Spoil, field: str, says: str
) -> None:
    machine = made()
    spoil(machine)
    with pytest.raises(ApiError) as caught:
        await apply(kubernetes, namespace, machine)
    assert (caught.value.http, caught.value.reason) == (422, "Invalid")
    told = refused(caught.value)
    assert (told.reason, told.lasting) == ("InvalidWorkload", True)
    assert f"{field}: " in told.message
    assert says in told.message


async def test_an_unknown_field_is_refused_not_pruned(kubernetes: AnyCluster, namespace: str) -> None:
    machine = made()
    spec(machine)["domain"]["memroy"] = {"guest": "1Gi"}
    with pytest.raises(ApiError) as caught:
        await apply(kubernetes, namespace, machine)
    assert (refused(caught.value).reason, refused(caught.value).lasting) == ("InvalidWorkload", True)
    assert "memroy" in refused(caught.value).message


async def test_an_instance_cannot_be_edited(kubernetes: AnyCluster, namespace: str) -> None:
    machine = made()
    await apply(kubernetes, namespace, machine)
    name = machine["metadata"]["name"]
    kubernetes.kubectl("wait", "--for=create", f"vmi/{name}", "-n", namespace, "--timeout=30s")
    change = json.dumps({"spec": {"terminationGracePeriodSeconds": 1}})
    with pytest.raises(AssertionError, match="update of VMI object is restricted"):
        kubernetes.kubectl("patch", "vmi", name, "-n", namespace, "--type", "merge", "-p", change)
