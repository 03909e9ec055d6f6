"""What a node offers for a runtime: by its cluster where that can run it, else by its own worker.

In: a request, a runtime and a node as the index knows it. Out: who would make it so and what would run
it, with the reason for the decision; or nothing where the node cannot run it at all.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from schemas.cluster import ENGINES
from schemas.deployment import DeploymentRequest
from schemas.names import Token
from schemas.node import Acceleration, Driver, RuntimeName

#: What a node's own worker runs each runtime with.
_HOST_ENGINES: Final[dict[str, str]] = {
    "process": "process",
    "container": "runc",
    "unikernel": "qemu",
    "vm": "qemu",
}


class Offer(NamedTuple):
    """Who makes a placement so, what runs it there, and why that one was chosen."""

    driver: Driver
    cluster: Token | None
    engine: str | None
    acceleration: Acceleration | None
    reason: str


def offer(request: DeploymentRequest, runtime: RuntimeName, node: dict[str, Any]) -> Offer | None:
    """What ``node`` offers for ``runtime``; None where it offers nothing that can run this request."""
    why = ""
    if runtime in (node.get("cluster.runtimes") or ()):
        cluster = node.get("cluster.name")
        offered = node.get(f"cluster.engine.{runtime}") or ()
        refusals = {
            engine: _cannot(request, runtime, engine, node) for engine in ENGINES if engine in offered
        }
        for engine, refusal in refusals.items():
            if refusal is None:
                others = [f"no {other}: {no}" for other, no in refusals.items() if no]
                reason = "; ".join([f"{engine} of cluster {cluster}", *others])
                return Offer("kubernetes", cluster, engine, node.get("cluster.acceleration"), reason)
        why = "; ".join(f"no {engine}: {refusal}" for engine, refusal in refusals.items())
    if runtime not in _by_the_host(node):
        return None
    if request.user == "root" and node.get("worker.allow_root") is False:
        return None
    emulated = runtime in ("vm", "unikernel")
    return Offer("host", None, _HOST_ENGINES[runtime], node.get("acceleration") if emulated else None, why)


def _by_the_host(node: dict[str, Any]) -> list[str]:
    """What the node's own worker runs; without a cluster that is all that the node offers."""
    if "cluster.name" in node:
        return node.get("worker.runtimes") or []
    return node.get("runtimes") or []


def _cannot(
    request: DeploymentRequest, runtime: RuntimeName, engine: str, node: dict[str, Any]
) -> str | None:
    """Why an engine of the cluster cannot run the request's image, whatever room there is."""
    if request.user == "root" and not node.get("cluster.allow_root"):
        return "its settings allow no root"
    image = getattr(request.images, runtime)
    if getattr(image, "image", None) is None:
        return f"{engine} takes images from a registry only"
    return None
