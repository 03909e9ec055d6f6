"""Containers against the real API server, on nodes that exist in the API only."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from schemas.decision import Decision
from tests.vim.cluster.field import Field, until


def _spec(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


async def test_a_deployment_runs_on_the_cluster_and_ends_without_a_trace(field: Field) -> None:
    nodes = await field.nodes(40)
    name = await field.deploy(
        replicas=3, ports=[{"name": "http", "port": 8080}], files=[{"path": "motd", "content": "hello"}]
    )
    status = await field.until_state(name, "running")
    assert [replica.node in nodes for replica in status.replicas] == [True] * 3
    assert {(one.cluster, one.engine) for one in status.replicas} == {(field.name, "k3s")}
    assert field.one("deployments", name)["spec"]["replicas"] == 3
    assert len(field.pods(name)) == 3
    await field.site.cancel(name)
    await field.until_state(name, "stopped")
    await until(lambda: not field.lying("deployments,pods,services,configmaps", name), "all is gone")


async def test_the_request_becomes_what_kubernetes_enforces(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(
        image={"image": "localhost/none:1", "command": ["serve", "$(PORT)"]},
        resources={"cpu": "250m", "memory": "64MiB"},
        env={"GREETING": "hello $(HOME)"},
        ports=[{"name": "http", "port": 8080}],
        health={"http": "/healthz", "every": "7s", "timeout": "2s", "failures": 4},
        files=[{"path": "etc/motd", "content": "hello"}, {"path": "key", "content": "k", "secret": True}],
        onLoss={"replaceAfter": "25s"},
        where={"rack": "rack-2"},
        spread={"over": "rack"},
    )
    await field.until_state(name, "running")
    deployment = field.one("deployments", name)
    spec = _spec(deployment)
    (container,) = spec["containers"]
    assert container["command"] == ["serve", "$(PORT)"]
    assert container["resources"]["limits"] == {"cpu": "250m", "memory": str(64 * 1024 * 1024)}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["GREETING"] == "hello $$(HOME)"
    assert (env["PORT"], env["MINICLOUD_DEPLOYMENT"]) == ("8080", name)
    ready, live = container["readinessProbe"], container["livenessProbe"]
    assert ready["httpGet"]["path"] == "/healthz"
    assert ready["httpGet"]["port"] == 8080
    assert (ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]) == (7, 2, 4)
    assert live["failureThreshold"] == 8
    assert container["startupProbe"]["periodSeconds"] == 1
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    assert {(one["key"].rpartition("/")[2], one["tolerationSeconds"]) for one in spec["tolerations"]} == {
        ("not-ready", 25),
        ("unreachable", 25),
    }
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (expression,) = term["matchExpressions"]
    able = {one.node.removeprefix(f"{field.name}-") for one in field.site.decisions(name)[-1].candidates}
    assert set(expression["values"]) == able
    assert len(able) > 1
    assert all(node.startswith("rack-2-") for node in expression["values"])
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "minicloud.dev/rack"
    assert field.one("configmaps", name)["data"] == {"f0": "hello"}
    assert list(field.one("secrets", name)["data"]) == ["f1"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert mounts == {"/etc/motd": "files-open", "/key": "files-secret"}
    assert field.one("services", name)["spec"]["type"] == "NodePort"


async def test_the_scheduler_puts_replicas_where_vim_chose(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=4)
    await field.until_state(name, "running")
    decision = field.site.decisions(name)[-1]
    chosen = {placement.node for placement in decision.placements}
    assert len(chosen) == 4
    names = {f"{field.name}-{pod['spec']['nodeName']}" for pod in field.pods(name)}
    assert names == chosen
    assert all(placement.driver == "kubernetes" for placement in decision.placements)
    assert f"k3s of cluster {field.name}" in field.site.decisions(name)[0].placements[0].reason


async def test_an_update_replaces_the_pods_and_a_repeat_nothing(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=2, env={"A": "1"})
    await field.until_state(name, "running", generation=1)
    first = {pod["metadata"]["uid"] for pod in field.pods(name)}
    await field.deploy(replicas=2, env={"A": "2"})
    await field.until_state(name, "running", generation=2)
    second = {pod["metadata"]["uid"] for pod in field.pods(name)}
    assert not first & second
    await until(lambda: len(field.lying("pods", name)) == 2, "the old pods are gone")
    await field.deploy(replicas=2, env={"A": "2"})
    await field.site.looks(2)
    assert {pod["metadata"]["uid"] for pod in field.pods(name)} == second


async def test_scaling_leaves_those_alone_that_stay_and_ends_those_that_vim_says(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=2)
    await field.until_state(name, "running", generation=1)
    two = {pod["metadata"]["name"] for pod in field.pods(name)}
    await field.deploy(replicas=5)
    status = await field.until_state(name, "running", generation=2)
    five = {pod["metadata"]["name"] for pod in field.pods(name)}
    assert two < five
    by_replica = {one.replica: one.reference for one in status.replicas}
    await field.deploy(replicas=3)
    await field.until_state(name, "running", generation=3)
    await until(lambda: len(field.lying("pods", name)) == 3, "two are gone")
    left = {f"pod/{field.namespace}/{pod['metadata']['name']}" for pod in field.pods(name)}
    assert left == {by_replica[replica] for replica in range(3)}
    await field.deploy(replicas=0)
    await field.until_state(name, "stopped", generation=4)
    await until(lambda: not field.lying("pods", name), "all are gone")


async def test_a_job_runs_to_its_end_and_is_not_run_again(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=2, restart="never")
    status = await field.until_state(name, "completed")
    assert {replica.state for replica in status.replicas} == {"completed"}
    jobs = field.lying("jobs", name)
    assert len(jobs) == 2
    field.cluster.kubectl("delete", "jobs", "-n", field.namespace, *[one["metadata"]["name"] for one in jobs])
    field.workers[-1].process.kill()
    field.workers[-1].process.wait()
    field.start()
    await field.site.looks(3)
    assert not field.lying("jobs", name)
    assert field.site.last(name).state == "completed"
    await field.site.cancel(name)
    await field.until_state(name, "stopped")


async def test_a_singleton_is_recreated_and_never_doubled(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(onLoss={"singleton": True}, env={"A": "1"})
    await field.until_state(name, "running", generation=1)
    deployment = field.one("deployments", name)
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    assert all("tolerationSeconds" not in one for one in _spec(deployment)["tolerations"])
    await field.deploy(onLoss={"singleton": True}, env={"A": "2"})
    await field.until_state(name, "running", generation=2)


async def test_what_was_deleted_by_hand_comes_back(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=2, ports=[{"name": "http", "port": 80}])
    await field.until_state(name, "running")
    before = field.one("deployments", name)["metadata"]["uid"]
    for kind in ("deployments", "services"):
        field.cluster.kubectl(
            "delete", kind, "-n", field.namespace, "-l", f"minicloud.dev/cluster={field.name}"
        )
    await until(lambda: field.lying("deployments", name), "it is made again")
    assert field.one("deployments", name)["metadata"]["uid"] != before
    await until(lambda: field.lying("services", name), "its service, too")
    status = await field.until_state(name, "running", reason="DriftCorrected")
    assert "deleted by others" in status.message
    assert len(field.pods(name)) == 2


async def test_what_others_took_away_is_set_right_and_told(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(env={"A": "1"})
    await field.until_state(name, "running")
    lying = field.one("deployments", name)["metadata"]["name"]
    away = [{"op": "remove", "path": "/spec/template/spec/containers/0/env/0"}]
    field.cluster.kubectl(
        "patch", "deployment", lying, "-n", field.namespace, "--type=json", "-p", json.dumps(away)
    )
    await until(
        lambda: _spec(field.one("deployments", name))["containers"][0]["env"][0]["name"] == "A",
        "the variable is back",
    )
    status = await field.until_state(name, "running", reason="DriftCorrected")
    assert "env" in status.message


async def test_a_label_that_was_taken_away_is_put_back(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy()
    await field.until_state(name, "running")
    lying = field.one("deployments", name)["metadata"]["name"]
    field.cluster.kubectl("label", "deployment", lying, "-n", field.namespace, "minicloud.dev/runtime-")
    await until(
        lambda: field.one("deployments", name)["metadata"]["labels"].get("minicloud.dev/runtime"),
        "it is back",
    )


async def test_a_field_that_another_holds_is_told_and_not_overwritten(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(replicas=2)
    await field.until_state(name, "running")
    lying = field.one("deployments", name)["metadata"]["name"]
    field.cluster.kubectl("scale", "deployment", lying, "-n", field.namespace, "--replicas=3")
    status = await field.until_state(name, "degraded", reason="OwnedByOthers")
    assert "spec.replicas" in status.message
    assert field.one("deployments", name)["spec"]["replicas"] == 3
    # Whoever held it gives it back.
    field.cluster.kubectl("scale", "deployment", lying, "-n", field.namespace, "--replicas=2")
    await field.until_state(name, "running")


async def test_an_object_of_somebody_else_under_our_name_is_left_alone(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy()
    await field.until_state(name, "running")
    ours = field.one("deployments", name)["metadata"]["name"]
    await field.site.cancel(name)
    await field.until_state(name, "stopped")
    await until(lambda: not field.lying("pods,deployments", name), "all is gone")
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": ours, "namespace": field.namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{"name": "a", "image": "localhost/none:1"}]},
            },
        },
    }
    field.cluster.apply(theirs)
    before = json.loads(field.cluster.kubectl("get", "deployment", ours, "-n", field.namespace, "-o", "json"))
    await field.deploy()
    status = await field.until_state(name, "creating", reason="OwnedByOthers")
    assert "left alone" in status.message
    await field.site.looks(2)
    after = json.loads(field.cluster.kubectl("get", "deployment", ours, "-n", field.namespace, "-o", "json"))
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    field.cluster.kubectl("delete", "deployment", ours, "-n", field.namespace)
    await field.until_state(name, "running")


async def test_a_quota_is_told_and_the_rest_comes_when_there_is_room(field: Field) -> None:
    await field.nodes(40)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": field.namespace},
        "spec": {"hard": {"pods": "1"}},
    }
    field.cluster.apply(quota)
    name = await field.deploy(replicas=2)
    status = await field.until_state(name, "creating", reason="QuotaExceeded")
    assert "exceeded quota" in status.message
    assert len(field.pods(name)) == 1
    field.cluster.apply({**quota, "spec": {"hard": {"pods": "9"}}})
    await field.until_state(name, "running")


async def test_what_cannot_be_an_image_is_refused_before_anything_is_made(field: Field) -> None:
    await field.nodes(40)
    name = await field.deploy(image={"image": "Not An Image"})
    status = await field.until_state(name, "failed", reason="ImageInvalid")
    assert "no reference" in status.message
    assert not field.lying("deployments", name)


async def test_what_fits_nowhere_now_is_told_by_the_scheduler_and_runs_when_it_does(field: Field) -> None:
    await field.nodes(40)
    cluster = field.cluster
    for node in ("rack-1-000", "rack-1-001"):
        cluster.kubectl("label", "node", node, f"room-{field.name}=yes")
    try:
        label = {f"label.room-{field.name}": "yes"}
        await field.nodes(2, **label)
        # What others run there vim does not see: the scheduler does.
        hog = {
            "apiVersion": "v1",
            "kind": "Pod",
            "spec": {
                "containers": [
                    {
                        "name": "a",
                        "image": "localhost/none:1",
                        "resources": {"requests": {"memory": "31Gi"}},
                    }
                ],
            },
        }
        for node in ("rack-1-000", "rack-1-001"):
            spec = {**hog["spec"], "nodeName": node}
            cluster.apply(
                {**hog, "metadata": {"name": f"hog-{node}", "namespace": field.namespace}, "spec": spec}
            )
        name = await field.deploy(where=label, resources={"memory": "4GiB"})
        status = await field.until_state(name, "creating", reason="Unschedulable")
        assert "Insufficient memory" in status.message
        cluster.kubectl("delete", "pod", "hog-rack-1-000", "-n", field.namespace, "--grace-period=0")
        await field.until_state(name, "running")
    finally:
        for node in ("rack-1-000", "rack-1-001"):
            cluster.kubectl("label", "node", node, f"room-{field.name}-")


async def test_where_the_scheduler_put_it_becomes_the_placement(field: Field) -> None:
    await field.nodes(40)
    cluster = field.cluster
    for node in ("rack-1-002", "rack-1-003"):
        cluster.kubectl("label", "node", node, f"two-{field.name}=yes")
    try:
        label = {f"label.two-{field.name}": "yes"}
        await field.nodes(2, **label)
        hog = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "hog", "namespace": field.namespace},
            "spec": {
                "nodeName": "rack-1-002",
                "containers": [
                    {
                        "name": "a",
                        "image": "localhost/none:1",
                        "resources": {"requests": {"memory": "31Gi"}},
                    }
                ],
            },
        }
        cluster.apply(hog)
        name = await field.deploy(where=label, resources={"memory": "4GiB"})

        def moved() -> Decision | None:
            decisions = field.site.decisions(name)
            chose = "scheduler of cluster"
            return next((one for one in decisions if chose in one.placements[0].reason), None)

        # Both nodes look alike to vim: it takes the first by name, where the hog sits.
        decision = await field.site.until(moved, "vim takes over where the scheduler put it")
        assert field.site.decisions(name)[0].placements[0].node == f"{field.name}-rack-1-002"
        assert decision.placements[0].node == f"{field.name}-rack-1-003"
        status = await field.until_state(name, "running")
        assert status.replicas[0].node == f"{field.name}-rack-1-003"
        attributes = await field.site.bus.request("rid", "node", {"node": f"{field.name}-rack-1-003"})
        assert 27 * 1024**3 < attributes["allocatable.memory"] <= 28 * 1024**3

        async def freed() -> bool:
            other = await field.site.bus.request("rid", "node", {"node": f"{field.name}-rack-1-002"})
            return bool(other["allocatable.memory"] == 32 * 1024**3)

        async with asyncio.timeout(20):
            while not await freed():
                await asyncio.sleep(0.1)
    finally:
        for node in ("rack-1-002", "rack-1-003"):
            cluster.kubectl("label", "node", node, f"two-{field.name}-")
