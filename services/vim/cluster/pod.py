"""The template of a pod: what a level says of one replica, in Kubernetes' words.

In: the level, the nodes to choose from and the site's settings. Out: the template, without anything that
differs from replica to replica or from generation to generation, so that what stays the same is not restarted.
Kinds whose workload is a container of their own making start from here, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.workload import DesiredWorkload
from services.vim.cluster.api import Object
from services.vim.cluster.kind import Machines
from services.vim.cluster.names import DEPLOYMENT, RACKS, Ours, digest, port_name
from services.vim.cluster.settings import ClusterSettings
from services.vim.worker.workload import CannotRun

#: The container that is the workload; there may be others beside it.
MAIN: Final = "main"
_HOSTNAME: Final = "kubernetes.io/hostname"
#: What people call a place, and the label that says it of a node.
_PLACES: Final = {
    "name": _HOSTNAME,
    "cluster.node": _HOSTNAME,
    "region.zone": "topology.kubernetes.io/zone",
    "region.region": "topology.kubernetes.io/region",
}
#: A registry (with a dot, a port, or localhost), a path in lower case, a tag, a digest: all that may be pulled.
_IMAGE: Final = re.compile(
    r"(?:(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True, slots=True)
class Places:
    """The nodes that pods of a deployment may choose from, as they were when that was written.

    Attributes:
        chosen: those that vim chose.
        allowed: all that could run it, the chosen ones among them.
        constraint: what they all met: a hash of the request's conditions.
    """

    chosen: tuple[str, ...]
    allowed: tuple[str, ...]
    constraint: str = ""


def image_name(image: str) -> str:
    """``image``, if a registry may be asked for it.

    Raises:
        CannotRun: it is no reference.
    """
    if len(image) > 512 or not _IMAGE.fullmatch(image):
        raise CannotRun(
            "ImageInvalid",
            f"{image[:120]!r} is no reference of an image",
            lasting=True,
            expected="[REGISTRY/]NAME[:TAG][@sha256:DIGEST]",
        )
    return image


def template(
    level: DesiredWorkload,
    container: Object,
    places: Places,
    machines: Machines,
    settings: ClusterSettings,
    ours: Ours,
    *,
    restart: str = "Always",
    volumes: Sequence[Object] = (),
) -> Object:
    """The template of a level's pods.

    Args:
        level: what to run.
        container: the workload's container, as :func:`container_of` or another kind makes it.
        places: where it may run.
        machines: the cluster's nodes.
        settings: the site's.
        ours: our mark.
        restart: the pod's restart policy.
        volumes: of the pod.
    """
    spec: Object = {
        "containers": [container],
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": settings.stop_grace,
        "automountServiceAccountToken": False,  # a workload has no business with the cluster
        "enableServiceLinks": False,
        "tolerations": tolerations(level),
        "affinity": {
            "nodeAffinity": affinity(places, machines),
            **({"podAntiAffinity": away} if (away := apart(level, places, machines, ours)) else {}),
        },
        **({"volumes": list(volumes)} if volumes else {}),
        **(
            {"topologySpreadConstraints": spread}
            if (spread := spreading(level, places, machines, ours))
            else {}
        ),
    }
    if settings.pull_secret_names:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secret_names]
    return {
        "metadata": {
            "labels": ours.of(level.deployment, level.runtime),
            "annotations": {DEPLOYMENT: level.deployment},
        },
        "spec": spec,
    }


def container_of(level: DesiredWorkload, settings: ClusterSettings, mounts: Sequence[Object] = ()) -> Object:
    """The workload's own container.

    Raises:
        CannotRun: its image cannot be pulled by a cluster, or it asks to be root where that is not allowed.
    """
    image = level.image.get("image")
    if not isinstance(image, str):
        raise CannotRun(
            "ImageInvalid",
            "a cluster runs images from a registry only",
            lasting=True,
            expected="image: REFERENCE",
        )
    made: Object = {
        "name": MAIN,
        "image": image_name(image),
        "imagePullPolicy": "IfNotPresent",
        "env": environment(level),
        "resources": resources(level),
        "securityContext": security(level, settings),
        **({"volumeMounts": list(mounts)} if mounts else {}),
        **({"ports": ports} if (ports := ports_of(level)) else {}),
        **probes(level, settings),
    }
    if level.image.get("command"):
        made["command"] = list(level.image["command"])  # $(NAME) means the same there as on a node
    return made


def environment(level: DesiredWorkload) -> list[Object]:
    """What a container finds in its environment: as on a node, ``HOST`` and ``PORT`` say where to listen."""
    ports = {f"PORT_{port.name.upper().replace('-', '_')}": str(port.port) for port in level.ports}
    first = {"PORT": str(level.ports[0].port)} if level.ports else {}
    known = {
        **level.env,
        "HOST": "0.0.0.0",  # noqa: S104 - its own network
        **ports,
        **first,
        "MINICLOUD_DEPLOYMENT": level.deployment,
    }
    return [{"name": name, "value": _literal(value)} for name, value in known.items()]


def _literal(text: str) -> str:
    """Kubernetes would put another variable's value in place of ``$(NAME)``; a value of ours means itself."""
    return text.replace("$(", "$$(")


def resources(level: DesiredWorkload) -> Object:
    """Limits, and requests of the same size: what was reserved is what it gets."""
    known = {}
    if level.cpu is not None:
        known["cpu"] = f"{max(1, round(level.cpu * 1000))}m"
    if level.memory is not None:
        known["memory"] = str(level.memory)
    return {"limits": known, "requests": dict(known)} if known else {}


