"""A node's events as flat attributes: what it is, how it does, what runs there.

Pure functions from the typed events to ``{attribute: value}``; what cannot be known is absent. The
resource index, the fleet simulator and the tests share them, so that one name means one thing.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeGuard

from schemas.attributes import ATTRIBUTES, FAMILIES, MEANS, NAME, Value
from schemas.cluster import EFFECTS, ClusterNode, Taint
from schemas.node import Characterization
from schemas.workload import DesiredWorkload, WorkerStatus

_YES: Final = frozenset({"true", "yes", "1", "on"})
_BYTES: Final = frozenset(name for name, attribute in ATTRIBUTES.items() if attribute.unit == "B")
_ABSURD: Final = 2**63
_LONGEST_WHY: Final = 200
#: As many metrics as an ordinary sample has at most.
_USUAL: Final = 64
#: Families whose members no sample may carry.
_NOT_MEASURED: Final = tuple(prefix for prefix, family in FAMILIES.items() if not family.dynamic)
#: The label that makes a node part of the storage pool.
STORAGE_LABEL: Final = "storage.worker"
#: Labels that taint a node begin so.
TAINT_LABEL: Final = "taint."
#: What is said of a node by others than its agent.
DERIVED: Final = frozenset(
    {
        "age",
        "state",
        "worker",
        "worker.allow_root",
        "worker.limits",
        "worker.runtimes",
        "allocatable.cpu",
        "allocatable.memory",
    }
)


def is_derived(name: str) -> bool:
    """Whether others than the node's agent say it."""
    return name in DERIVED or name.startswith("cluster.")


def attributes_of(characterization: Characterization | Mapping[str, Any]) -> dict[str, Value]:
    """The static attributes of a node.

    Raises:
        pydantic.ValidationError: a mapping that is no characterization.
    """
    if not isinstance(characterization, Characterization):
        characterization = Characterization.model_validate(characterization)
    it = characterization
    known: dict[str, Value | None] = {
        "id": it.id,
        "name": it.node,
        "minicloud": it.minicloud,
        "addresses": sorted({address.address for address in it.addresses}),
        "agent.version": it.agent.version,
        "cpu.arch": it.cpu.arch,
        "cpu.bits": it.cpu.bits,
        "cpu.cores": it.cpu.cores,
        "cpu.model": it.cpu.model,
        "memory.total": it.memory.total,
        "disk.total": sum(disk.total for disk in it.disks if disk.kind != "network"),
        "disk.kind": sorted({disk.kind for disk in it.disks}),
        "gpu": bool(it.gpus),
        "gpu.name": sorted({gpu.name for gpu in it.gpus}),
        "battery": it.battery is not None,
        "os.name": it.os.name,
        "os.version": it.os.version,
        "kernel": it.os.kernel,
        "k3s.role": it.k3s.role if it.k3s else None,
        "rack": it.rack,
        "runtimes": sorted({runtime.name for runtime in it.runtimes}),
        "acceleration": _acceleration(it),
        "taints": tainted(it.labels) or None,
        "storage.worker": it.labels.get(STORAGE_LABEL, "").lower() in _YES,
    }
    families = {"region.": it.region, "software.": it.software, "label.": it.labels}
    for prefix, values in families.items():
        known.update({prefix + name: value for name, value in values.items()})
    return {name: value for name, value in known.items() if _can_be_held(value) and NAME.fullmatch(name)}


def tainted(labels: Mapping[str, str]) -> list[str]:
    """The taints that labels ``taint.<key>: [value:]effect`` say; without an effect that is known, NoSchedule."""
    taints = []
    for label, said in labels.items():
        key = label.removeprefix(TAINT_LABEL)
        if label.startswith(TAINT_LABEL) and key:
            value, _, effect = said.rpartition(":")
            taint = Taint(key=key, value=value, effect=effect) if effect in EFFECTS else None
            taints.append(str(taint or Taint(key=key, value=said, effect="NoSchedule")))
    return sorted(taints)


def _can_be_held(value: Value | None) -> TypeGuard[Value]:
    """Absent and absurd values are not attributes."""
    return value is not None and not (isinstance(value, int) and abs(value) >= _ABSURD)


def _acceleration(characterization: Characterization) -> str | None:
    """How kernels boot there: ``kvm`` where any runtime has it."""
    return _best({runtime.acceleration for runtime in characterization.runtimes})


def _best(offered: Container[str | None]) -> str | None:
    return next((name for name in ("kvm", "tcg") if name in offered), None)


