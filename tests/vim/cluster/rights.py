"""The rights that a site gives the worker of its cluster, as ``compose/kubernetes`` says them, in any namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.any_cluster import AnyCluster

_FOLDER: Final = Path(__file__).parents[3] / "compose/kubernetes"


def manifests(*names: str) -> list[dict[str, Any]]:
    """The documents of some files."""
    return [
        document
        for name in names
        for document in yaml.safe_load_all((_FOLDER / name).read_text())
        if document
    ]


def give(cluster: AnyCluster, namespace: str, *names: str) -> Path:
    """Apply the rights of ``rbac.yaml``, and of other files, in a namespace of a test's own.

    Returns the kubeconfig of who has them and no others.
    """
    documents = []
    for document in manifests("rbac.yaml", *names):
        document["metadata"].pop("namespace", None)
        if document["kind"] in ("Role", "RoleBinding", "ServiceAccount"):
            document["metadata"]["namespace"] = namespace
        else:
            document["metadata"]["name"] += f"-{namespace}"
        if "roleRef" in document:
            if document["roleRef"]["kind"] == "ClusterRole":
                document["roleRef"]["name"] += f"-{namespace}"
            for subject in document["subjects"]:
                subject["namespace"] = namespace
        documents.append(document)
    cluster.apply(*documents)
    return cluster.service_account("minicloud", namespace)


def take_back(cluster: AnyCluster, namespace: str) -> None:
    """Remove what does not go with the namespace."""
    for kind in ("clusterrole", "clusterrolebinding"):
        cluster.kubectl("delete", kind, f"minicloud-nodes-{namespace}", "--ignore-not-found")
