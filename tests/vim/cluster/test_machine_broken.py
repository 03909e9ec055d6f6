"""Machines while things break: nodes die, migrations hang, the worker is killed."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from tests.cluster.any_cluster import until as wait_until
from tests.cluster.cluster import Cluster
from tests.vim.cluster.field import Field, until
from tests.vim.cluster.test_machine_life import OURS, deploy, gone, host, where_it_is

_RACK = "cluster.label.minicloud.dev/rack"


async def test_a_migration_that_hangs_is_given_up_and_the_machine_runs_on(
    machines: Field, own_kubernetes: Cluster
) -> None:
    name = await deploy(machines)
    origin = await where_it_is(machines, name)
    uid = machines.one("vmi", name)["metadata"]["uid"]
    own_kubernetes.kill("scheduler")  # so that the second launcher never gets a node, and nobody says why
    try:
        await machines.site.publish(name, "migrate", {})
        await machines.site.until(
            lambda: any("gives no reason" in one.message for one in machines.site.statuses(name)),
            "it is given up",
            seconds=40,
        )
        status = await machines.until_state(name, "running")
        assert status.replicas[0].node == origin
        attempts = machines.site.decisions(name)[-1].attempts
        assert [one.reason for one in attempts] == ["MigrationStuck"]
        await until(lambda: not machines.lying("vmim", name), "the migration is taken away")
        assert machines.one("vmi", name)["metadata"]["uid"] == uid
        await gone(machines, name)
    finally:
        own_kubernetes.start_again("scheduler")


async def test_a_machine_without_a_node_says_so(machines: Field, own_kubernetes: Cluster) -> None:
    own_kubernetes.kill("scheduler")
    try:
        name = await deploy(machines)
        await machines.site.until(
            lambda: any(
                one.reason == "Unschedulable" and "Insufficient" in one.message
                for one in machines.site.statuses(name)
            ),
            "why it does not start",
        )
        await gone(machines, name)
    finally:
        own_kubernetes.start_again("scheduler")


async def test_on_a_dead_node_it_is_started_nowhere_else_before_fencing(
    machines: Field, own_kubernetes: Cluster
) -> None:
    """KubeVirt prints Running for ever; we say that nobody knows, and what to do about it."""
    name = await deploy(machines, onLoss={"replaceAfter": "1s"})
    await where_it_is(machines, name)
    dead = host(machines, name)
    uid = machines.one("vmi", name)["metadata"]["uid"]
    rack = dead.rpartition("-")[0]
    own_kubernetes.kill(f"kwok-{rack}")
    try:
        await until(
            lambda: "reason=NodeLost" in machines.workers[-1].text(), "the worker says that it is lost", 60
        )
        assert "out-of-service=nodeshutdown:NoExecute" in machines.workers[-1].text()
        await machines.until_state(name, "lost", seconds=60)
        assert machines.one("vm", name)["status"]["printableStatus"] == "Running"
        # Long after onLoss.replaceAfter:
        await machines.site.looks(3)
        assert [one["metadata"]["uid"] for one in machines.lying("vmi", name)] == [uid]
        assert len(machines.site.decisions(name)[-1].placements) == 1
        own_kubernetes.kubectl(
            "taint", "nodes", dead, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        )
        status = await machines.until_state(name, "running", seconds=90)
        assert host(machines, name) != dead
        assert rack not in host(machines, name)
        assert status.replicas[0].node.endswith(host(machines, name))
        assert len(machines.lying("vmi", name)) == 1
        await gone(machines, name)
    finally:
        own_kubernetes.start_again(f"kwok-{rack}")
        with suppress(AssertionError):
            own_kubernetes.kubectl("taint", "nodes", dead, "node.kubernetes.io/out-of-service-")
        wait_until(lambda: len(own_kubernetes.ready_nodes(f"minicloud.dev/rack={rack}")) == 20)


async def test_a_worker_that_is_killed_at_any_moment_makes_nothing_twice(machines: Field) -> None:
    """Through a start, a migration and an end."""
    chance = random.Random(11)

    async def killing() -> None:
        while True:
            await asyncio.sleep(chance.uniform(3, 6))
            machines.workers[-1].kill()
            machines.start(MINICLOUD_MIGRATION_TARGET_TIMEOUT="30")

    name = await deploy(machines, replicas=3)
    killer = asyncio.create_task(killing())
    try:
        await machines.until_state(name, "running", seconds=90)
        uids = {one["metadata"]["uid"] for one in machines.lying("vmi", name)}
        assert len(uids) == 3
        before = {one["status"]["nodeName"] for one in machines.lying("vmi", name)}
        await machines.site.publish(name, "migrate", {})
        await machines.site.until(
            lambda: "migrating" in machines.site.states(name), "they migrate", seconds=60
        )
        await machines.until_state(name, "running", seconds=120)
    finally:
        killer.cancel()
    instances = machines.lying("vmi", name)
    assert {one["metadata"]["uid"] for one in instances} == uids  # each the same run of the same guest
    assert {one["status"]["nodeName"] for one in instances} != before
    killer = asyncio.create_task(killing())
    try:
        await machines.site.cancel(name)
        await machines.until_state(name, "stopped", seconds=120)
    finally:
        killer.cancel()
    await until(lambda: not machines.lying(OURS, name), "all is gone", 60)
