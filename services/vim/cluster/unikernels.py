"""Unikernels in a cluster: by urunc where a node has it and KVM to run it with, by QEMU in a pod everywhere.

Which of them is decided at placement and stands in the level; KubeVirt boots them where the site lets it. One
deployment's pods are alike: where its replicas were given different engines of pods, all take QEMU in a pod,
which needs nothing of its node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from schemas.cluster import ClusterEngine, ClusterRuntime
from schemas.node import Acceleration, RuntimeName
from schemas.workload import DesiredWorkload
from services.vim.cluster.api import PODS, Api, Object
from services.vim.cluster.inventory import quantity
from services.vim.cluster.kind import Around, Facts, Group, Observation, Offering, Seen, Want, Wanted
from services.vim.cluster.names import labels_of, name_of
from services.vim.cluster.podset import RESOURCES, Body, PodSet
from services.vim.cluster.unikernel import in_qemu, in_urunc
from services.vim.cluster.virtual_machines import VirtualMachines

_MACHINES: Final = frozenset({"amd64", "arm64"})
#: What the entry of a pod says beyond the code, in the termination message.
_SAID: Final = re.compile(
    r"(?P<before>.*?): (?P<reason>Guest(?:Crashed|Reset|Failed)|EngineFailed): (?P<why>[^\n]*?)\s*(?P<after>; .*)?",
    re.DOTALL,
)


class Unikernels(PodSet):
    """The kind of workload that is its own kernel."""

    runtime: RuntimeName = "unikernel"
    resources = (*RESOURCES, *(one for one in VirtualMachines.resources if one not in RESOURCES))

    def __init__(self, around: Around) -> None:
        super().__init__(around, self._make)
        self._around = around
        self._machines = VirtualMachines(around)

    def offer(self, node: Object, facts: Facts) -> Offering:
        """Each engine that the site allows, with the conditions of its own."""
        settings = self._around.settings
        allowed = {name.strip() for name in settings.unikernel_engines.split(",")}
        has_kvm = quantity((node["status"].get("allocatable") or {}).get(settings.kvm_resource, 0)) >= 1
        acceleration: Acceleration = "kvm" if has_kvm else "tcg"
        offering = Offering()
        refusals: dict[ClusterEngine, str | None] = {
            "urunc": _no_qemu(node) or _no_urunc(node, facts, settings.urunc_class),
            "qemu-pod": _no_qemu(node),
            "kernel-boot": next(iter(self._machines.offer(node, facts).silent.values()), None),
        }
        if not has_kvm:
            refusals["urunc"] = refusals["urunc"] or f"the node offers no KVM ({settings.kvm_resource})"
        for engine, why in refusals.items():
            no = why if engine in allowed else "the site does not allow it (unikernel_engines)"
            if no is None:
                offered = ClusterRuntime(name="unikernel", engine=engine, acceleration=acceleration)
                offering.runtimes.append(offered)
            else:
                offering.silent[engine] = no
        return offering

    def wanted(self, group: Group, seen: Seen) -> list[Wanted]:
        """The objects: pods of one engine, and machines of KubeVirt."""
        pods, machines = _parted(group)
        found = [
            *super().wanted(pods, _pods(seen, launchers=False)),
            *self._machines.wanted(machines, _pods(seen, launchers=True)),
        ]
        # Both make the same Service where both have something to be reached.
        return list({(one.resource, name_of(one.document)): one for one in found}.values())

    async def act(self, group: Group, seen: Seen, api: Api) -> None:
        """What either needs beside its objects."""
        pods, machines = _parted(group)
        await super().act(pods, _pods(seen, launchers=False), api)
        await self._machines.act(machines, _pods(seen, launchers=True), api)

    def observe(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of each place; what only the entry of a pod knows of an end becomes the reason."""
        pods, machines = _parted(group)
        found = super().observe(pods, _pods(seen, launchers=False))
        told = {place: _told(observation) for place, observation in found.items()}
        return {**told, **self._machines.observe(machines, _pods(seen, launchers=True))}

    def ending(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """Why something has not ended yet."""
        pods, machines = _parted(group)
        return {
            **super().ending(pods, _pods(seen, launchers=False)),
            **self._machines.ending(machines, _pods(seen, launchers=True)),
        }

    def remaining(self, group: Group, seen: Seen) -> Iterable[tuple[str | None, str]]:
        """What still runs of either that should not."""
        pods, machines = _parted(group)
        yield from super().remaining(pods, _pods(seen, launchers=False))
        yield from self._machines.remaining(machines, _pods(seen, launchers=True))

    def _make(self, level: DesiredWorkload) -> Body:
        if level.engine == "urunc":
            return in_urunc(level, self._around.settings)
        return in_qemu(level, self._around.settings, self._around.ours)


def _parted(group: Group) -> tuple[Group, Group]:
    """What pods run, all by one engine, and what KubeVirt runs."""

    def part(*, by_kubevirt: bool) -> Group:
        def mine(want: Want) -> bool:
            return (want.level.engine == "kernel-boot") == by_kubevirt

        return replace(
            group,
            wants={replica: want for replica, want in group.wants.items() if mine(want)},
            superseded=list(filter(mine, group.superseded)),
            ending=list(filter(mine, group.ending)),
        )

    return _of_one_engine(part(by_kubevirt=False)), part(by_kubevirt=True)


def _pods(seen: Seen, *, launchers: bool) -> Seen:
    """With those pods only in which KubeVirt runs its machines, which carry our labels, too, or without them."""
    pods = [pod for pod in seen.of(PODS) if ("kubevirt.io" in labels_of(pod)) == launchers]
    return replace(seen, objects={**seen.objects, PODS: pods})


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


def _no_qemu(node: Object) -> str | None:
    info = node["status"].get("nodeInfo") or {}
    if (system := info.get("operatingSystem") or "linux") != "linux":
        return f"its operating system is {system}"
    if (machine := info.get("architecture") or "amd64") not in _MACHINES:
        return f"no QEMU of ours for {machine}"
    return None


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
