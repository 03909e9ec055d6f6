"""Containers against the real API server, on nodes that exist in the API only."""

from __future__ import annotations

from tests.vim.cluster.field import Field, until


async def test_a_deployment_runs_on_the_cluster_and_ends_without_a_trace(field: Field) -> None:
    nodes = await field.nodes(40)
    name = await field.deploy(replicas=3, resources={"cpu": "250m", "memory": "64MiB"})
    status = await field.until_state(name, "running")
    assert [replica.node in nodes for replica in status.replicas] == [True] * 3
    assert {(one.cluster, one.engine) for one in status.replicas} == {(field.name, "k3s")}
    made = field.one("deployments", name)
    assert made["spec"]["replicas"] == 3
    assert len(field.pods(name)) == 3
    await field.site.cancel(name)
    await field.until_state(name, "stopped")
    await until(lambda: not field.lying("deployments,pods,services,configmaps", name), "all is gone")
