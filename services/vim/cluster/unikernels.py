"""Unikernels in a cluster: by urunc where a node has it and KVM to run it with, by QEMU in a pod everywhere.

Which of the two is decided at placement and stands in the level. One deployment's pods are alike: where its
replicas were given different engines, all take QEMU in a pod, which needs nothing of its node.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from schemas.cluster import ClusterRuntime
from schemas.node import Acceleration, RuntimeName
from schemas.workload import DesiredWorkload
from services.vim.cluster.api import Object
from services.vim.cluster.inventory import quantity
from services.vim.cluster.kind import Around, Facts, Group, Observation, Offering, Seen, Wanted
from services.vim.cluster.podset import RESOURCES, Body, PodSet
from services.vim.cluster.unikernel import in_qemu, in_urunc

_MACHINES: Final = frozenset({"amd64", "arm64"})
#: What the entry of a pod says beyond the code, in the termination message.
_SAID: Final = re.compile(
    r"(?P<before>.*?): (?P<reason>Guest(?:Crashed|Reset|Failed)|EngineFailed): (?P<why>[^\n]*?)\s*(?P<after>; .*)?",
    re.DOTALL,
)


class Unikernels(PodSet):
    """The kind of workload that is its own kernel."""

    runtime: RuntimeName = "unikernel"
    resources = RESOURCES

    def __init__(self, around: Around) -> None:
        super().__init__(around, self._make)
        self._around = around

    def offer(self, node: Object, facts: Facts) -> Offering:
        """Urunc with its conditions, and QEMU in a pod on machines that it knows."""
        info = node.get("status", {}).get("nodeInfo") or {}
        if (system := info.get("operatingSystem") or "linux") != "linux":
            return Offering(silent=dict.fromkeys(("urunc", "qemu-pod"), f"its operating system is {system}"))
        if (machine := info.get("architecture") or "amd64") not in _MACHINES:
            return Offering(silent=dict.fromkeys(("urunc", "qemu-pod"), f"no QEMU of ours for {machine}"))
        settings = self._around.settings
        has_kvm = quantity((node["status"].get("allocatable") or {}).get(settings.kvm_resource, 0)) >= 1
        acceleration: Acceleration = "kvm" if has_kvm else "tcg"
        offering = Offering([ClusterRuntime(name="unikernel", engine="qemu-pod", acceleration=acceleration)])
        no = _no_urunc(node, facts, settings.urunc_class)
        if no is None and not has_kvm:
            no = f"the node offers no KVM ({settings.kvm_resource})"
        if no is None:
            offering.runtimes.insert(0, ClusterRuntime(name="unikernel", engine="urunc", acceleration="kvm"))
        else:
            offering.silent["urunc"] = no
        return offering

    def wanted(self, group: Group, seen: Seen) -> list[Wanted]:
        """The objects, of one engine for all."""
        return super().wanted(_of_one_engine(group), seen)

    def observe(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of each place; what only the entry knows of an end becomes the reason."""
        found = super().observe(_of_one_engine(group), seen)
        return {place: _told(observation) for place, observation in found.items()}

    def _make(self, level: DesiredWorkload) -> Body:
        if level.engine == "urunc":
            return in_urunc(level, self._around.settings)
        return in_qemu(level, self._around.settings, self._around.ours)


def _of_one_engine(group: Group) -> Group:
    engines = {(want.level.engine, want.level.acceleration) for want in group.wants.values()}
    if len(engines) < 2:
        return group
    # Not all of the nodes have what the better ones have: KVM must be there for all to be asked for.
    update = {"engine": "qemu-pod", "acceleration": "tcg"}
    return replace(
        group,
        wants={
            replica: replace(want, level=want.level.model_copy(update=update))
            for replica, want in group.wants.items()
        },
    )


def _no_urunc(node: Object, facts: Facts, name: str) -> str | None:
    handler = facts.runtime_classes.get(name)
    if handler is None:
        return f"the cluster has no RuntimeClass {name}"
    handlers = {str(one.get("name")) for one in node["status"].get("runtimeHandlers") or ()}
    if handler not in handlers:
        return f"its container runtime does not list the handler {handler}"
    return None


def _told(observation: Observation) -> Observation:
    found = _SAID.fullmatch(observation.message)
    if found is None or observation.reason not in ("ExitedWithError", "CrashLoopBackOff"):
        return observation
    return replace(observation, reason=found["reason"], message=f"{found['why']}{found['after'] or ''}")
