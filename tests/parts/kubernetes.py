"""Kubernetes itself: the servers of its control plane, and the programs of a node."""

from __future__ import annotations

from typing import Final

from tests.parts.go import GoPart

# Without it, nodes and servers report a nonsense version.
_VERSION: Final = ("k8s.io/component-base/version.gitVersion={version}",)


class KubernetesServers(GoPart):
    """``kube-apiserver``, ``kube-controller-manager``, ``kube-scheduler`` and ``kubectl``."""

    def __init__(self) -> None:
        programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        packages = [f"k8s.io/kubernetes/cmd/{program}" for program in programs]
        super().__init__("kubernetes-servers", "kubernetes", packages, "5 to 10 minutes", _VERSION)


class KubernetesNode(GoPart):
    """``kubelet`` and ``kube-proxy``."""

    def __init__(self) -> None:
        packages = [f"k8s.io/kubernetes/cmd/{program}" for program in ("kubelet", "kube-proxy")]
        super().__init__("kubernetes-node", "kubernetes", packages, "1 to 5 minutes", _VERSION)
