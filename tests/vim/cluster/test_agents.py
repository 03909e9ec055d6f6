"""A node of a cluster on which an agent runs, too, is one node: either worker runs what is its own there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import NotFound, Unavailable
from services.charagent.probes import identity
from services.vim.cluster.inventory import machine_id, machine_of
from tests.cluster.any_cluster import AnyCluster
from tests.rid import nodes
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site

_NODE = "rack-2-007"
_OTHER = "rack-2-008"


@pytest.fixture
async def both(site: Site, kubernetes: AnyCluster, namespace: str) -> AsyncIterator[tuple[Field, str]]:
    """A worker over a cluster of which one node has an agent; and that node's name."""
    node = json.loads(kubernetes.kubectl("get", "node", _NODE, "-o", "json"))
    name = site.node("pi")[0]
    await site.nodes.join(name, runtimes=("process", "container"), id=machine_of(node))
    made = Field(site, kubernetes, namespace)
    made.start()
    yield made, name
    made.stop()


def test_an_agent_and_the_cluster_know_a_machine_by_the_same_id(tmp_path: Path) -> None:
    raw = "0123456789abcdef0123456789abcdef"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text(f"{raw}\n")
    assert identity.read(tmp_path, tmp_path / "data") == machine_id(raw)


async def _node(site: Site, name: str) -> dict[str, Any]:
    with suppress(NotFound, Unavailable):
        found: dict[str, Any] = await site.bus.request("rid", "node", {"node": name})
        return found
    return {}


async def test_they_are_one_node_under_the_agents_name(both: tuple[Field, str]) -> None:
    field, name = both
    known = await field.nodes(40)
    assert name in known
    assert f"{field.name}-{_NODE}" not in known
    it = await _node(field.site, name)
    assert it["cluster.node"] == _NODE
    assert it["cpu.cores"] == 4  # as its agent says
    assert it["cluster.cpu"] == 8  # as Kubernetes says
    assert set(it["runtimes"]) >= {"process", "container"}
    assert "container" in it["cluster.runtimes"]


async def test_an_agent_that_comes_later_takes_over_the_node(
    site: Site, kubernetes: AnyCluster, namespace: str
) -> None:
    field = Field(site, kubernetes, namespace)
    field.start()
    try:
        alone = f"{field.name}-{_OTHER}"
        assert alone in await field.nodes(40)
        name = await field.deploy(where={"name": alone})
        await field.until_state(name, "running")
        (pod,) = field.pods(name)
        agent = site.node("late")[0]
        node = json.loads(kubernetes.kubectl("get", "node", _OTHER, "-o", "json"))
        await site.nodes.join(agent, runtimes=("process",), id=machine_of(node))
        async with asyncio.timeout(30):
            while "cluster.node" not in await _node(site, agent):
                await asyncio.sleep(0.1)
            while (await _node(site, alone)).get("state") != "lost":
                await asyncio.sleep(0.1)
        assert "cluster.name" not in await _node(site, alone)
        # What ran there runs on, and vim knows it under the other name.
        await site.until(
            lambda: site.last(name).replicas[0].node == agent and site.last(name).state == "running",
            "it runs under the agent's name",
            60,
        )
        assert [one["metadata"]["uid"] for one in field.pods(name)] == [pod["metadata"]["uid"]]
    finally:
        field.stop()


async def test_a_node_whose_agent_was_stopped_goes_on_by_its_cluster(both: tuple[Field, str]) -> None:
    field, name = both
    await field.nodes(40)
    site = field.site
    deployment = await field.deploy(where={"name": name})
    await field.until_state(deployment, "running")
    stopped = nodes.presence(name, online=False, reason="stopping")
    await site.bus.publish(site.bus.subjects.presence(name), stopped, about=name)
    status = nodes.worker(name, state="stopped")
    await site.bus.publish(site.bus.subjects.worker(name), status, about=name)
    async with asyncio.timeout(20):
        while (await _node(site, name)).get("worker.runtimes") != []:
            await asyncio.sleep(0.1)
    known = await _node(site, name)
    assert (known["state"], known["worker"]) == ("alive", True)
    await site.looks(2)
    assert site.last(deployment).state == "running"


async def test_either_worker_runs_its_own_on_a_node_of_both(both: tuple[Field, str]) -> None:
    field, name = both
    await field.nodes(40)
    site = field.site
    by_cluster = await field.deploy("pods", where={"name": name})
    by_host = await site.deploy("host", where={"name": name})
    on_disk = await field.deploy("disk", image={"rootfs": "/srv/rootfs"}, where={"name": name})
    status = await field.until_state(by_cluster, "running")
    assert status.replicas[0].engine == "k3s"
    status = await field.until_state(by_host, "running")
    assert (status.replicas[0].cluster, status.replicas[0].engine) == (None, "process")
    status = await field.until_state(on_disk, "running")
    assert status.replicas[0].engine == "runc"
    reason = site.decisions(on_disk)[-1].placements[0].reason
    assert "k3s takes images from a registry only" in reason
    assert len(field.lying("deployments")) == 1
    begun = {workload for _, workload, _ in site.nodes.starts}
    assert begun == {f"{by_host}-0", f"{on_disk}-0"}


async def test_a_place_changes_hands_only_when_its_former_worker_is_done(both: tuple[Field, str]) -> None:
    field, name = both
    await field.nodes(40)
    site = field.site
    deployment = await field.deploy(where={"name": name})
    await field.until_state(deployment, "running", generation=1)
    await site.deploy("c", where={"name": name})
    status = await field.until_state(deployment, "running", generation=2)
    assert status.replicas[0].runtime == "process"
    await until(lambda: not field.lying("pods,deployments", deployment), "its pods are gone")
    await field.deploy(where={"name": name})
    status = await field.until_state(deployment, "running", generation=3)
    assert status.replicas[0].cluster == field.name
    assert (name, f"{deployment}-0") not in site.nodes.running
