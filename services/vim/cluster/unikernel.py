"""What boots a unikernel in a cluster, in Kubernetes' words: QEMU in a pod of its own, or urunc.

Pure: in comes a level, out come the container, its surroundings and annotations. The image is one that
:mod:`services.vim.packaging` makes: its entry composes the kernel's command line from what stands here. urunc's
annotations are made here and nowhere else: what a tenant writes reaches them as arguments only, coded.
"""

from __future__ import annotations

import base64
from typing import Final

from schemas.workload import DesiredWorkload
from services.vim.cluster.api import SECRETS, Object
from services.vim.cluster.kernel_boot import KERNEL, arguments_of
from services.vim.cluster.kind import Wanted
from services.vim.cluster.names import DEPLOYMENT, Ours, digest
from services.vim.cluster.pod import container_of
from services.vim.cluster.podset import Body
from services.vim.cluster.settings import ClusterSettings
from services.vim.overhead import overhead_of
from services.vim.urunc import urunc_annotations, urunc_cannot
from services.vim.worker.cpio import archive
from services.vim.worker.kernel import parameter_of, parts_of, unikernel_start, word_of
from services.vim.worker.machine import hardware, network
from services.vim.worker.workload import MIB, CannotRun, File

_GUEST_MEMORY: Final = 64 * MIB
_RUN: Final = "/run/minicloud"
_FILES: Final = "/run/files"
#: What Kubernetes holds in one Secret, with room for what is around it.
_MOST_FILES: Final = 1_000_000


def in_qemu(level: DesiredWorkload, settings: ClusterSettings, ours: Ours) -> Body:
    """QEMU in a pod: software emulation, or the node's KVM where the level says so.

    Raises:
        CannotRun: an image, environment, arguments or files that cannot be had there.
    """
    memory = level.memory or _GUEST_MEMORY
    container = container_of(level, settings)
    container["env"] = [
        {"name": name, "value": _itself(value)} for name, value in _words(level, memory).items()
    ]
    container["securityContext"] = {**container["securityContext"], "readOnlyRootFilesystem": True}
    # QEMU itself needs memory beside its guest's: the limit is for both.
    size = str(memory + overhead_of("unikernel", "qemu-pod", level.cpu))
    limits: dict[str, str] = {**(container["resources"].get("limits") or {}), "memory": size}
    if level.acceleration == "kvm":
        limits[settings.kvm_resource] = "1"
    container["resources"] = {"limits": limits, "requests": dict(limits)}
    container["volumeMounts"] = [{"name": "run", "mountPath": _RUN}]
    volumes: list[Object] = [{"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    objects: list[Wanted] = []
    if level.files:
        secret = _files(level, ours)
        objects.append(secret)
        container["volumeMounts"].append({"name": "files", "mountPath": _FILES, "readOnly": True})
        volumes.append({"name": "files", "secret": {"secretName": secret.document["metadata"]["name"]}})
    spec: Object = {"securityContext": {"fsGroup": settings.gid}} if level.files else {}
    if any(port.port < 1024 for port in level.ports):
        low = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
        spec["securityContext"] = {**spec.get("securityContext", {}), "sysctls": [low]}
    return Body(container, volumes, spec, objects=objects)


def in_urunc(level: DesiredWorkload, settings: ClusterSettings) -> Body:
    """A pod whose runtime boots the kernel by the node's KVM.

    Raises:
        CannotRun: an image, environment or arguments that urunc cannot be given.
    """
    if (no := urunc_cannot(level.env, has_files=bool(level.files))) is not None:
        raise CannotRun(
            "InvalidWorkload", no, lasting=True, expected="another engine, or a request without it"
        )
    container = container_of(level, settings)
    container["env"] = [{"name": name, "value": _itself(value)} for name, value in level.env.items()]
    _, arguments = parts_of(arguments_of(level))
    told = urunc_annotations(KERNEL, " ".join(map(word_of, arguments)))
    return Body(container, spec={"runtimeClassName": settings.urunc_class}, annotations=told)


def _words(level: DesiredWorkload, memory: int) -> dict[str, str]:
    """The environment of the entry."""
    boards = {
        f"MINICLOUD_BOARD_{machine.upper()}": " ".join(hardware(level.deployment, machine, memory // MIB))
        for machine in ("x86_64", "aarch64")
    }
    forwards = [("", port.port, port.port) for port in level.ports]
    found = {
        **boards,
        "MINICLOUD_NETWORK": " ".join(network(forwards, outbound=True)),
        "MINICLOUD_LINE": unikernel_start(level.deployment),
        "MINICLOUD_NAMES": " ".join(level.env),
        "MINICLOUD_ENV": " ".join(parameter_of(name, value) for name, value in level.env.items()),
    }
    if given := arguments_of(level):
        parameters, arguments = parts_of(given)
        found["MINICLOUD_ARGUMENTS"] = " ".join(map(word_of, arguments))
        if parameters:
            found["MINICLOUD_PARAMETERS"] = " ".join(map(word_of, parameters))
    return found


def _files(level: DesiredWorkload, ours: Ours) -> Wanted:
    """The files as a RAM disk, kept as a secret since they may be one."""
    data = archive(File(file.path, file.content, file.mode) for file in level.files)
    if len(data) > _MOST_FILES:
        raise CannotRun(
            "InvalidFile",
            f"the files take {len(data)} B as a RAM disk, more than a Secret holds",
            lasting=True,
            expected=f"at most {_MOST_FILES} B, or an image with the files inside",
        )
    coded = base64.b64encode(data).decode()
    metadata: Object = {
        "name": ours.name(level.deployment, level.runtime, "files", digest(coded)),
        "namespace": ours.namespace,
        "labels": ours.of(level.deployment, level.runtime),
        "annotations": {DEPLOYMENT: level.deployment},
    }
    document: Object = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True}
    return Wanted(SECRETS, {**document, "metadata": metadata, "data": {"initrd": coded}})


def _itself(text: str) -> str:
    """Kubernetes would put another variable's value in place of ``$(NAME)``; every ``$$`` is one ``$`` to it."""
    return text.replace("$", "$$")
