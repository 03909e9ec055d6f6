"""The fixtures of clusters: one a tier for the whole run, up when the first test asks for it.

Where ``MINICLOUD_TEST_KUBECONFIG`` or ``KUBECONFIG`` names a cluster, tests run against that one, and those that
need one of our own are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cluster.any_cluster import AnyCluster
from tests.cluster.cluster import Cluster
from tests.parts.etcd import Etcd
from tests.parts.kubernetes import KubernetesServers
from tests.parts.kwok import Kwok
from tests.parts.namespaces import Namespaces
from tests.parts.part import Part

__all__ = ["kubernetes", "namespace", "own_kubernetes"]

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
    if (named := named_cluster()) is not None:
        yield AnyCluster(named, tmp_path_factory.mktemp("clients"))
        return
    for needed in (Namespaces(), KubernetesServers(), Etcd(), Kwok()):
        part(needed)
    with Cluster.up() as cluster:
        cluster.add_tier_fast()
        yield cluster


@pytest.fixture(scope="session")
def own_kubernetes(kubernetes: AnyCluster) -> Cluster:
    """The fast tier, for tests that break it or need its KWOK nodes; they mend what they break."""
    if not isinstance(kubernetes, Cluster):
        pytest.skip(f"it needs a cluster of our own, and {kubernetes.kubeconfig} is another")
    return kubernetes


@pytest.fixture
def namespace(kubernetes: AnyCluster) -> Iterator[str]:
    """A namespace of the fast tier that no other test uses."""
    with kubernetes.namespace() as name:
        yield name
