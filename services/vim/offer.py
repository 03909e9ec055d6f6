"""What a node offers for a runtime: by its cluster where that can run it, else by its own worker.

In: a request, a runtime and a node as the index knows it. Out: who would make it so and what would run
it, with the reason for the decision; or nothing where the node cannot run it at all.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from schemas.cluster import ENGINES
from schemas.deployment import DeploymentRequest, MachineImage
from schemas.names import Token
from schemas.node import Acceleration, Driver, RuntimeName
from services.vim.urunc import urunc_cannot

#: What a node's own worker runs each runtime with.
_HOST_ENGINES: Final[dict[str, str]] = {
    "process": "process",
    "container": "runc",
    "unikernel": "qemu",
    "vm": "qemu",
}
#: Engines of a cluster that let a workload stand still; a node's own worker does that with everything.
PAUSES: Final = frozenset({"kubevirt"})


#: What boots a unikernel in a cluster, the better first.
_UNIKERNEL_ENGINES: Final = tuple(
    engine for engine in ENGINES if engine in ("urunc", "qemu-pod", "kernel-boot")
)


class Offer(NamedTuple):
    """Who makes a placement so, what runs it there, and why that one was chosen."""

    driver: Driver
    cluster: Token | None
    engine: str | None
    acceleration: Acceleration | None
    reason: str


class Beyond(NamedTuple):
    """A field that cannot be enforced for an image, why, and what would be right."""

    field: str
    message: str
    expected: str


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
                better = _UNIKERNEL_ENGINES if runtime == "unikernel" else ()
                better = better[: better.index(engine)] if engine in better else ()
                others = {other: node.get(f"cluster.without.{other}") for other in better} | refusals
                told = [f"no {other}: {no}" for other, no in others.items() if no]
                reason = "; ".join([f"{engine} of cluster {cluster}", *told])
                return Offer("kubernetes", cluster, engine, _acceleration(node), reason)
        why = "; ".join(f"no {engine}: {refusal}" for engine, refusal in refusals.items())
    if runtime not in _by_the_host(node):
        return None
    if request.user == "root" and node.get("worker.allow_root") is False:
        return None
    if _host_cannot(request, runtime):
        return None
    emulated = runtime in ("vm", "unikernel")
    return Offer("host", None, _HOST_ENGINES[runtime], node.get("acceleration") if emulated else None, why)


def _acceleration(node: dict[str, Any]) -> Acceleration | None:
    """How its cluster boots kernels: the device may be offered and be of no use, which only an agent tries."""
    found: Acceleration | None = node.get("cluster.acceleration")
    return "tcg" if found == "kvm" and node.get("acceleration") == "tcg" else found


def no_offer(request: DeploymentRequest, runtime: RuntimeName, node: dict[str, Any]) -> str | None:
    """Why a node that has the runtime offers it for no image like this one; None where it has no such runtime."""
    told = []
    if runtime in (node.get("cluster.runtimes") or ()):
        offered = node.get(f"cluster.engine.{runtime}") or ()
        told = [f"{engine}: {no}" for engine in offered if (no := _cannot(request, runtime, engine, node))]
    if runtime in _by_the_host(node) and (no := _host_cannot(request, runtime)):
        told.append(f"{_HOST_ENGINES[runtime]} of the node: {no}")
    return "; ".join(told) or None


def beyond_a_disk(request: DeploymentRequest) -> list[Beyond]:
    """What the request asks of a virtual machine that boots a disk of its own, and nobody can hold it to."""
    image = request.images.vm
    if image is None or not image.boots_a_disk:
        return []
    found = []
    inside = "nobody outside reaches into its files"
    if request.env:
        found.append(
            Beyond("env", f"a vm boots from its own disk: {inside}", "images.vm.cloudInit that sets it")
        )
    if request.files:
        found.append(
            Beyond("files", f"a vm boots from its own disk: {inside}", "images.vm.cloudInit that writes them")
        )
    if request.health and request.health.console is not None:
        found.append(Beyond("health.console", "KubeVirt reads no console", "health.http"))
    if any(port.host_port for port in request.ports):
        found.append(Beyond("ports.hostPort", "KubeVirt pins no port of a node", "a port without hostPort"))
    return found


def _by_the_host(node: dict[str, Any]) -> list[str]:
    """What the node's own worker runs; without a cluster that is all that the node offers."""
    if "cluster.name" in node:
        return node.get("worker.runtimes") or []
    return node.get("runtimes") or []


def _cannot(
    request: DeploymentRequest, runtime: RuntimeName, engine: str, node: dict[str, Any]
) -> str | None:
    """Why an engine of the cluster cannot run the request's image, whatever room there is."""
    if request.paused and engine not in PAUSES:
        return "it pauses nothing"
    if request.user == "root" and not node.get("cluster.allow_root"):
        return "its settings allow no root"
    image = getattr(request.images, runtime)
    if isinstance(image, MachineImage) and engine == "kubevirt":
        return _machine_cannot(request, image)
    if getattr(image, "image", None) is None:
        return f"{engine} takes images from a registry only"
    return _unikernel_cannot(request, engine, node) if runtime == "unikernel" else None


def _unikernel_cannot(request: DeploymentRequest, engine: str, node: dict[str, Any]) -> str | None:
    """Why an engine of the cluster cannot boot the unikernel as asked."""
    image = request.images.unikernel
    if image is not None and image.folders:
        return "pods mount no folders of a node (images.unikernel.folders)"
    if request.health and request.health.console is not None:
        return "a cluster reads no console (health.console)"
    if engine == "kernel-boot" and (request.files or any(port.host_port for port in request.ports)):
        return "KubeVirt gives a kernel no files, and pins no port of a node"
    if engine == "urunc":
        if node.get("acceleration") == "tcg":
            return "KVM does not work there"
        return urunc_cannot(request.env, has_files=bool(request.files))
    return None


def _machine_cannot(request: DeploymentRequest, image: MachineImage) -> str | None:
    """Why KubeVirt cannot boot it as asked."""
    if not image.boots_a_disk and image.image is None:
        return "it boots containerDisk, dataVolume, claim or an image from a registry, no file of a node"
    if not image.boots_a_disk and request.files:
        return "files cannot be given to a kernel that it boots"
    if any(port.host_port for port in request.ports):
        return "it pins no port of a node (ports.hostPort)"
    if request.health and request.health.console is not None:
        return "it reads no console (health.console)"
    beyond = beyond_a_disk(request)
    return f"{beyond[0].message} ({beyond[0].field})" if beyond else None


def _host_cannot(request: DeploymentRequest, runtime: RuntimeName) -> str | None:
    """Why no node's own worker can run the image."""
    image = getattr(request.images, runtime)
    if isinstance(image, MachineImage) and image.boots_a_disk:
        return "it boots a kernel, layout or image; containerDisk, dataVolume and claim need KubeVirt"
    return None
