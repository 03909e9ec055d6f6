"""The rights of ``compose/kubernetes`` are enough, and no more than enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.any_cluster import AnyCluster
from tests.cluster.cluster import Cluster
from tests.vim.cluster import rights
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site


@pytest.fixture
def narrow(kubernetes: AnyCluster, namespace: str) -> Iterator[Path]:
    """A kubeconfig with those rights and a ServiceAccount's token."""
    yield rights.give(kubernetes, namespace)
    rights.take_back(kubernetes, namespace)


async def test_everything_is_done_by_a_service_account_with_these_rights(
    site: Site, kubernetes: AnyCluster, namespace: str, narrow: Path
) -> None:
    field = Field(site, kubernetes, namespace)
    field.start(kubeconfig=narrow)
    try:
        await field.nodes(40)
        files = [{"path": "a", "content": "b"}, {"path": "c", "content": "d", "secret": True}]
        name = await field.deploy(replicas=3, ports=[{"name": "http", "port": 80}], files=files)
        job = await field.deploy("job", restart="never")
        await field.until_state(name, "running", generation=1)
        await field.until_state(job, "completed")
        await field.deploy(replicas=1, ports=[{"name": "http", "port": 80}])
        await field.until_state(name, "running", generation=2)
        await until(lambda: not field.lying("secrets", name), "what is no longer used is gone")
        machine = None
        if isinstance(kubernetes, Cluster):  # others may have no KubeVirt
            machine = await field.deploy(
                "machine", runtimes=["vm"], images={"vm": {"containerDisk": "registry.local/disk:1"}}
            )
            await field.until_state(machine, "running")
        for one in filter(None, (name, job, machine)):
            await field.site.cancel(one)
            await field.until_state(one, "stopped")
        await until(lambda: not field.lying("all,secrets,configmaps"), "all is gone")
        if machine is not None:
            await until(lambda: not field.lying("vm,vmi,vmim"), "the machine, too")
        assert "Forbidden" not in field.workers[-1].text()
    finally:
        field.stop()


@pytest.mark.parametrize(
    ("verb", "what", "where"),
    [
        ("get", "secrets", "default"),
        ("list", "pods", "default"),
        ("create", "deployments.apps", "default"),
        ("create", "pods", None),
        ("create", "pods/exec", None),
        ("update", "deployments.apps/status", None),
        ("patch", "nodes", None),
        ("delete", "nodes", None),
        ("create", "rolebindings.rbac.authorization.k8s.io", None),
        ("create", "serviceaccounts/token", None),
        ("delete", "namespaces", None),
        ("list", "customresourcedefinitions.apiextensions.k8s.io", None),
    ],
)
def test_these_rights_do_not_reach_further(
    kubernetes: AnyCluster, namespace: str, narrow: Path, verb: str, what: str, where: str | None
) -> None:
    told = kubernetes.kubectl(
        "auth", "can-i", verb, what, "-n", where or namespace,
        "--as", f"system:serviceaccount:{namespace}:minicloud", check=False,
    )  # fmt: skip
    assert told.strip().endswith("no"), told


def test_the_manifests_are_what_a_strict_server_takes(kubernetes: AnyCluster, namespace: str) -> None:
    for document in rights.manifests("rbac.yaml", "worker.yaml"):
        if document["metadata"].get("namespace"):
            document["metadata"]["namespace"] = namespace
        import yaml

        kubernetes.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=yaml.safe_dump(document)
        )


async def test_a_namespace_that_enforces_restricted_pods_takes_ours(field: Field) -> None:
    field.cluster.kubectl(
        "label", "namespace", field.namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    await field.nodes(40)
    name = await field.deploy(
        ports=[{"name": "http", "port": 80}], files=[{"path": "key", "content": "k", "secret": True}]
    )
    await field.until_state(name, "running")