def ports_of(level: DesiredWorkload) -> list[Object]:
    """The ports that a container serves; one that is pinned is the node's own."""
    return [
        {
            "name": port_name(port.name, number),
            "containerPort": port.port,
            "protocol": "TCP",
            **({"hostPort": port.host_port} if port.host_port else {}),
        }
        for number, port in enumerate(level.ports)
    ]


def security(level: DesiredWorkload, settings: ClusterSettings) -> Object:
    """As little as a container can do with; root only if both the request and the site's settings say so.

    Raises:
        CannotRun: root is asked for and not allowed.
    """
    confined = {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}}
    if level.user == "root":
        if not settings.allow_root:
            raise CannotRun(
                "RootNotAllowed",
                "the request asks for user root and the cluster's settings do not allow it",
                lasting=True,
                expected="no user, or allow_root in the cluster's settings",
            )
        return {**confined, "runAsUser": 0, "runAsGroup": 0}
    return {
        **confined,
        "runAsNonRoot": True,
        "runAsUser": settings.uid,
        "runAsGroup": settings.gid,
        "capabilities": {"drop": ["ALL"]},
    }


def probes(level: DesiredWorkload, settings: ClusterSettings) -> Object:
    """``health`` as probes: looked at often until it first serves, then as asked.

    As on a node, so many failures in a row make it degraded, as many again restart it.

    Raises:
        CannotRun: what it prints cannot be watched there.
    """
    health = level.health
    if health is None:
        return {}
    if health.http is None:
        raise CannotRun(
            "InvalidWorkload",
            "a cluster cannot probe what is printed on the console",
            lasting=True,
            expected="health.http",
        )
    port = next((port for port in level.ports if port.name == health.port), level.ports[0])
    look = {
        "httpGet": {"path": health.http, "port": port.port, "scheme": "HTTP"},
        "timeoutSeconds": max(1, math.ceil(health.timeout)),
        "successThreshold": 1,
    }
    every = max(1, math.ceil(health.every))
    return {
        "startupProbe": {**look, "periodSeconds": 1, "failureThreshold": settings.start_timeout},
        "readinessProbe": {**look, "periodSeconds": every, "failureThreshold": health.failures},
        "livenessProbe": {**look, "periodSeconds": every, "failureThreshold": 2 * health.failures},
    }


def tolerations(level: DesiredWorkload) -> list[Object]:
    """How long pods stay bound to a node that is away; of a singleton for ever, until the node is fenced.

    And what its request tolerates.
    """
    patience = {} if level.on_loss.singleton else {"tolerationSeconds": int(level.on_loss.replace_after)}
    away: list[Object] = [
        {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", **patience}
        for taint in ("not-ready", "unreachable")
    ]
    # What the request stands comes beside it; that it stands everything does not bind it to a node that is away.
    asked = [one.written() for one in level.tolerations if one.key or one.effect not in (None, "NoExecute")]
    every = [
        {"operator": "Exists", "effect": effect}
        for one in level.tolerations
        if one.key is None and one.effect is None
        for effect in ("NoSchedule", "PreferNoSchedule")
    ]
    return [*away, *asked, *every]


def affinity(places: Places, machines: Machines) -> Object:
    """Only nodes that could run it, those that were chosen first; among them the cluster's scheduler decides."""
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": _terms(places.allowed, machines)
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": term} for term in _terms(places.chosen, machines)
        ],
    }


def _terms(nodes: Sequence[str], machines: Machines) -> list[Object]:
    """Terms of which one must match: one by host name where all have one, else one a node."""
    known = [machine for node in nodes if (machine := machines.by_node(node))]
    names = [machine.hostname for machine in known]
    if known and all(names) and len(set(names)) == len(names):
        return [
            {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": sorted(map(str, names))}]}
        ]
    names = [machine.kubernetes for machine in known] or list(nodes)
    return [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        for name in sorted(map(str, names))
    ]


def spreading(level: DesiredWorkload, places: Places, machines: Machines, ours: Ours) -> list[Object]:
    """Replicas over different values of a label, where that is what ``spread`` asks for."""
    if level.spread is None:
        return []
    key = _label_of(level.spread.over, places, machines)
    if key is None:
        return []  # what the cluster knows nothing of is left to the nodes that vim chose
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": ours.of(level.deployment, level.runtime)},
        }
    ]


def apart(level: DesiredWorkload, places: Places, machines: Machines, ours: Ours) -> Object:
    """What keeps the replicas from each other, where the cluster knows how far they are to be apart."""
    keys = [key for over in level.apart if (key := _label_of(over, places, machines))]
    terms = [
        {"topologyKey": key, "labelSelector": {"matchLabels": ours.of(level.deployment, level.runtime)}}
        for key in keys
    ]
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms} if terms else {}


def _label_of(over: str, places: Places, machines: Machines) -> str | None:
    """The label that says an attribute of nodes, if there is one."""
    if over == "rack":
        known = [machine.labels for node in places.allowed if (machine := machines.by_node(node))]
        return next((rack for rack in RACKS if known and all(rack in labels for labels in known)), None)
    for prefix in ("cluster.label.", "label."):
        if over.startswith(prefix):
            return over.removeprefix(prefix)
    return _PLACES.get(over)


def core(made: Object) -> str:
    """The identity of a template, whatever nodes it names: pods of one core are the same workload."""
    spec: dict[str, Any] = {**made["spec"], "affinity": made["spec"]["affinity"].get("podAntiAffinity")}
    return digest(made["metadata"], spec)
