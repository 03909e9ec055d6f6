"""The VirtualMachine of a level, and what its launcher takes beside the guest."""

from __future__ import annotations

from typing import Any

import pytest

from services.vim.cluster.machine import (
    HASH,
    cloud_init_secret,
    migration,
    secret_name,
    spec_hash,
    virtual_machine,
)
from services.vim.overhead import OVERHEAD, launcher_overhead, overhead_of
from tests.vim.cluster.machines import DISK, LABELS, MIB, level, metadata

LONG = "#cloud-config\n" + "x" * 2048


def made(**fields: Any) -> dict[str, Any]:
    return virtual_machine(level(**fields).desired, metadata(), ["ka", "kb"])


def template(**fields: Any) -> dict[str, Any]:
    spec: dict[str, Any] = made(**fields)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    ("image", "volume"),
    [
        ({"container_disk": "r/x:1"}, {"containerDisk": {"image": "r/x:1"}}),
        ({"data_volume": "dv"}, {"dataVolume": {"name": "dv"}}),
        ({"claim": "pvc"}, {"persistentVolumeClaim": {"claimName": "pvc"}}),
    ],
)
def test_it_boots_from_what_the_image_names(image: dict[str, str], volume: dict[str, Any]) -> None:
    spec = template(image=image)
    assert spec["volumes"] == [{"name": "root", **volume}]
    assert spec["domain"]["devices"]["disks"] == [{"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1}]


def test_each_disk_has_its_volume() -> None:
    spec = template(image={**DISK, "cloud_init": {"user_data": "#!/bin/sh"}})
    disks = [disk["name"] for disk in spec["domain"]["devices"]["disks"]]
    assert disks == [volume["name"] for volume in spec["volumes"]] == ["root", "cloudinit"]


def test_a_kernel_in_an_image_is_booted_with_its_arguments_and_environment() -> None:
    spec = template(image={"image": "r/kernel:1", "arguments": ["quiet", "ro"]}, env={"A": "b"})
    boot = spec["domain"]["firmware"]["kernelBoot"]
    assert boot["kernelArgs"] == "A=b quiet ro"
    assert boot["container"]["image"] == "r/kernel:1"
    assert spec["volumes"] == []
    assert "kernelArgs" not in template(image={"image": "r/k:1"})["domain"]["firmware"]["kernelBoot"]


def test_short_cloud_init_stands_in_the_machine() -> None:
    wish = level(image={**DISK, "cloud_init": {"user_data": "u", "network_data": "n"}})
    volume = virtual_machine(wish.desired, metadata(), [])["spec"]["template"]["spec"]["volumes"][1]
    assert volume["cloudInitNoCloud"] == {"userData": "u", "networkData": "n"}
    assert cloud_init_secret(wish.desired, metadata()) is None


def test_cloud_init_beyond_2048_bytes_is_a_secret() -> None:
    wish = level(image={**DISK, "cloud_init": {"user_data": LONG, "network_data": "n"}})
    volume = virtual_machine(wish.desired, metadata(), [])["spec"]["template"]["spec"]["volumes"][1]
    assert volume["cloudInitNoCloud"] == {"secretRef": {"name": "u-1-cloud-init"}, "networkData": "n"}
    secret = cloud_init_secret(wish.desired, metadata())
    assert secret is not None
    assert (secret["metadata"]["name"], secret["stringData"]) == (secret_name("u-1"), {"userdata": LONG})
    assert secret["metadata"]["labels"] == LABELS


@pytest.mark.parametrize(("size", "inline"), [(2048, True), (2049, False)])
def test_the_limit_counts_bytes(size: int, inline: bool) -> None:
    text = "ä" * (size // 2) + "x" * (size % 2)
    volumes = template(image={**DISK, "cloud_init": {"user_data": text}})["volumes"]
    assert ("userData" in volumes[1]["cloudInitNoCloud"]) is inline


def test_limits_are_whole_processors_and_the_guests_memory_alone() -> None:
    domain = template(cpu=1.5, memory=512 * MIB)["domain"]
    assert domain["cpu"] == {"cores": 2}
    assert domain["memory"] == {"guest": "512Mi"}
    assert domain["resources"] == {"requests": {"cpu": "1500m"}, "limits": {"cpu": "1500m"}}
    assert "resources" not in template()["domain"]
    assert template(memory=MIB + 1)["domain"]["memory"] == {"guest": str(MIB + 1)}


def test_the_network_lets_it_migrate_and_serves_the_ports() -> None:
    spec = template(ports=[{"name": "http", "port": 80}])
    assert spec["networks"] == [{"name": "default", "pod": {}}]
    assert spec["domain"]["devices"]["interfaces"] == [
        {"name": "default", "masquerade": {}, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    ]


@pytest.mark.parametrize(
    ("restart", "strategy"), [("always", "Always"), ("on-failure", "RerunOnFailure"), ("never", "Once")]
)
def test_the_strategy_is_the_restart(restart: str, strategy: str) -> None:
    assert made(restart=restart)["spec"]["runStrategy"] == strategy
    assert "running" not in made(restart=restart)["spec"]  # mutually exclusive


def test_the_chosen_node_is_preferred_and_the_candidates_are_allowed() -> None:
    affinity = template()["affinity"]["nodeAffinity"]
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert required[0]["matchExpressions"][0]["values"] == ["ka", "kb"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchExpressions"][0]["values"] == ["ka"]


def test_a_probe_waits_until_the_guest_may_have_booted_before_it_restarts() -> None:
    spec = template(
        ports=[{"name": "ssh", "port": 22}, {"name": "http", "port": 80}],
        health={"http": "/up", "port": "http", "every": 0.5, "failures": 2},
    )
    assert spec["readinessProbe"]["httpGet"] == {"path": "/up", "port": 80}
    assert (spec["readinessProbe"]["periodSeconds"], spec["readinessProbe"]["failureThreshold"]) == (1, 2)
    assert spec["livenessProbe"]["initialDelaySeconds"] >= 60


def test_whose_it_is_stands_on_the_launcher_too() -> None:
    whole = made()
    assert whole["spec"]["template"]["metadata"]["labels"] == LABELS  # a Service finds the launcher by them
    assert whole["spec"]["template"]["metadata"]["annotations"][HASH] == spec_hash(level().desired)


def test_a_wish_that_asks_for_the_same_machine_has_the_same_hash() -> None:
    plain = spec_hash(level().desired)
    assert spec_hash(level("b", generation=2, candidates=["a"]).desired) == plain
    for other in ({"cpu": 2.0}, {"memory": 64 * MIB}, {"image": {"claim": "c"}}, {"restart": "never"}):
        assert spec_hash(level(**other).desired) != plain


def test_a_migration_names_the_instance_and_its_goal() -> None:
    wish = migration("u-1", "u-1-abc", metadata(), "kb")
    assert wish["spec"] == {"vmiName": "u-1", "addedNodeSelector": {"kubernetes.io/hostname": "kb"}}
    assert wish["metadata"]["labels"] == LABELS


@pytest.mark.parametrize(
    ("cpu", "arch", "mib"), [(None, None, 236), (1, "x86_64", 236), (1.5, None, 244), (4, "aarch64", 388)]
)
def test_what_a_launcher_takes_is_kubevirts_formula(cpu: float | None, arch: str | None, mib: int) -> None:
    # Measured: 524 Mi for a guest of 256 with graphics, which is 32 more than ours.
    assert launcher_overhead(cpu, arch) == mib * MIB + 35_000_000
    assert 256 + 236 + 32 == 524


def test_only_kubevirts_guests_are_charged_a_launcher() -> None:
    assert overhead_of("vm", "kubevirt", 1) == launcher_overhead(1)
    assert overhead_of("vm", "qemu", 1) == OVERHEAD["vm"]
    assert overhead_of("vm", None, None) == OVERHEAD["vm"]
