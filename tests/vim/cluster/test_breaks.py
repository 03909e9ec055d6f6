"""The cluster and its worker broken in every way: what is desired is what there is in the end, once each."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site

#: How often the worker is killed in one run; a night's run says more.
KILLS = int(os.environ.get("MINICLOUD_KILLS", "24"))


@pytest.fixture
async def breaking(site: Site, own_kubernetes: Cluster, namespace: str) -> AsyncIterator[Field]:
    """A worker over a cluster that may be broken, and is whole again at the end."""
    made = Field(site, own_kubernetes, namespace)
    made.start()
    yield made
    made.stop()
    while _DOWN:
        _back(made, _DOWN[0])
    await until(lambda: len(own_kubernetes.ready_nodes()) >= 40, "all nodes are back", 60)


#: What a test has killed and not yet started again.
_DOWN: list[str] = []


def _cluster(field: Field) -> Cluster:
    assert isinstance(field.cluster, Cluster)
    return field.cluster


def _kill(field: Field, program: str) -> None:
    _cluster(field).kill(program)
    _DOWN.append(program)


def _back(field: Field, program: str) -> None:
    _cluster(field).start_again(program)
    _DOWN.remove(program)


async def test_an_api_server_that_was_away_is_taken_up_again(breaking: Field) -> None:
    await breaking.nodes(40)
    before = await breaking.deploy("before", replicas=2)
    await breaking.until_state(before, "running")
    pods = {pod["metadata"]["uid"] for pod in breaking.pods(before)}
    _kill(breaking, "apiserver")
    later = await breaking.deploy("later")
    # What cannot be known is told so, and nothing new is placed there.
    status = await breaking.until_state(before, "unknown", reason="ApiAway")
    assert breaking.name in status.message
    _back(breaking, "apiserver")
    await breaking.until_state(before, "running")
    await breaking.until_state(later, "running")
    assert {pod["metadata"]["uid"] for pod in breaking.pods(before)} == pods


async def test_what_changed_while_history_was_forgotten_is_seen(breaking: Field) -> None:
    await breaking.nodes(40)
    name = await breaking.deploy(replicas=2)
    await breaking.until_state(name, "running")
    _cluster(breaking).forget_history()
    lying = breaking.one("deployments", name)["metadata"]["name"]
    breaking.cluster.kubectl("delete", "deployment", lying, "-n", breaking.namespace)
    await breaking.until_state(name, "running", reason="DriftCorrected")
    assert len(breaking.pods(name)) == 2


async def test_an_api_server_that_hangs_is_given_up_and_asked_again(breaking: Field) -> None:
    await breaking.nodes(40)
    _cluster(breaking).pause("apiserver")
    name = await breaking.deploy()
    try:
        await breaking.site.until(lambda: breaking.site.decisions(name), "it was decided")
        await asyncio.to_thread(
            breaking.workers[-1].wait_until, lambda: "put off" in breaking.workers[-1].text(), 60
        )
    finally:
        _cluster(breaking).resume("apiserver")
    await breaking.until_state(name, "running", seconds=90)


async def test_pods_of_a_lost_rack_are_replaced_in_time_and_nothing_is_doubled_when_it_is_back(
    breaking: Field,
) -> None:
    await breaking.nodes(40)
    # Of nodes that their agents speak for, left by other tests, no rack is known.
    known = {"rack": {"$in": ["rack-1", "rack-2"]}}
    name = await breaking.deploy(
        replicas=4, onLoss={"replaceAfter": "5s"}, spread={"over": "rack"}, where=known
    )
    status = await breaking.until_state(name, "running")
    assert {node.split("-rack-")[1][0] for node in (one.node for one in status.replicas)} == {"1", "2"}
    healthy = {
        pod["metadata"]["uid"] for pod in breaking.pods(name) if pod["spec"]["nodeName"].startswith("rack-2")
    }
    assert len(healthy) == 2
    _kill(breaking, "kwok-rack-1")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await breaking.site.until(
        lambda: breaking.site.last(name).state in ("lost", "unknown", "degraded", "creating"),
        "the loss is told",
        60,
    )

    def on_rack_2() -> bool:
        last = breaking.site.last(name)
        return last.state == "running" and all("-rack-2-" in one.node for one in last.replicas)

    await breaking.site.until(on_rack_2, "all run on the other rack", 90)
    # The grace of the cluster (6 s) and replaceAfter (5 s), and what it takes to see both and to start.
    assert loop.time() - begun < 40
    assert healthy <= {pod["metadata"]["uid"] for pod in breaking.pods(name)}
    four = {pod["metadata"]["uid"] for pod in breaking.pods(name)}
    assert len(four) == 4
    _back(breaking, "kwok-rack-1")
    await breaking.nodes(40)
    await until(lambda: len(breaking.lying("pods", name)) == 4, "what was lost is gone for good", 60)
    await breaking.site.looks(2)
    assert {pod["metadata"]["uid"] for pod in breaking.pods(name)} == four
    assert breaking.site.last(name).state == "running"


async def test_a_singleton_waits_for_its_node_to_be_fenced(breaking: Field) -> None:
    await breaking.nodes(40)
    name = await breaking.deploy(
        onLoss={"singleton": True, "replaceAfter": "2s"}, prefer=[{"cluster.label.minicloud.dev/rack": "asc"}]
    )
    status = await breaking.until_state(name, "running")
    node = status.replicas[0].node.removeprefix(f"{breaking.name}-")
    rack = node.rpartition("-")[0]
    _kill(breaking, f"kwok-{rack}")
    await breaking.until_state(name, "lost")
    # Long after everybody else would have been replaced, nothing was started.
    await until(lambda: not _cluster(breaking).ready_nodes(f"minicloud.dev/rack={rack}"), "the rack is away")
    await breaking.site.looks(8)
    assert len(breaking.pods(name)) == 1
    assert breaking.pods(name)[0]["spec"]["nodeName"] == node
    # Somebody made sure that it is off: the taint that says so lets the cluster give up its pods.
    breaking.cluster.kubectl(
        "taint", "node", node, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )
    try:

        def elsewhere() -> bool:
            last = breaking.site.last(name)
            return last.state == "running" and node not in last.replicas[0].node

        await breaking.site.until(elsewhere, "it runs elsewhere", 90)
        await until(lambda: len(breaking.lying("pods", name)) == 1, "there is one")
    finally:
        breaking.cluster.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service-", check=False)


async def test_a_node_that_is_taken_out_of_the_cluster_is_gone_and_its_pods_are_elsewhere(
    breaking: Field,
) -> None:
    await breaking.nodes(40)
    name = await breaking.deploy(onLoss={"replaceAfter": "2s"})
    status = await breaking.until_state(name, "running")
    node = status.replicas[0].node
    kubernetes = node.removeprefix(f"{breaking.name}-")
    document = json.loads(breaking.cluster.kubectl("get", "node", kubernetes, "-o", "json"))
    breaking.cluster.kubectl("delete", "node", kubernetes)
    try:

        def elsewhere() -> bool:
            last = breaking.site.last(name)
            return last.state == "running" and last.replicas[0].node != node

        await breaking.site.until(elsewhere, "it runs elsewhere", 90)
        await breaking.nodes(39)
    finally:
        metadata = {key: document["metadata"][key] for key in ("name", "labels")}
        fresh = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": document["status"]}
        breaking.cluster.kubectl("create", "-f", "-", given=yaml.safe_dump(fresh))


async def test_of_two_workers_one_acts_and_the_other_takes_over(breaking: Field) -> None:
    await breaking.nodes(40)
    breaking.start(instance="cluster-2")
    name = await breaking.deploy("one")
    await breaking.until_state(name, "running")
    first = breaking.workers[0]
    first.process.kill()
    first.process.wait()
    after = await breaking.deploy("two")
    await breaking.until_state(after, "running")
    # In order it is quicker: the lease is given up.
    breaking.start(instance="cluster-3")
    breaking.workers[1].stop()
    third = await breaking.deploy("three")
    await breaking.until_state(third, "running")


async def test_garbage_of_ours_is_collected_and_what_is_not_ours_never(breaking: Field) -> None:
    await breaking.nodes(40)
    name = await breaking.deploy(ports=[{"name": "http", "port": 80}])
    await breaking.until_state(name, "running")
    ours = breaking.one("services", name)
    # As if a worker had died between an object and the level that it came from.
    orphan = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "u-orphan",
            "namespace": breaking.namespace,
            "labels": {**ours["metadata"]["labels"], "minicloud.dev/deployment": "nobody"},
            "annotations": {"minicloud.dev/deployment": "nobody"},
        },
        "spec": {"ports": [{"port": 80}]},
    }
    foreign = {
        **orphan,
        "metadata": {
            "name": "u-foreign",
            "namespace": breaking.namespace,
            "labels": {**orphan["metadata"]["labels"], "minicloud.dev/minicloud": "another"},
        },
    }
    breaking.cluster.apply(foreign, orphan)

    def services() -> set[str]:
        told = breaking.cluster.kubectl("get", "services", "-n", breaking.namespace, "-o", "name")
        return {line.rpartition("/")[2] for line in told.split()}

    await until(lambda: services() == {"u-foreign", ours["metadata"]["name"]}, "the orphan is gone")
    breaking.workers[-1].process.kill()
    breaking.workers[-1].process.wait()
    breaking.cluster.apply(orphan)
    breaking.start()
    await until(lambda: services() == {"u-foreign", ours["metadata"]["name"]}, "it is gone again")


async def test_a_webhook_that_refuses_is_told_and_asked_again(breaking: Field) -> None:
    await breaking.nodes(40)
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"no-{breaking.name}"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["deployments"],
                    }
                ]
            },
            "validations": [{"expression": "false", "message": "the house says no"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"no-{breaking.name}"},
        "spec": {
            "policyName": f"no-{breaking.name}",
            "validationActions": ["Deny"],
            "matchResources": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": breaking.namespace}}
            },
        },
    }
    breaking.cluster.apply(policy, binding)
    try:

        def enforced() -> bool:
            told = breaking.cluster.kubectl(
                "create", "deployment", "probe", "--image=x", "-n", breaking.namespace, check=False
            )
            if told:
                breaking.cluster.kubectl("delete", "deployment", "probe", "-n", breaking.namespace)
            return not told

        await until(enforced, "the policy is enforced")
        name = await breaking.deploy()
        status = await breaking.until_state(name, "creating", reason="Refused")
        assert "the house says no" in status.message
    finally:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            breaking.cluster.kubectl("delete", kind, f"no-{breaking.name}")
    await breaking.until_state(name, "running")


@pytest.mark.timeout(900)
async def test_a_worker_that_is_killed_at_any_moment_leaves_nothing_undone_doubled_or_behind(
    breaking: Field,
) -> None:
    await breaking.nodes(40)
    chance = random.Random(11)
    wanted: dict[str, dict[str, Any]] = {}
    for kill in range(KILLS):
        for _ in range(2):
            word = f"d{chance.randrange(8)}"
            if word in wanted and chance.random() < 0.3:
                await breaking.site.cancel(breaking.site.name(word))
                del wanted[word]
            else:
                wanted[word] = {
                    "replicas": chance.randint(1, 4),
                    "env": {"V": str(chance.randrange(3))},
                    "ports": [{"name": "http", "port": 80}] if chance.random() < 0.5 else [],
                }
                await breaking.deploy(word, **wanted[word])
        worker = breaking.workers[-1]
        # Somewhere between its first step and the last one of what was just asked.
        await asyncio.sleep(chance.uniform(0.0, 1.5))
        worker.process.kill()
        worker.process.wait()
        breaking.start()
        if kill % 8 == 7:
            await asyncio.to_thread(
                breaking.workers[-1].wait_until,
                lambda: '"ready"' in breaking.workers[-1].text() or " ready " in breaking.workers[-1].text(),
            )

    def as_wanted() -> str:
        for word, fields in wanted.items():
            name = breaking.site.name(word)
            pods = breaking.lying("pods", name)
            if len(pods) != fields["replicas"] or any("deletionTimestamp" in p["metadata"] for p in pods):
                return f"{name}: {len(pods)} pods, {fields['replicas']} wanted"
            env = pods[0]["spec"]["containers"][0]["env"][0]["value"]
            if any(pod["spec"]["containers"][0]["env"][0]["value"] != fields["env"]["V"] for pod in pods):
                return f"{name}: {env}, {fields['env']} wanted"
            if len(breaking.lying("services", name)) != bool(fields["ports"]):
                return f"{name}: services"
        there = {
            one["metadata"]["annotations"]["minicloud.dev/deployment"]
            for one in breaking.lying("deployments,services,configmaps")
        }
        surplus = there - {breaking.site.name(word) for word in wanted}
        return f"left behind: {surplus}" if surplus else ""

    async with asyncio.timeout(240):
        while problem := await asyncio.to_thread(as_wanted):
            await asyncio.sleep(0.5)
            print(problem)
    for word in wanted:
        await breaking.until_state(breaking.site.name(word), "running")
    for status in breaking.site.statuses(breaking.site.name("d0")):
        assert status.state != "failed"
