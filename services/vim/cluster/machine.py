"""From a desired level to the VirtualMachine that KubeVirt runs for it.

In: a level whose image boots from a container disk, a data volume, a claim or a kernel in an image, and the
nodes that may run it. Out: the objects to apply, whole, by server-side apply; nothing here asks a cluster.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

from schemas.workload import DesiredWorkload
from services.vim.cluster.kernel_boot import boot_unikraft
from services.vim.cluster.names import DEPLOYMENT
from services.vim.overhead import processors

GROUP: Final = "kubevirt.io/v1"
#: On the machine and, by its template, on its instance: which wish it was made from.
HASH: Final = "minicloud.dev/spec-hash"
#: On the machine: the node on the bus that it last was placed on and reached.
SETTLED: Final = "minicloud.dev/node"
#: The label by which nodes are told apart.
HOSTNAME: Final = "kubernetes.io/hostname"
#: More cloud-init than this, KubeVirt takes from a Secret only (bytes).
MOST_INLINE: Final = 2048
_MIB: Final = 1024 * 1024
_GUEST_MEMORY: Final = 256 * _MIB
#: Where Unikraft's tools, and ours, put a kernel into an image.
_KERNEL: Final = "/unikraft/bin/kernel"
_INITRD: Final = "/unikraft/bin/initrd"
#: How a machine that ended by itself goes on, by our ``restart``.
STRATEGIES: Final = {"always": "Always", "on-failure": "RerunOnFailure", "never": "Once"}
HALTED: Final = "Halted"
#: How long a guest may take to shut down before its power is cut (s).
_GRACE: Final = 30
#: How long a guest may take to boot before a probe that fails restarts it (s).
_BOOT: Final = 120


def spec_hash(level: DesiredWorkload) -> str:
    """The identity of what a level asks of its machine, wherever it runs: another one needs a restart."""
    asked = level.model_dump(
        mode="json", include={"image", "cpu", "memory", "ports", "env", "health", "restart"}
    )
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def secret_name(machine: str) -> str:
    """The name of the Secret that holds the cloud-init of a machine."""
    return f"{machine}-cloud-init"


def cloud_init_secret(level: DesiredWorkload, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """The Secret for cloud-init that is too long to stand in the machine itself; None where there is none."""
    kept = {
        key: value
        for key, value in (
            ("userdata", _cloud_init(level, "user_data")),
            ("networkdata", _cloud_init(level, "network_data")),
        )
        if _long(value)
    }
    if not kept:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata, "name": secret_name(metadata["name"])},
        "type": "Opaque",
        "stringData": kept,
    }


def virtual_machine(
    level: DesiredWorkload,
    metadata: dict[str, Any],
    nodes: Sequence[str],
    *,
    tolerations: Sequence[dict[str, Any]] = (),
    strategy: str | None = None,
) -> dict[str, Any]:
    """The VirtualMachine of a level.

    Args:
        level: what should run.
        metadata: name, namespace, labels and annotations that say whose it is.
        nodes: host names of the nodes that may run it, the chosen one first.
        tolerations: taints that the site lets workloads stand, beside those that the level tolerates.
        strategy: in place of the one that the level's ``restart`` makes, such as ``Halted``.
    """
    labels = dict(metadata.get("labels") or {})
    annotations = {**(metadata.get("annotations") or {}), HASH: spec_hash(level)}
    spec: dict[str, Any] = {
        "domain": _domain(level),
        "networks": [{"name": "default", "pod": {}}],
        "volumes": _volumes(level, metadata["name"]),
        # On a drained node it moves where it can, and else it restarts elsewhere: it never blocks the drain.
        "evictionStrategy": "LiveMigrateIfPossible",
        "terminationGracePeriodSeconds": _GRACE,
        **_probes(level),
    }
    if nodes:
        spec["affinity"] = {"nodeAffinity": _affinity(nodes)}
    if stands := [*tolerations, *(toleration.written() for toleration in level.tolerations)]:
        spec["tolerations"] = stands
    return {
        "apiVersion": GROUP,
        "kind": "VirtualMachine",
        "metadata": {**metadata, "annotations": annotations},
        "spec": {
            "runStrategy": strategy or STRATEGIES[level.restart],
            "template": {
                "metadata": {"labels": labels, "annotations": _of_the_instance(annotations)},
                "spec": spec,
            },
        },
    }


def migration(machine: str, name: str, metadata: dict[str, Any], node: str) -> dict[str, Any]:
    """The wish that the instance of ``machine`` moves to the node with the host name ``node`` as it runs."""
    return {
        "apiVersion": GROUP,
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {**metadata, "name": name},
        "spec": {"vmiName": machine, "addedNodeSelector": {HOSTNAME: node}},
    }


def _of_the_instance(annotations: dict[str, str]) -> dict[str, str]:
    """Which of a machine's annotations its instance has too: those that do not change as it runs."""
    return {name: annotations[name] for name in (HASH, DEPLOYMENT) if name in annotations}