def measured(values: Mapping[str, float]) -> dict[str, Value]:
    """The dynamic attributes of a measurement: finite numbers under names that may be metrics.

    A sample may not speak for what characterization, presence or the worker say.
    """
    if len(values) <= _USUAL:
        admitted, in_bytes = _roles(tuple(values))
        if admitted and math.isfinite(sum(values.values())):  # a sum without end only costs a second look
            whole: dict[str, Value] = {**values}
            for name in in_bytes:
                whole[name] = round(values[name])
            return whole
    return {
        name: round(value) if name in _BYTES else value
        for name, value in values.items()
        if math.isfinite(value) and may_be_metric(name)
    }


@lru_cache(maxsize=128)
def _roles(names: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    """Whether a sample may carry all of these names, and which are bytes: many nodes measure the same."""
    return all(map(may_be_metric, names)), tuple(name for name in names if name in _BYTES)


@lru_cache(maxsize=8192)
def may_be_metric(name: str) -> bool:
    """Whether a sample may carry this name."""
    known = ATTRIBUTES.get(name)
    if known is not None:
        return known.dynamic and known.kind == "number" and name not in DERIVED and name not in MEANS
    return NAME.fullmatch(name) is not None and not name.startswith(_NOT_MEASURED)


def working(status: WorkerStatus | None, offered: Value) -> dict[str, Value]:
    """What the node's worker adds; ``runtimes`` are those that both the node and its worker offer.

    Args:
        status: the worker's last word; None where there was none.
        offered: the runtimes of the characterization.
    """
    if status is None or not isinstance(offered, list):
        return {}
    runtimes: list[str] = sorted(set(offered) & set(status.runtimes))
    return {
        "worker": status.state == "ready",
        "worker.allow_root": status.allow_root,
        "worker.limits": status.limits,
        "worker.runtimes": runtimes if status.state == "ready" else [],
        "runtimes": runtimes,
    }


def clustered(cluster: ClusterNode | None, facts: Mapping[str, Value]) -> dict[str, Value]:
    """What the node's cluster adds; ``runtimes`` are those of either worker.

    Args:
        cluster: the cluster's last word; None where there was none.
        facts: the attributes of the node without it.
    """
    if cluster is None or cluster.state == "gone":
        return {}
    usable = cluster.state == "ready" and cluster.ready and cluster.schedulable
    offered: list[str] = sorted({runtime.name for runtime in cluster.runtimes}) if usable else []
    before = facts.get("runtimes")
    acceleration = _best({runtime.acceleration for runtime in cluster.runtimes})
    known: dict[str, Value | None] = {
        "cluster.name": cluster.cluster,
        "cluster.node": cluster.kubernetes,
        "cluster.ready": cluster.state == "ready" and cluster.ready,
        "cluster.schedulable": cluster.schedulable,
        "cluster.taints": sorted(str(taint) for taint in cluster.taints),
        "cluster.runtimes": offered,
        "cluster.allow_root": cluster.allow_root,
        "cluster.acceleration": acceleration,
        "cluster.cpu": cluster.allocatable.cpu,
        "cluster.memory": cluster.allocatable.memory,
        "cluster.pods": cluster.allocatable.pods,
        "worker": bool(facts.get("worker", False)) or bool(offered),
        "worker.runtimes": facts.get("worker.runtimes", []),
        "runtimes": sorted({*(before if isinstance(before, list) else []), *offered}),
        "acceleration": facts.get("acceleration", acceleration),
    }
    engines: dict[str, set[str]] = {}
    for runtime in cluster.runtimes:
        engines.setdefault(runtime.name, set()).add(runtime.engine)
    known.update({f"cluster.engine.{name}": sorted(names) for name, names in engines.items()})
    known.update({f"cluster.without.{engine}": why[:_LONGEST_WHY] for engine, why in cluster.silent.items()})
    known.update({f"cluster.label.{name}": value for name, value in cluster.labels.items()})
    return {name: value for name, value in known.items() if _can_be_held(value) and NAME.fullmatch(name)}


def allocatable(static: Mapping[str, Value], desired: Iterable[DesiredWorkload]) -> dict[str, Value]:
    """What is left after the reservations of the workloads that should run there.

    Args:
        static: the attributes of the characterization.
        desired: its desired workloads; stopped ones reserve nothing.
    """
    cores, memory = static.get("cpu.cores"), static.get("memory.total")
    running = [workload for workload in desired if workload.state != "stopped"]
    left: dict[str, Value] = {}
    if isinstance(cores, (int, float)):
        left["allocatable.cpu"] = max(0.0, cores - sum(workload.cpu or 0.0 for workload in running))
    if isinstance(memory, int):
        reserved = sum((workload.memory or 0) + workload.memory_overhead for workload in running)
        left["allocatable.memory"] = max(0, memory - reserved)
    return left
