"""Virtual machines in a cluster, run by KubeVirt: one VirtualMachine a replica.

In: the levels of a deployment and KubeVirt's objects. Out: the machines that they come to, and what those do. A
level that goes from node to node of the cluster is a live migration; a machine on a node that is not heard of is
started nowhere else before somebody says that the node was fenced (its out-of-service taint).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from schemas.cluster import ClusterRuntime
from schemas.node import RuntimeName
from schemas.workload import DesiredWorkload
from services.vim.cluster.api import PODS, SECRETS, SERVICES, Api, ApiError, Object, Resource
from services.vim.cluster.kind import Around, Facts, Group, Observation, Offering, Seen, Want, Wanted
from services.vim.cluster.machine import (
    HALTED,
    SETTLED,
    cloud_init_secret,
    migration,
    secret_name,
    virtual_machine,
)
from services.vim.cluster.machine_plan import (
    Delete,
    Forget,
    Halt,
    Migrate,
    Tell,
    moving,
    plan,
    plan_end,
    settled_on,
)
from services.vim.cluster.machine_refusal import refused
from services.vim.cluster.machine_status import Seen as State
from services.vim.cluster.machine_status import observe, observe_end
from services.vim.cluster.machine_view import Ground, Level, Patience, View
from services.vim.cluster.names import DEPLOYMENT, GENERATION, labels_of, name_of, port_name
from services.vim.cluster.refusal import Refusal
from services.vim.overhead import processors

_GROUP: Final = "kubevirt.io"
MACHINES: Final = Resource(_GROUP, "v1", "virtualmachines", "VirtualMachine")
INSTANCES: Final = Resource(_GROUP, "v1", "virtualmachineinstances", "VirtualMachineInstance")
MIGRATIONS: Final = Resource(
    _GROUP, "v1", "virtualmachineinstancemigrations", "VirtualMachineInstanceMigration"
)
#: Where they are told what to do.
_TOLD_MACHINES: Final = Resource(f"subresources.{_GROUP}", "v1", "virtualmachines", "VirtualMachine")
_TOLD_INSTANCES: Final = Resource(
    f"subresources.{_GROUP}", "v1", "virtualmachineinstances", "VirtualMachineInstance"
)
_SCHEDULABLE: Final = "kubevirt.io/schedulable"
_KVM: Final = "devices.kubevirt.io/kvm"
_MIB: Final = 1024 * 1024
#: A state that may become another one though nothing in the cluster changes is looked at again (s).
_LOOK_AGAIN: Final = 5.0
_PASSING: Final = frozenset({"creating", "starting", "migrating", "unknown"})


class VirtualMachines:
    """The kind of workload that KubeVirt runs.

    Args:
        around: settings and our mark.
    """

    runtime: RuntimeName = "vm"
    resources: tuple[Resource, ...] = (MACHINES, INSTANCES, MIGRATIONS, SECRETS, SERVICES, PODS)

    def __init__(self, around: Around) -> None:
        self._settings = around.settings
        self._ours = around.ours
        self._patience = Patience(
            target=timedelta(seconds=around.settings.migration_target_timeout),
            migration=timedelta(seconds=around.settings.migration_timeout),
        )

    def offer(self, node: Object, facts: Facts) -> Offering:
        """Nodes on which KubeVirt's own agent says that machines may run."""
        if _GROUP not in facts.groups:
            return Offering(silent={"kubevirt": "the cluster serves no kubevirt.io"})
        if labels_of(node).get(_SCHEDULABLE) != "true":
            return Offering(silent={"kubevirt": f"KubeVirt runs nothing there (its label {_SCHEDULABLE})"})
        allocatable = node.get("status", {}).get("allocatable") or {}
        hardware = str(allocatable.get(_KVM, "0")) not in ("0", "")
        return Offering(
            [ClusterRuntime(name="vm", engine="kubevirt", acceleration="kvm" if hardware else "tcg")]
        )

    # -- what should lie there -------------------------------------------------------------------

    def wanted(self, group: Group, seen: Seen) -> list[Wanted]:
        """The machines, with what each needs before it starts; of those that end, what must not go yet."""
        found: list[Wanted] = []
        if group.wants and group.newest.ports:
            found.append(Wanted(SERVICES, self._service(group.newest)))
        for _, want in sorted(group.wants.items()):
            found += self._running(want, seen)
        for level in _only_ending(group):
            found += self._ending(level, seen)
        # Instances and launchers are their machines' and KubeVirt's to end.
        found += [_kept(resource, one) for resource in (INSTANCES, PODS) for one in seen.of(resource)]
        return list({(one.resource, name_of(one.document)): one for one in found}.values())

    def _running(self, want: Want, seen: Seen) -> list[Wanted]:
        level, view = self._level(want), self._view(want.level, seen)
        metadata = self._metadata(want.level)
        metadata["annotations"][SETTLED] = settled_on(view, level)
        found = []
        if (secret := cloud_init_secret(want.level, metadata)) is not None:
            found.append(Wanted(SECRETS, secret))
        found.append(Wanted(MACHINES, virtual_machine(want.level, metadata, self._hosts(want.level, seen))))
        step = plan(level, view, _moment(seen), self._patience)
        gone = step.name if isinstance(step, Forget) else None
        found += [_kept(MIGRATIONS, one) for one in view.migrations if name_of(one) != gone]
        return found

    def _ending(self, level: DesiredWorkload, seen: Seen) -> list[Wanted]:
        view = self._view(level, seen)
        step = plan_end(view)
        if view.vm is None or isinstance(step, Delete):
            return []
        secret = {"metadata": {"name": secret_name(name_of(view.vm))}}
        if isinstance(step, Halt):
            metadata = self._metadata(level)
            metadata["annotations"][SETTLED] = view.settled or level.node
            made = virtual_machine(level, metadata, self._hosts(level, seen), strategy=HALTED)
            return [Wanted(MACHINES, made), Wanted(SECRETS, secret, keep=True)]
        return [_kept(MACHINES, view.vm), Wanted(SECRETS, secret, keep=True)]

    # -- what is done ----------------------------------------------------------------------------

    async def act(self, group: Group, seen: Seen, api: Api) -> None:
        """Pause, resume, restart or migrate, where that is the next step."""
        for _, want in sorted(group.wants.items()):
            view = self._view(want.level, seen)
            step = plan(self._level(want), view, _moment(seen), self._patience)
            name = self.name(want.level)
            if isinstance(step, Tell):
                resource = _TOLD_MACHINES if step.what == "restart" else _TOLD_INSTANCES
                await self._unless_done(api.put(resource, self._ours.namespace, name, step.what, {}))
            elif isinstance(step, Migrate):
                machine = seen.machines.by_node(step.node)
                if machine is None or machine.hostname is None:
                    continue
                document = migration(name, step.name, self._metadata(want.level), machine.hostname)
                await self._unless_done(api.create(MIGRATIONS, self._ours.namespace, document))

    async def _unless_done(self, asked: Any) -> None:
        """Await a step; that somebody took it already is as well."""
        try:
            await asked
        except ApiError as error:
            done = error.http == 409 or "in-flight migration detected" in error.message
            if not done:
                raise

    # -- what there is ---------------------------------------------------------------------------

    def observe(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of each wanted place."""
        found = {}
        for replica, want in group.wants.items():
            view = self._view(want.level, seen)
            place = (want.level.node, replica)
            told = seen.told.get(place)
            before = told.state if told and told.generation == want.level.generation else None
            state = observe(self._level(want), view, _moment(seen), self._patience, before)
            found[place] = self._observation(want.level, view, state, seen)
        return found

    def ending(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """Why a machine has not ended yet, where it is more than that its guest shuts down."""
        found = {}
        for want in group.ending:
            level = want.level
            if level.replica in group.wants:
                continue
            view = self._view(level, seen)
            here = level.node in (view.node or level.node, view.settled or level.node)
            if here and (view.vm or view.vmi) and (state := observe_end(view)) is not None:
                found[level.node, level.replica] = self._observation(level, view, state, seen)
        return found

    def remaining(self, group: Group, seen: Seen) -> Iterable[tuple[str | None, str]]:
        """Machines that nobody wants, and those that have yet to leave their node."""
        names = {self.name(want.level): want for want in group.wants.values()}
        for document in (*seen.of(MACHINES), *seen.of(INSTANCES)):
            name = name_of(document)
            view = self._view_of(name, seen)
            if name not in names:
                yield view.host, self._reference(name)
            elif moving(view, self._level(names[name])):
                yield view.host, f"{self._reference(name)} on {view.host}"

    def refusal(self, error: ApiError) -> Refusal:
        """By the field of the request."""
        return refused(error)

    def _observation(self, level: DesiredWorkload, view: View, state: State, seen: Seen) -> Observation:
        limits = {"cpu": f"kubevirt {processors(level.cpu)} processors"}
        if level.memory is not None:
            limits["memory"] = f"kubevirt {level.memory // _MIB} MiB"
        failures = (view.status.get("startFailure") or {}).get("consecutiveFailCount") or 0
        return Observation(
            state=state.state,
            reason=state.reason,
            message=state.message,
            reference=self._reference(self.name(level)) if view.vm else None,
            endpoints=tuple(self._endpoints(level, view, state.addresses, seen)),
            limits=limits,
            restarts=int(failures),
            exit=state.exit,
            started_at=((view.vmi or {}).get("metadata") or {}).get("creationTimestamp"),
            moved_to=state.moved_to,
            engine=level.engine,
            acceleration=level.acceleration,
            retry_after=_LOOK_AGAIN if state.state in _PASSING else None,
        )

    # -- details ---------------------------------------------------------------------------------

    def name(self, level: DesiredWorkload) -> str:
        """The name of a replica's machine, and of its instance."""
        return self._ours.name(level.deployment, level.runtime, level.replica)

    def _reference(self, name: str) -> str:
        return f"vmi/{self._ours.namespace}/{name}"

    def _metadata(self, level: DesiredWorkload) -> dict[str, Any]:
        return {
            "name": self.name(level),
            "namespace": self._ours.namespace,
            "labels": self._ours.of(level.deployment, level.runtime, level.workload),
            "annotations": {DEPLOYMENT: level.deployment, GENERATION: str(level.generation)},
        }

    def _level(self, want: Want) -> Level:
        return Level(want.level, want.revision)

    def _view(self, level: DesiredWorkload, seen: Seen) -> View:
        return self._view_of(self.name(level), seen)

    def _view_of(self, name: str, seen: Seen) -> View:
        def named(resource: Resource) -> Object | None:
            return next((one for one in seen.of(resource) if name_of(one) == name), None)

        vmi = named(INSTANCES)
        host = ((vmi or {}).get("status") or {}).get("nodeName")
        machine = seen.machines.by_kubernetes(host) if host else None
        grounds = {host: Ground(machine.node, machine.ready, machine.fenced)} if host and machine else {}
        moves = [one for one in seen.of(MIGRATIONS) if one.get("spec", {}).get("vmiName") == name]
        return View(named(MACHINES), vmi, moves, grounds)

    def _hosts(self, level: DesiredWorkload, seen: Seen) -> list[str]:
        """The host names of the nodes that may run it, the chosen one first."""
        machines = [seen.machines.by_node(node) for node in dict.fromkeys([level.node, *level.candidates])]
        return [machine.hostname for machine in machines if machine and machine.hostname]

    def _service(self, level: DesiredWorkload) -> Object:
        exposed = self._settings.expose == "node-port"
        ports = {
            port.port: {
                "name": port_name(port.name, number),
                "port": port.port,
                "targetPort": port.port,
                "protocol": "TCP",
            }
            for number, port in enumerate(level.ports)
        }
        metadata = self._metadata(level)
        metadata["name"] = self._ours.name(level.deployment, level.runtime)
        metadata["labels"] = self._ours.of(level.deployment, level.runtime)
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "type": "NodePort" if exposed else "ClusterIP",
                # The launcher's pod has the labels of its machine.
                "selector": self._ours.of(level.deployment, level.runtime),
                "ports": list(ports.values()),
                **({"externalTrafficPolicy": "Local"} if exposed else {}),
            },
        }

    def _endpoints(
        self, level: DesiredWorkload, view: View, addresses: tuple[str, ...], seen: Seen
    ) -> Iterable[dict[str, Any]]:
        """Where each port is reached: on the machine's node where it is open there, else at the guest's address."""
        if not addresses:
            return
        service = next(iter(seen.of(SERVICES)), None)
        open_ports = {
            port.get("port"): port.get("nodePort")
            for port in ((service or {}).get("spec", {}).get("ports") or ())
            if port.get("nodePort")
        }
        machine = seen.machines.by_kubernetes(view.host) if view.host else None
        for port in level.ports:
            on_node = open_ports.get(port.port)
            if on_node and machine and machine.address:
                where, number = machine.address, on_node
            else:
                where, number = addresses[0], port.port
            host = f"[{where}]" if ":" in where else where
            yield {"name": port.name, "address": where, "port": number, "url": f"http://{host}:{number}"}


def _only_ending(group: Group) -> list[DesiredWorkload]:
    """Of each replica that nothing wants any more, the level that was written last."""
    last: dict[int, Want] = {}
    for want in group.ending:
        known = last.get(want.level.replica)
        if want.level.replica not in group.wants and (known is None or want.revision > known.revision):
            last[want.level.replica] = want
    return [want.level for _, want in sorted(last.items())]


def _kept(resource: Resource, document: Object) -> Wanted:
    return Wanted(resource, {"metadata": {"name": name_of(document)}}, keep=True)


def _moment(seen: Seen) -> datetime:
    return datetime.fromtimestamp(seen.now, UTC)
