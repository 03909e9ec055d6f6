"""One cluster's worker for most tests, over a namespace that no other test uses; others start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.cluster.any_cluster import AnyCluster
from tests.vim.cluster import rights
from tests.vim.cluster.field import Field
from tests.vim.site import Site


@pytest.fixture
async def field(site: Site, kubernetes: AnyCluster, namespace: str) -> AsyncIterator[Field]:
    """A worker of the fast tier."""
    made = Field(site, kubernetes, namespace)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def machines(site: Site, kubernetes: AnyCluster, namespace: str) -> AsyncIterator[Field]:
    """A worker with no more rights than machines need, and little patience with migrations."""
    made = Field(site, kubernetes, namespace)
    made.kubeconfig = rights.give(kubernetes, namespace, "kubevirt.yaml")
    made.start(MINICLOUD_MIGRATION_TARGET_TIMEOUT="4")
    yield made
    made.stop()
    rights.take_back(kubernetes, namespace)
