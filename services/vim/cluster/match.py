"""Which pod is which replica: the cluster makes so many alike, vim counts them one by one.

A pod keeps the replica that it was given; a new one goes to the replica that vim wanted on its node, else to
the first that has none. Pure: the same pods and the same memory give the same match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.vim.cluster.api import Object
from services.vim.cluster.names import name_of


def match(
    pods: Iterable[Object], nodes: Mapping[int, str | None], before: Mapping[str, int]
) -> dict[int, Object]:
    """The pod of each replica that has one.

    Args:
        pods: those that count; better ones come first where there are too many.
        nodes: for each replica that should run the node, in Kubernetes' words, that vim chose.
        before: the replica that each pod was given, by the pod's name.
    """
    found: dict[int, Object] = {}
    left: list[Object] = []
    for pod in pods:
        replica = before.get(name_of(pod))
        if replica is not None and replica in nodes and replica not in found:
            found[replica] = pod
        else:
            left.append(pod)
    for same_node in (True, False):
        still: list[Object] = []
        for pod in left:
            place = node_of(pod)
            fitting = (
                replica
                for replica, node in sorted(nodes.items())
                if replica not in found and (not same_node or (place is not None and node == place))
            )
            replica = next(fitting, None)
            if replica is None:
                still.append(pod)
            else:
                found[replica] = pod
        left = still
    return found


def node_of(pod: Object) -> str | None:
    """Where the scheduler put it, in Kubernetes' words."""
    node = pod.get("spec", {}).get("nodeName")
    return str(node) if node else None


def ending(pod: Object) -> bool:
    """Whether it was told to end."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def usable(pod: Object) -> bool:
    """Whether it is, or will be, one of those that should run."""
    return not ending(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def best_first(pod: Object) -> tuple[int, int, str, str]:
    """The order of pods where there are too many: those that serve, then those that have a place, then the oldest."""
    from_ready = 0 if is_ready(pod) else 1
    return (from_ready, 0 if node_of(pod) else 1, pod["metadata"].get("creationTimestamp", ""), name_of(pod))


def is_ready(pod: Object) -> bool:
    """Whether it serves, as far as its probes tell."""
    return condition(pod, "Ready").get("status") == "True"


def condition(document: Object, kind: str) -> Object:
    """One condition of an object's status; empty where it has none."""
    for one in document.get("status", {}).get("conditions") or ():
        if one.get("type") == kind:
            found: Object = one
            return found
    return {}
