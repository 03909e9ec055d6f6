"""Containers in a cluster, run by K3s or any other Kubernetes: pods of the request's own image.

Files of the request are a ConfigMap, or a Secret where they are secret, under a name that changes with their
content, so that a change of them is a change of the workload.
"""

from __future__ import annotations

import base64
from typing import Final

from schemas.cluster import ClusterRuntime
from schemas.deployment import File
from schemas.node import RuntimeName
from schemas.workload import DesiredWorkload
from services.vim.cluster.api import CONFIG_MAPS, SECRETS, Object
from services.vim.cluster.kind import Around, Facts, Offering, Wanted
from services.vim.cluster.match import condition
from services.vim.cluster.names import DEPLOYMENT, Ours, digest
from services.vim.cluster.pod import container_of
from services.vim.cluster.podset import RESOURCES, Body, PodSet

_FILES: Final = "files"


class Containers(PodSet):
    """The kind of workload that a cluster is made for."""

    runtime: RuntimeName = "container"
    resources = RESOURCES

    def __init__(self, around: Around) -> None:
        super().__init__(around, self._make)
        self._around = around

    def offer(self, node: Object, facts: Facts) -> Offering:  # noqa: ARG002 - others need them
        """Every node of a cluster runs containers; Windows' run others."""
        system = node.get("status", {}).get("nodeInfo", {}).get("operatingSystem") or "linux"
        if system != "linux":
            return Offering(silent={"k3s": f"its operating system is {system}"})
        if condition(node, "NetworkUnavailable").get("status") == "True":
            return Offering(silent={"k3s": "its network is not set up"})
        return Offering([ClusterRuntime(name="container", engine="k3s")])

    def _make(self, level: DesiredWorkload) -> Body:
        objects = files_of(level, self._around.ours)
        mounts = mounts_of(level, self._around.ours)
        bundles = _bundles(level, self._around.ours)
        volumes = [_volume(level, kind, name) for kind, name in bundles.items()]
        container = container_of(level, self._around.settings, mounts)
        # What only some may read is read by the workload's group.
        spec = {"securityContext": {"fsGroup": self._around.settings.gid}} if bundles else {}
        return Body(container, volumes, spec, objects=objects)


def _volume(level: DesiredWorkload, kind: str, name: str) -> Object:
    items = [
        {"key": f"f{number}", "path": f"f{number}", "mode": file.mode}
        for number, file in _of_kind(level, kind)
    ]
    named: Object = {"name": name} if kind == "open" else {"secretName": name}
    source = "configMap" if kind == "open" else "secret"
    return {"name": f"{_FILES}-{kind}", source: {**named, "items": items}}


def files_of(level: DesiredWorkload, ours: Ours) -> list[Wanted]:
    """The objects that hold the files of a level."""
    found = []
    for kind, name in _bundles(level, ours).items():
        files = _of_kind(level, kind)
        metadata: Object = {
            "name": name,
            "namespace": ours.namespace,
            "labels": ours.of(level.deployment, level.runtime),
            "annotations": {DEPLOYMENT: level.deployment},
        }
        document: Object = {"apiVersion": "v1", "metadata": metadata, "immutable": True}
        if kind == "open":
            data = {f"f{number}": file.content for number, file in files}
            found.append(Wanted(CONFIG_MAPS, {**document, "kind": "ConfigMap", "data": data}))
        else:
            coded = {f"f{number}": base64.b64encode(file.content.encode()).decode() for number, file in files}
            found.append(Wanted(SECRETS, {**document, "kind": "Secret", "type": "Opaque", "data": coded}))
    return found


def mounts_of(level: DesiredWorkload, ours: Ours) -> list[Object]:
    """Where the files of a level appear in its container."""
    return [
        {
            "name": f"{_FILES}-{kind}",
            "mountPath": f"/{file.path.lstrip('/')}",
            "subPath": f"f{number}",
            "readOnly": True,
        }
        for kind in _bundles(level, ours)
        for number, file in _of_kind(level, kind)
    ]


def _of_kind(level: DesiredWorkload, kind: str) -> list[tuple[int, File]]:
    return [(number, file) for number, file in enumerate(level.files) if file.secret == (kind == "secret")]


def _bundles(level: DesiredWorkload, ours: Ours) -> dict[str, str]:
    """The names of what holds the files, by how well they are kept."""
    return {
        kind: ours.name(
            level.deployment,
            level.runtime,
            kind,
            digest([(file.path, file.content, file.mode) for _, file in files]),
        )
        for kind in ("open", "secret")
        if (files := _of_kind(level, kind))
    }
