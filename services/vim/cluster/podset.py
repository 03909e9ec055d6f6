"""Workloads that are pods: a Deployment for those that run on, a Job a replica for those that run to an end.

In: the levels of a deployment and a maker of its container. Out: the objects that they come to, and what its
pods are, replica by replica. A Deployment has as many pods as replicas are wanted, alike and on nodes that the
cluster's scheduler chooses among the candidates; which pod is which replica is ours to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from schemas.workload import DesiredWorkload
from services.vim.cluster.api import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    SECRETS,
    SERVICES,
    Api,
    ApiError,
    Object,
    Resource,
)
from services.vim.cluster.kind import Around, Group, Observation, Seen, Want, Wanted
from services.vim.cluster.match import best_first, condition, ending, match, node_of, usable
from services.vim.cluster.names import (
    DEPLOYMENT,
    GENERATION,
    NODES,
    SPEC,
    WORKLOAD,
    annotations_of,
    digest,
    name_of,
    port_name,
)
from services.vim.cluster.pod import Places, core, template
from services.vim.cluster.podstate import PodState, pod_state
from services.vim.cluster.refusal import Refusal, refusal_of

#: What of the cluster such kinds must see.
RESOURCES: Final[tuple[Resource, ...]] = (DEPLOYMENTS, JOBS, PODS, SERVICES, CONFIG_MAPS, SECRETS)
_MIB: Final = 1024 * 1024
#: A pod with a lower cost is the first to go when there are too many.
_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
_GOES_FIRST: Final = "-1000"
_ALWAYS_AGAIN: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Body:
    """What the pods of a level are made of.

    Attributes:
        container: the workload's container.
        volumes: of the pod.
        spec: whatever else its spec says, such as ``runtimeClassName``.
        annotations: of the pod.
        objects: what must be there before it starts.
    """

    container: Object
    volumes: Sequence[Object] = ()
    spec: Object = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    objects: Sequence[Wanted] = ()


class PodSet:
    """Pods of one kind.

    Args:
        around: settings and our mark.
        body: what the pods of a level are made of.
    """

    def __init__(self, around: Around, body: Callable[[DesiredWorkload], Body]) -> None:
        self._settings = around.settings
        self._ours = around.ours
        self._body = body

    # -- what should lie there -------------------------------------------------------------------

    def wanted(self, group: Group, seen: Seen) -> list[Wanted]:
        """The objects, those first that others need."""
        if not group.wants:
            return []
        newest = group.newest
        body = self._body(newest)
        found = [*body.objects, *self._kept(seen, body)]
        if newest.ports:
            found.append(self._service(newest))
        if newest.restart == "always":
            found.append(self._deployment(group, newest, body, seen))
        else:
            found += [self._job(want, seen) for _, want in sorted(group.wants.items())]
            found += [
                one for _, want in sorted(group.wants.items()) for one in self._body(want.level).objects
            ]
        return list({(one.resource, name_of(one.document)): one for one in found}.values())

    def _metadata(self, level: DesiredWorkload, name: str, workload: str | None = None) -> Object:
        return {
            "name": name,
            "namespace": self._ours.namespace,
            "labels": self._ours.of(level.deployment, level.runtime, workload),
            "annotations": {DEPLOYMENT: level.deployment, GENERATION: str(level.generation)},
        }

    def _deployment(self, group: Group, newest: DesiredWorkload, body: Body, seen: Seen) -> Wanted:
        lying = self._lying(newest, seen)
        places = self._places(group, seen)
        made = self._template(newest, body, places, seen)
        # What a pod came from; nothing in it says a generation, so that the same goes on unharmed.
        made["metadata"]["annotations"].update(_origin(self._identity(newest, body, seen), places))
        if lying is not None and _written(lying) == places:
            # Word for word, whatever became of the nodes that it names.
            written = lying["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
            made["spec"]["affinity"]["nodeAffinity"] = written
        metadata = self._metadata(newest, self._ours.name(newest.deployment, newest.runtime))
        metadata["annotations"][NODES] = _told(places)
        # One more beside the others, unless it may have no place there.
        alone = bool(newest.apart) or any(port.host_port for port in newest.ports)
        rolling = {"maxSurge": 0, "maxUnavailable": 1} if alone else {"maxSurge": 1, "maxUnavailable": 0}
        document: Object = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": len(group.wants),
                "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": self._ours.of(newest.deployment, newest.runtime)},
                "strategy": {"type": "Recreate"}
                if newest.on_loss.singleton
                else {"type": "RollingUpdate", "rollingUpdate": rolling},
                "template": made,
            },
        }
        return Wanted(DEPLOYMENTS, document)

    def _lying(self, newest: DesiredWorkload, seen: Seen) -> Object | None:
        """The Deployment as it is."""
        name = self._ours.name(newest.deployment, newest.runtime)
        return next((one for one in seen.of(DEPLOYMENTS) if name_of(one) == name), None)

    def _places(self, group: Group, seen: Seen) -> Places:
        """Where pods may run; as it was when the Deployment was written, for as long as that is right.

        Every change of it starts all pods anew, those that are well, too.
        """
        newest = group.newest
        levels = [want.level for _, want in sorted(group.wants.items())]
        chosen = sorted({level.node for level in levels})
        allowed = {*chosen, *(node for level in levels for node in level.candidates)}
        fresh = Places(tuple(chosen), tuple(sorted(allowed)), newest.constraint)
        lying = self._lying(newest, seen)
        before = _written(lying) if lying else None
        if lying is None or before is None or before.constraint != newest.constraint:
            return fresh
        identity = self._identity(newest, self._body(newest), seen)
        if identity != _spec_of(lying):
            return fresh
        pods = self._match(group, seen, _origin(identity, before))
        for level in levels:
            pod = pods.get(level.replica)
            if pod is None and level.node not in before.allowed:
                return fresh
            if (
                pod is not None
                and level.node not in before.chosen
                and self._is_leaving(level, pod, group, seen)
            ):
                return fresh
        return before

    def _is_leaving(self, level: DesiredWorkload, pod: Object, group: Group, seen: Seen) -> bool:
        """Whether a replica is wished away from a node that is well: it was not lost, somebody migrates it."""
        place = node_of(pod)
        machine = seen.machines.by_kubernetes(place) if place else None
        return (
            machine is not None
            and machine.ready
            and any(
                want.level.replica == level.replica and want.level.node == machine.node
                for want in group.superseded
            )
        )

    def _identity(self, level: DesiredWorkload, body: Body, seen: Seen) -> str:
        """What pods of this level came from, whatever nodes they were given to choose from."""
        nodes = (level.node, *level.candidates)
        return core(self._template(level, body, Places(nodes, nodes), seen))

    def _template(
        self, level: DesiredWorkload, body: Body, places: Places, seen: Seen, restart: str = "Always"
    ) -> Object:
        made = template(
            level,
            body.container,
            places,
            seen.machines,
            self._settings,
            self._ours,
            restart=restart,
            volumes=body.volumes,
        )
        made["spec"].update(body.spec)
        made["metadata"]["annotations"].update(body.annotations)
        return made

    def _job(self, want: Want, seen: Seen) -> Wanted:
        level = want.level
        restart = "Never" if level.restart == "never" else "OnFailure"
        body = self._body(level)
        chosen = (level.node,)
        places = Places(chosen, tuple(sorted({level.node, *level.candidates})), level.constraint)
        name = self.job_name(level)
        lying = next((one for one in seen.of(JOBS) if name_of(one) == name), None)
        before = _written(lying) if lying else None
        made = self._template(level, body, before or places, seen, restart)
        made["metadata"]["labels"][WORKLOAD] = self._ours.of(level.deployment, level.runtime, level.workload)[
            WORKLOAD
        ]
        metadata = self._metadata(level, name, level.workload)
        metadata["annotations"][NODES] = _told(before or places)
        spec: Object = {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0 if restart == "Never" else _ALWAYS_AGAIN,
            "template": made,
        }
        if restart == "Never":
            # A pod that lost its node did not fail by itself: it is tried again.
            spec["podFailurePolicy"] = {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            }
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
        over = seen.told.get((level.node, level.replica))
        if (
            lying is None
            and over
            and over.generation == level.generation
            and over.state in ("completed", "failed")
        ):
            return Wanted(
                JOBS, document, keep=True
            )  # it ran to its end; that its Job is gone changes nothing
        return Wanted(JOBS, document)

    def job_name(self, level: DesiredWorkload) -> str:
        """The name of a replica's Job: another one for each generation, since a Job cannot be changed."""
        return self._ours.name(level.deployment, level.runtime, "job", level.replica, level.generation)

    def _service(self, newest: DesiredWorkload) -> Wanted:
        exposed = self._settings.expose == "node-port" and not all(port.host_port for port in newest.ports)
        ports: dict[int, Object] = {}
        for number, port in enumerate(newest.ports):
            ports.setdefault(
                port.port,
                {
                    "name": port_name(port.name, number),
                    "port": port.port,
                    "targetPort": port.port,
                    "protocol": "TCP",
                },
            )
        selector = self._ours.of(newest.deployment, newest.runtime)
        document: Object = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(newest, self._ours.name(newest.deployment, newest.runtime)),
            "spec": {
                "type": "NodePort" if exposed else "ClusterIP",
                "selector": selector,
                "ports": list(ports.values()),
                # A port of a node leads to the replica on it, as endpoints say.
                **({"externalTrafficPolicy": "Local"} if exposed else {}),
            },
        }
        return Wanted(SERVICES, document)

    def _kept(self, seen: Seen, body: Body) -> list[Wanted]:
        """What pods of an earlier content still use, until they are gone."""
        used = {
            (resource, name)
            for pod in seen.of(PODS)
            for volume in pod.get("spec", {}).get("volumes") or ()
            for resource, name in (
                (CONFIG_MAPS, (volume.get("configMap") or {}).get("name")),
                (SECRETS, (volume.get("secret") or {}).get("secretName")),
            )
            if name
        }
        ours = {(one.resource, name_of(one.document)) for one in body.objects}
        return [
            Wanted(resource, {"metadata": {"name": name}}, keep=True)
            for resource, name in sorted(used - ours, key=lambda one: one[1])
        ]

    # -- what there is ---------------------------------------------------------------------------

    async def act(self, group: Group, seen: Seen, api: Api) -> None:
        """Of pods that are one too many, say which: those of the replicas that vim no longer wants."""
        lying = next(iter(seen.of(DEPLOYMENTS)), None)
        if lying is None or lying.get("spec", {}).get("replicas", 0) <= len(group.wants) or not group.wants:
            return
        stay = {name_of(pod) for pod in self._current(group, seen).values()}
        for pod in seen.of(PODS):
            goes = _made_by(pod, "ReplicaSet") and usable(pod) and name_of(pod) not in stay
            if goes and annotations_of(pod).get(_COST) != _GOES_FIRST:
                cost = {"metadata": {"annotations": {_COST: _GOES_FIRST}}}
                await api.patch(PODS, self._ours.namespace, name_of(pod), cost)

    def _current(self, group: Group, seen: Seen) -> dict[int, Object]:
        """The pod of each replica; only those that are as is wanted now."""
        newest = group.newest
        identity = self._identity(newest, self._body(newest), seen)
        return self._match(group, seen, _origin(identity, self._places(group, seen)))

    def _match(self, group: Group, seen: Seen, origin: dict[str, str]) -> dict[int, Object]:
        """The pod of each replica, of those that came from one template."""
        pods = [
            pod
            for pod in seen.of(PODS)
            if _made_by(pod, "ReplicaSet") and usable(pod) and origin.items() <= annotations_of(pod).items()
        ]
        nodes = {
            replica: machine.kubernetes if (machine := seen.machines.by_node(want.level.node)) else None
            for replica, want in group.wants.items()
        }
        before = {
            told.reference.rpartition("/")[2]: replica
            for (_, replica), told in seen.told.items()
            if told.reference
        }
        return match(sorted(pods, key=best_first), nodes, before)

    def observe(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of each wanted place."""
        if not group.wants:
            return {}
        if group.newest.restart != "always":
            return {
                (want.level.node, replica): self._observe_job(want, seen)
                for replica, want in group.wants.items()
            }
        pods = self._current(group, seen)
        return {
            (want.level.node, replica): self._observe(want, pods.get(replica), seen)
            if replica in pods
            else self._without_pod(want, seen)
            for replica, want in group.wants.items()
        }

    def _observe(self, want: Want, pod: Object | None, seen: Seen, *, job: bool = False) -> Observation:
        if pod is None:
            return self._without_pod(want, seen)
        level = want.level
        place = node_of(pod)
        machine = seen.machines.by_kubernetes(place) if place else None
        reference = f"pod/{self._ours.namespace}/{name_of(pod)}"
        told = seen.told.get((level.node, level.replica))
        served = bool(told and told.reference == reference and told.state in ("running", "degraded"))
        is_there = machine is not None and machine.ready
        found = pod_state(pod, node_ready=is_there or place is None, served=served, job=job)
        moved = machine.node if machine and is_there and machine.node != level.node else None
        if level.state == "paused" and found.state == "running":
            why = "a pod cannot stand still with its memory kept; it runs on"
            found = replace(found, reason="PauseUnsupported", message=why)
        listens = found.state in ("starting", "running", "degraded")
        return Observation(
            state=found.state,
            reason=found.reason,
            message=self._message(level, found),
            reference=reference,
            endpoints=tuple(self._endpoints(level, pod, machine.address if machine else None, seen))
            if listens
            else (),
            limits=_limits(level),
            restarts=found.restarts,
            exit=found.exit,
            started_at=found.started_at,
            moved_to=moved,
            engine=level.engine,
            acceleration=level.acceleration,
            trouble=found.trouble,
        )

    def _message(self, level: DesiredWorkload, found: PodState) -> str:
        if found.reason == "NodeLost" and level.on_loss.singleton:
            return f"{found.message}; as a singleton it starts elsewhere once that node is fenced or gone"
        return found.message

    def _without_pod(self, want: Want, seen: Seen) -> Observation:
        level = want.level
        lying = next(iter(seen.of(DEPLOYMENTS)), None)
        reason, message = "Placed", "the cluster is told to run it"
        if lying is not None:
            failure = condition(lying, "ReplicaFailure")
            if failure.get("status") == "True":
                refusal = refusal_of(str(failure.get("message") or failure.get("reason")))
                reason, message = refusal.reason, refusal.message
            elif any(_made_by(pod, "ReplicaSet") and usable(pod) for pod in seen.of(PODS)):
                reason, message = "Replacing", "what ran before goes on until this serves"
            elif any(_made_by(pod, "ReplicaSet") and ending(pod) for pod in seen.of(PODS)):
                reason, message = "Replacing", "what ran before ends"
        return Observation("creating", reason, message, engine=level.engine, acceleration=level.acceleration)

    def _observe_job(self, want: Want, seen: Seen) -> Observation:
        level = want.level
        name = self.job_name(level)
        told = seen.told.get((level.node, level.replica))
        if (
            told
            and told.generation == level.generation
            and told.state in ("completed", "failed")
            and told.exit
        ):
            return told  # whatever is cleaned up afterwards
        lying = next((one for one in seen.of(JOBS) if name_of(one) == name), None)
        if lying is None:
            return Observation("creating", "Placed", "the cluster is told to run it", engine=level.engine)
        pods = [pod for pod in seen.of(PODS) if _owner(pod) == name]
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""))
        found = (
            self._observe(want, pods[-1], seen, job=True)
            if pods
            else Observation("creating", "Placed", "the cluster is told to run it", engine=level.engine)
        )
        if condition(lying, "Complete").get("status") == "True" and found.state != "completed":
            return replace(
                found, state="completed", reason="Completed", message="", endpoints=(), trouble=False
            )
        failure = condition(lying, "Failed")
        if failure.get("status") == "True" and found.state != "failed":
            return replace(
                found,
                state="failed",
                reason=str(failure.get("reason") or "Failed"),
                message=str(failure.get("message") or ""),
                endpoints=(),
                trouble=False,
            )
        over = failure.get("status") == "True" or condition(lying, "Complete").get("status") == "True"
        if (
            found.state in ("completed", "failed")
            and not over
            and found.reason not in ("ImageNotFound", "ImageInvalid")
        ):
            # The Job decides: a pod that lost its node is tried again, and so is a failure where asked.
            return replace(found, state="running" if found.state == "completed" else "starting")
        return found

    def _endpoints(
        self, level: DesiredWorkload, pod: Object, address: str | None, seen: Seen
    ) -> Iterable[dict[str, Any]]:
        """Where each port is reached: on the pod's node where it is open there, else at the pod itself."""
        service = next(iter(seen.of(SERVICES)), None)
        open_ports = {
            port.get("port"): port.get("nodePort")
            for port in ((service or {}).get("spec", {}).get("ports") or ())
            if port.get("nodePort")
        }
        inside = pod.get("status", {}).get("podIP")
        for port in level.ports:
            on_node = port.host_port or open_ports.get(port.port)
            where, number = (address, on_node) if on_node and address else (inside, port.port)
            if where:
                host = f"[{where}]" if ":" in where else where
                yield {
                    "name": port.name,
                    "address": where,
                    "port": number,
                    "url": f"http://{host}:{number}",
                }

    def refusal(self, error: ApiError) -> Refusal:
        """What a refusal means, as Kubernetes says it."""
        return refusal_of(error)

    def ending(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:  # noqa: ARG002
        """That pods end says enough."""
        return {}

    def remaining(self, group: Group, seen: Seen) -> Iterable[tuple[str | None, str]]:
        """Pods that are nobody's, and those on their way out."""
        matched = {name_of(pod) for pod in self._current(group, seen).values()} if group.wants else set()
        jobs = {self.job_name(want.level) for want in group.wants.values()}
        for pod in seen.of(PODS):
            over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
            if name_of(pod) not in matched and _owner(pod) not in jobs and not over:
                yield node_of(pod), f"pod/{self._ours.namespace}/{name_of(pod)}"


def _written(document: Object) -> Places | None:
    """The nodes that an object was written for."""
    try:
        known = json.loads(annotations_of(document)[NODES])
        return Places(tuple(known["chosen"]), tuple(known["allowed"]), str(known["constraint"]))
    except (KeyError, TypeError, ValueError):
        return None


def _told(places: Places) -> str:
    """The same, to be written."""
    return json.dumps({"chosen": places.chosen, "allowed": places.allowed, "constraint": places.constraint})


def _origin(identity: str, places: Places) -> dict[str, str]:
    """What pods say of the template that they came from."""
    return {SPEC: identity, NODES: digest(places.chosen, places.allowed)}


def _spec_of(document: Object) -> str | None:
    """The identity of the template that an object has."""
    metadata = document.get("spec", {}).get("template", {}).get("metadata") or {}
    return (metadata.get("annotations") or {}).get(SPEC)


def _controller(document: Object) -> Object:
    for owner in document["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            found: Object = owner
            return found
    return {}


def _made_by(pod: Object, kind: str) -> bool:
    return bool(_controller(pod).get("kind") == kind)


def _owner(pod: Object) -> str | None:
    return _controller(pod).get("name")


def _limits(level: DesiredWorkload) -> dict[str, str]:
    known = {}
    if level.cpu is not None:
        known["cpu"] = f"kubernetes {level.cpu:g} cores"
    if level.memory is not None:
        known["memory"] = f"kubernetes {level.memory // _MIB} MiB"
    return known
