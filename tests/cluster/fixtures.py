"""The fixtures of clusters: one a tier for the whole run, up when the first test asks for it.

Where ``MINICLOUD_TEST_KUBECONFIG`` or ``KUBECONFIG`` names a cluster, tests run against that one, and those that
need one of our own are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.cluster.any_cluster import AnyCluster
from tests.cluster.cluster import Cluster
from tests.parts.busybox import Busybox
from tests.parts.cni import CniPlugins
from tests.parts.containerd import Containerd
from tests.parts.etcd import Etcd
from tests.parts.kubernetes import KubernetesNode, KubernetesServers
from tests.parts.kwok import Kwok
from tests.parts.namespaces import Namespaces, NodeMachine
from tests.parts.nftables import Nftables
from tests.parts.part import Part
from tests.parts.runc import Runc

__all__ = [
    "kubernetes", "namespace", "own_kubernetes", "own_real_node", "real_namespace", "real_node",
]  # fmt: skip

#: What the control plane and racks need, and what a real node needs besides.
FAST: Final = (Namespaces(), KubernetesServers(), Etcd(), Kwok())
FULL: Final = (NodeMachine(), KubernetesNode(), Containerd(), CniPlugins(), Nftables(), Runc(), Busybox())

SomePart = TypeVar("SomePart", bound=Part)


def named_cluster() -> Path | None:
    """The kubeconfig of a cluster that tests should run against instead of ours."""
    named = os.environ.get("MINICLOUD_TEST_KUBECONFIG") or os.environ.get("KUBECONFIG")
    return Path(named) if named else None


@pytest.fixture(scope="session")
def kubernetes(
    part: Callable[[SomePart], SomePart], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyCluster]:
    """The fast tier: a control plane and two racks, ``rack-1`` and ``rack-2``, of 20 nodes."""
    with _named_or_own(part, FAST, tmp_path_factory) as cluster:
        if isinstance(cluster, Cluster):
            cluster.add_tier_fast()
        yield cluster


@pytest.fixture(scope="session")
def own_kubernetes(kubernetes: AnyCluster) -> Cluster:
    """The fast tier, for tests that break it or need its KWOK nodes; they mend what they break."""
    return _own(kubernetes)


@pytest.fixture
def namespace(kubernetes: AnyCluster) -> Iterator[str]:
    """A namespace of the fast tier that no other test uses."""
    with kubernetes.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def real_node(
    part: Callable[[SomePart], SomePart], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyCluster]:
    """The full tier without racks, which a test may add: a control plane and ``real-1``, where pods really run."""
    with _named_or_own(part, (*FAST, *FULL), tmp_path_factory) as cluster:
        if isinstance(cluster, Cluster):
            cluster.add_tier_full(nodes=0)
        yield cluster


@pytest.fixture(scope="session")
def own_real_node(real_node: AnyCluster) -> Cluster:
    """The full tier, for tests that break it; they mend what they break."""
    return _own(real_node)


@pytest.fixture
def real_namespace(real_node: AnyCluster) -> Iterator[str]:
    """A namespace of the full tier that no other test uses."""
    with real_node.namespace() as name:
        yield name


@contextmanager
def _named_or_own(
    part: Callable[[SomePart], SomePart], needed: Iterable[Part], folders: pytest.TempPathFactory
) -> Iterator[AnyCluster]:
    """The cluster that the environment names, else a control plane of our own."""
    if (named := named_cluster()) is not None:
        with closing(AnyCluster(named, folders.mktemp("clients"))) as other:
            yield other
        return
    for one in needed:
        part(one)
    with Cluster.up() as cluster:
        yield cluster


def _own(cluster: AnyCluster) -> Cluster:
    if not isinstance(cluster, Cluster):
        pytest.skip(f"it needs a cluster of our own, and {cluster.kubeconfig} is another")
    return cluster
