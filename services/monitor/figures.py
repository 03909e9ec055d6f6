"""The documents of the seed, to the letter: Figures 9 to 12 (seed 3.4), numbers as text where it has text.

Their names are the seed's, odd ones included; the typed API says the same in better words. A part that
nobody measures here is an empty list, and the header ``Minicloud-Silent`` says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.errors import Unavailable
from schemas.node import Characterization, Gpu
from services.monitor.fleet import Fleet, Node
from services.monitor.prometheus import Prometheus, Sample
from services.monitor.virtual import NO_PROMETHEUS, Runs, Virtual

_AT_ONCE: Final = 50
_REGION: Final = ("continent", "country", "city")
_CONTROL_PLANE: Final = "control-plane, master"


@dataclass(slots=True)
class Results:
    """The parts of an answer in their order, and why some of them are empty.

    Attributes:
        parts: as they are told.
        silent: why a part is empty, by its name.
    """

    parts: list[dict[str, Any]] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, rows: list[dict[str, Any]], why: str = "") -> None:
        """Add a part; ``why`` it is empty, should it be."""
        self.parts.append({"timestamp": time.time(), name: rows})
        if not rows and why:
            self.silent[name] = why

    def document(self) -> dict[str, Any]:
        """The answer."""
        return {"Results": self.parts}


async def physical(fleet: Fleet, prometheus: Prometheus | None) -> Results:
    """How every node does (Figure 9); disks one by one as Prometheus knows them from node_exporter."""
    told = Results()
    nodes = [node for node in fleet.nodes() if node.values]
    why = "no node has sent a sample yet"

    def rows(key: str, value: Callable[[Node], Any], **more: Any) -> list[dict[str, Any]]:
        found = ((node, value(node)) for node in nodes)
        return [{"node": node.name, **more, key: text} for node, text in found if text is not None]

    async def disks(name: str, key: str, query: str, row: Callable[[Sample, str], dict[str, Any]]) -> None:
        found, empty = await _asked(prometheus, query)
        told.add(name, [row(sample, key) for sample in found], empty)

    def device(sample: Sample, key: str) -> dict[str, Any]:
        return {"node": sample.node, "device": sample.labels.get("device"), key: _hundredths(sample.value)}

    asked = prometheus or Prometheus("", "", "")
    told.add("Cpu Usage Results", rows("cpu_usage(percentage)", lambda n: _text(n, "cpu.used")), why)
    told.add("Memory Usage Results", rows("mem_usage(percentage)", _memory_usage), why)
    await disks("Disk Write Latency Results", "disk_write_latency(percentage)", asked.disk_writing(), device)
    await disks("Disk Read Latency Results", "disk_read_latency(percentage)", asked.disk_reading(), device)
    told.add(
        "Filesystem Usage Results",
        rows("filesystem_usage(percentage)", _disk_usage, mountpoint=None, fstype=None),
        why,
    )
    told.add("Disk Size Results", rows("disk_total_size(bytes)", _disk_size), why)
    told.add("Disk Free Space Results", rows("disk_free_space(bytes)", _disk_free), why)
    await disks(
        "Disk IO Usage Results",
        "disk_io_time_spent(seconds)",
        asked.disk_busy(),
        lambda sample, key: {"node": sample.node, key: str(sample.value)},
    )
    return told


async def virtual(layer: Virtual, namespace: str, instance: str) -> Results:
    """What runs in a namespace (Figure 10).

    Args:
        layer: what runs.
        namespace: which.
        instance: how Prometheus would label the monitor, who tells of the minicloud's own workloads.
    """
    found = await layer.layer(namespace)
    why = "nothing runs in this namespace"
    told = Results()
    told.add("Pod Info Results", [_pod_info(one) for one in found.runs], found.silent.get("pods", why))
    told.add(
        "Kube Pod Status Phase Results",
        [
            {
                "kube_pod_status_phase": one.phase,
                "pod": one.name,
                "instance": one.instance or instance,
                "namespace": one.namespace,
            }
            for one in found.runs
        ],
        found.silent.get("pods", why),
    )
    told.add(
        "Pod CPU Usage Results",
        [
            {"node": one.node, "pod": one.name, "pod_cpu_usage(seconds)": str(one.cpu)}
            for one in found.runs
            if one.cpu is not None
        ],
        found.silent.get("cpu", why),
    )
    told.add(
        "Pod Memory Usage Results",
        [
            {"node": one.node, "pod": one.name, "pod_memory_usage(bytes)": str(one.memory)}
            for one in found.runs
            if one.memory is not None
        ],
        found.silent.get("memory", why),
    )
    return told


async def namespaces(layer: Virtual) -> Results:
    """What every namespace takes (Figure 11)."""
    found = await layer.layer()
    told = Results()
    for name, key, figure in (
        ("Namespace CPU Results", "cpu_usage(seconds)", "cpu"),
        ("Namespace Memory Results", "memory_usage(bytes)", "memory"),
    ):
        sums = totals(found.runs, figure)
        told.add(
            name,
            [{"namespace": one, key: _plain(value)} for one, value in sums.items() if value is not None],
            found.silent.get(figure, "nothing runs"),
        )
    return told


def totals(runs: list[Runs], figure: str) -> dict[str, float | None]:
    """The sum of a figure by namespace; None where it is known of nothing in it."""
    sums: dict[str, float | None] = {}
    for one in runs:
        value = getattr(one, figure)
        before = sums.setdefault(one.namespace, None)
        if value is not None:
            sums[one.namespace] = (before or 0.0) + value
    return sums


async def devices(fleet: Fleet) -> AsyncIterator[dict[str, Any]]:
    """What every node is (Figure 12); others get a turn in between."""
    for at, node in enumerate(fleet.nodes()):
        yield device(node.characterization())
        if at % _AT_ONCE == 0:
            await asyncio.sleep(0)


def device(it: Characterization) -> dict[str, Any]:
    """What a node is, as in the first entry of Figure 12, which is the one that is whole JSON there."""
    addresses = sorted(it.addresses, key=lambda one: one.family)
    battery = it.battery
    return {
        "device": {
            "_id": {"$oid": hashlib.sha256(it.id.encode()).hexdigest()[:24]},
            "device_name": it.node,
            "ip": addresses[0].address if addresses else "",
            "UUID": it.id,
            "RAM(bytes)": it.memory.total,
            "Battery": "None" if battery is None else str(battery.charge),
            "CPU": {"Arch": it.cpu.arch, "bits": str(it.cpu.bits), "cores": it.cpu.cores},
            "GPU": _gpu(it.gpus[0]) if it.gpus else _NO_GPU,
            "OS": {"OS_name": "Linux", "OS_version": it.os.kernel or ""},
            "DISK": [
                {"device": disk.device, "fstype": disk.filesystem, "mountpoint": disk.mount}
                for disk in it.disks
            ],
        },
        "K3s": {"node_role": _CONTROL_PLANE if it.k3s and it.k3s.role == "server" else ""},
        "Region": {name: it.region.get(name, "") for name in _REGION},
    }


_NO_GPU: Final = {
    "GPU_name": "None",
    "GPU_type": "None",
    "GPU_video_memory(bytes)": 0,
    "unified_memory": "no",
}


def _gpu(gpu: Gpu) -> dict[str, Any]:
    # The second word of the seed is spelled so there.
    kind = "Intergated" if gpu.memory is None else "Dedicated"
    return {
        "GPU_name": gpu.name,
        "GPU_type": f"{kind} graphics processing",
        "GPU_video_memory(bytes)": gpu.memory or 0,
        "unified_memory": "yes" if gpu.memory is None else "no",
    }


async def _asked(prometheus: Prometheus | None, query: str) -> tuple[list[Sample], str]:
    """What Prometheus finds, and why that is nothing."""
    if prometheus is None:
        return [], NO_PROMETHEUS
    try:
        return await prometheus.vector(query), "Prometheus has no such series of node_exporter"
    except Unavailable as error:
        return [], str(error)


def _pod_info(one: Runs) -> dict[str, Any]:
    return {
        "pod": one.name,
        "pod_ip": one.addresses[0] if one.addresses else "",
        "namespace": one.namespace,
        "created_by_kind": one.made_by,
        "replica": "1",
        "node": one.node,
        "node_ip": one.host_address,
    }


def _hundredths(value: float) -> str:
    """A percentage as the seed writes it, with a space before."""
    return f" {value:.2f}"


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _text(node: Node, metric: str) -> str | None:
    value = node.values.get(metric)
    return None if value is None else _hundredths(value)


def _memory_usage(node: Node) -> str | None:
    return _used(node.values.get("memory.available"), node.facts.memory if node.facts else 0)


def _disk_usage(node: Node) -> str | None:
    return _used(node.values.get("disk.free"), node.facts.disk if node.facts else 0)


def _used(free: float | None, total: int) -> str | None:
    return None if free is None or not total else _hundredths(100 * max(0.0, 1 - free / total))


def _disk_size(node: Node) -> str | None:
    return str(node.facts.disk) if node.facts and node.facts.disk else None


def _disk_free(node: Node) -> str | None:
    free = node.values.get("disk.free")
    return None if free is None else str(int(free))