def _domain(level: DesiredWorkload) -> dict[str, Any]:
    disks: list[dict[str, Any]] = []
    if _root(level) is not None:
        disks.append({"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1})
    if level.image.get("cloud_init"):
        disks.append({"name": "cloudinit", "disk": {"bus": "virtio"}})
    ports = [{"name": port.name, "port": port.port, "protocol": "TCP"} for port in level.ports]
    interface: dict[str, Any] = {"name": "default", "masquerade": {}}  # by a bridge it could not move
    if ports:
        interface["ports"] = ports
    domain: dict[str, Any] = {
        "cpu": {"cores": processors(level.cpu)},
        # Only the guest's memory: with requests of our own KubeVirt would charge a part of them on top.
        "memory": {"guest": _size(level.memory or _GUEST_MEMORY)},
        "devices": {"autoattachGraphicsDevice": False, "disks": disks, "interfaces": [interface], "rng": {}},
    }
    if level.cpu is not None:
        amount = f"{math.ceil(level.cpu * 1000)}m"
        domain["resources"] = {"requests": {"cpu": amount}, "limits": {"cpu": amount}}
    if level.runtime == "unikernel":
        return boot_unikraft(domain, level)
    if kernel := level.image.get("image"):
        boot: dict[str, Any] = {"container": {"image": kernel, "kernelPath": _KERNEL, "initrdPath": _INITRD}}
        words = [*(f"{key}={value}" for key, value in level.env.items()), *level.image.get("arguments", ())]
        if words:
            boot["kernelArgs"] = " ".join(words)
        domain["firmware"] = {"kernelBoot": boot}
    return domain


def _root(level: DesiredWorkload) -> dict[str, Any] | None:
    """The volume that it boots from."""
    image = level.image
    if image.get("container_disk"):
        return {"name": "root", "containerDisk": {"image": image["container_disk"]}}
    if image.get("data_volume"):
        return {"name": "root", "dataVolume": {"name": image["data_volume"]}}
    if image.get("claim"):
        return {"name": "root", "persistentVolumeClaim": {"claimName": image["claim"]}}
    return None


def _volumes(level: DesiredWorkload, machine: str) -> list[dict[str, Any]]:
    volumes = [root] if (root := _root(level)) else []
    source: dict[str, Any] = {}
    for field, inline, reference in (
        ("user_data", "userData", "secretRef"),
        ("network_data", "networkData", "networkDataSecretRef"),
    ):
        if (value := _cloud_init(level, field)) is None:
            continue
        if _long(value):
            source[reference] = {"name": secret_name(machine)}
        else:
            source[inline] = value
    if source:
        volumes.append({"name": "cloudinit", "cloudInitNoCloud": source})
    return volumes


def _cloud_init(level: DesiredWorkload, field: str) -> str | None:
    value = (level.image.get("cloud_init") or {}).get(field)
    return None if value is None else str(value)


def _long(value: str | None) -> bool:
    return value is not None and len(value.encode()) > MOST_INLINE


def _probes(level: DesiredWorkload) -> dict[str, Any]:
    health = level.health
    if health is None or health.http is None:
        return {}
    port = next((port.port for port in level.ports if port.name == health.port), level.ports[0].port)
    probe: dict[str, Any] = {
        "httpGet": {"path": health.http, "port": port},
        # KubeVirt counts whole seconds.
        "periodSeconds": max(1, math.ceil(health.every)),
        "timeoutSeconds": max(1, math.ceil(health.timeout)),
        "failureThreshold": health.failures,
    }
    # KubeVirt knows no startup probe: a guest that still boots must not be taken for one that hangs.
    return {"readinessProbe": probe, "livenessProbe": {**probe, "initialDelaySeconds": _BOOT}}


def _affinity(nodes: Sequence[str]) -> dict[str, Any]:
    def among(names: Sequence[str]) -> dict[str, Any]:
        return {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": list(names)}]}

    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [among(sorted(nodes))]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": among(nodes[:1])}],
    }


def _size(amount: int) -> str:
    return f"{amount // _MIB}Mi" if amount % _MIB == 0 else str(amount)
