"""The attributes of a node that a query may ask (contract, Attributes; seed 4, Table 1).

In: an attribute's name. Out: its kind, unit and meaning, or its nearest neighbour for an error.
Attributes are data: labels, software and regions are open families, and a metric that nobody
foresaw becomes a number under its own name when it first arrives.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["number", "string", "bool", "set", "version"]
Unit = Literal["B", "cores", "s", "%", "B/s", "C"]
#: A value of an attribute: numbers in their base unit; sets are sorted lists.
Value = bool | int | float | str | list[str]

#: What an attribute may be called.
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,127}")


@dataclass(frozen=True, slots=True)
class Attribute:
    """What can be asked under one name.

    Attributes:
        name: the dotted name; ``label.*`` stands for a family.
        kind: how it compares. Sets are asked for a member.
        unit: of a number; bytes, cores and seconds may be written with suffixes.
        dynamic: whether it changes from sample to sample.
        meaning: in a few words.
    """

    name: str
    kind: Kind
    unit: Unit | None = None
    dynamic: bool = False
    meaning: str = ""


_STATIC: Final = (
    Attribute("id", "string", meaning="stable id of the machine"),
    Attribute("name", "string", meaning="name of the node on the bus"),
    Attribute("minicloud", "string", meaning="the minicloud it belongs to"),
    Attribute("addresses", "set", meaning="IP addresses"),
    Attribute("agent.version", "version", meaning="version of its agent"),
    Attribute("cpu.arch", "string", meaning="instruction set, such as x86_64"),
    Attribute("cpu.bits", "number", meaning="word size"),
    Attribute("cpu.cores", "number", "cores", meaning="logical cores"),
    Attribute("cpu.model", "string", meaning="the processor's name"),
    Attribute("memory.total", "number", "B", meaning="installed memory"),
    Attribute("disk.total", "number", "B", meaning="size of all local disks"),
    Attribute("disk.kind", "set", meaning="kinds of its disks: ssd, hdd, nvme, sd, network"),
    Attribute("gpu", "bool", meaning="whether it has a graphics processor"),
    Attribute("gpu.name", "set", meaning="names of its graphics processors"),
    Attribute("battery", "bool", meaning="whether it has a battery"),
    Attribute("os.name", "string", meaning="operating system"),
    Attribute("os.version", "version", meaning="version of the operating system"),
    Attribute("kernel", "version", meaning="version of the kernel"),
    Attribute("k3s.role", "string", meaning="server or agent of a K3s cluster"),
    Attribute("rack", "string", meaning="configured rack"),
    Attribute("taints", "set", meaning="its taints, from labels taint.<key>, such as gpu=yes:NoSchedule"),
    Attribute("runtimes", "set", meaning="process, container, vm, unikernel: what it can run"),
    Attribute("acceleration", "string", meaning="how it boots kernels: kvm or tcg"),
    Attribute("storage.worker", "bool", meaning="whether it takes part in the storage pool"),
    Attribute("worker", "bool", meaning="whether its worker, or its cluster's, is ready for workloads"),
    Attribute("worker.allow_root", "bool", meaning="whether workloads may run as root"),
    Attribute("worker.limits", "string", meaning="what enforces limits: cgroup-v1, cgroup-v2, none"),
    Attribute("worker.runtimes", "set", meaning="what its own worker runs now"),
    Attribute("cluster.name", "string", meaning="the Kubernetes cluster that it is part of"),
    Attribute("cluster.node", "string", meaning="its name in Kubernetes"),
    Attribute("cluster.ready", "bool", meaning="whether Kubernetes holds it for ready"),
    Attribute("cluster.schedulable", "bool", meaning="whether it takes new pods"),
    Attribute("cluster.taints", "set", meaning="its taints, such as gpu=yes:NoSchedule"),
    Attribute("cluster.runtimes", "set", meaning="what its cluster runs there now"),
    Attribute("cluster.allow_root", "bool", meaning="whether its cluster lets workloads be root"),
    Attribute("cluster.acceleration", "string", meaning="how its cluster boots kernels: kvm or tcg"),
    Attribute("cluster.cpu", "number", "cores", meaning="what its pods may take in all"),
    Attribute("cluster.memory", "number", "B", meaning="what its pods may take in all"),
    Attribute("cluster.pods", "number", meaning="how many pods it may run"),
)
_FAMILIES: Final = (
    Attribute("region.*", "string", meaning="configured region, such as region.city"),
    Attribute("software.*", "version", meaning="version of an installed program"),
    Attribute("label.*", "string", meaning="a label of the node"),
    Attribute("cluster.engine.*", "set", meaning="what runs a runtime in its cluster, such as k3s"),
    Attribute("cluster.without.*", "string", meaning="why its cluster runs nothing by an engine there"),
    Attribute("cluster.label.*", "string", meaning="a label of the node in Kubernetes"),
    Attribute("latency.*", "number", "s", dynamic=True, meaning="measured round trip to a place or node"),
)
_METRICS: Final = (
    Attribute("cpu.used", "number", "%", dynamic=True, meaning="busy CPU"),
    Attribute("cpu.free", "number", "cores", dynamic=True, meaning="idle CPU"),
    Attribute("memory.available", "number", "B", dynamic=True, meaning="memory that can be had now"),
    Attribute("disk.free", "number", "B", dynamic=True, meaning="free disk space"),
    Attribute("disk.latency", "number", "s", dynamic=True, meaning="mean time of an IO"),
    Attribute("load.1m", "number", dynamic=True, meaning="load average, one minute"),
    Attribute("load.5m", "number", dynamic=True, meaning="load average, five minutes"),
    Attribute("load.15m", "number", dynamic=True, meaning="load average, fifteen minutes"),
    Attribute("network.rx", "number", "B/s", dynamic=True, meaning="received"),
    Attribute("network.tx", "number", "B/s", dynamic=True, meaning="sent"),
    Attribute("temperature", "number", "C", dynamic=True, meaning="of the processor"),
    Attribute("battery.charge", "number", "%", dynamic=True, meaning="charge of the battery"),
)
#: The windows of the running means, in minutes.
WINDOWS: Final = {"5m": 5, "10m": 10, "15m": 15}
_DERIVED: Final = (
    Attribute("age", "number", "s", dynamic=True, meaning="time since it was last heard"),
    Attribute("state", "string", dynamic=True, meaning="alive, stale or lost"),
    Attribute("allocatable.cpu", "number", "cores", dynamic=True, meaning="cores after reservations"),
    Attribute("allocatable.memory", "number", "B", dynamic=True, meaning="memory after reservations"),
)


def mean_of(metric: str, window: str) -> str:
    """The name of the mean of a metric over a window, ``load.1m.mean.5m``."""
    return f"{metric}.mean.{window}"


_MEANS: Final = tuple(
    Attribute(
        mean_of(metric.name, window),
        "number",
        metric.unit,
        dynamic=True,
        meaning=f"{metric.meaning}, mean of {window}",
    )
    for metric in _METRICS
    for window in WINDOWS
)

#: Every attribute that is foreseen, families aside.
ATTRIBUTES: Final[dict[str, Attribute]] = {
    attribute.name: attribute for attribute in (*_STATIC, *_METRICS, *_DERIVED, *_MEANS)
}
#: The metrics that are foreseen.
METRICS: Final = tuple(metric.name for metric in _METRICS)
#: The names of their running means, which the resource index computes.
MEANS: Final = frozenset(mean.name for mean in _MEANS)
#: The open families, by the prefix of their members.
FAMILIES: Final[dict[str, Attribute]] = {family.name.removesuffix("*"): family for family in _FAMILIES}


def lookup(name: str, seen: Collection[str] = ()) -> Attribute | None:
    """The attribute called ``name``, or None where there is none.

    Args:
        name: a dotted name.
        seen: names of metrics that arrived though nobody foresaw them.
    """
    found = ATTRIBUTES.get(name)
    if found is not None:
        return found
    if not NAME.fullmatch(name):
        return None
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix) and name != prefix:
            return Attribute(name, family.kind, family.unit, family.dynamic, family.meaning)
    return Attribute(name, "number", dynamic=True, meaning="a metric of the node") if name in seen else None


def kind_of(name: str) -> Kind:
    """The kind of an attribute that is already indexed: what is not foreseen is a metric."""
    found = lookup(name)
    return found.kind if found else "number"


def nearest(name: str, seen: Collection[str] = ()) -> str | None:
    """The attribute whose name is most like ``name``; None where nothing is like it."""
    head, _, tail = name.partition(".")
    families = {prefix.rstrip("."): prefix for prefix in FAMILIES}
    family = difflib.get_close_matches(head.lower(), families, 1, cutoff=0.75)
    if family and tail:
        return families[family[0]] + tail
    known = [*ATTRIBUTES, *seen]
    by_lower = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, cutoff=0.6)
    if close:
        return by_lower[close[0]]
    # `arch` for `cpu.arch`, `memory` for `memory.total`: a part of the name that people remember.
    part = [other for other in known if name.lower() in other.split(".")]
    return min(part, key=len) if part else None
