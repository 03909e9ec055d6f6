"""The full tier: pods really run on a real node, which can break in every way that a machine breaks."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.any_cluster import AnyCluster, until
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import PATIENT
from tests.cluster.fixtures import FAST, FULL
from tests.cluster.node import Node
from tests.cluster.racks import RACK
from tests.parts.part import Part

_SERVE = "mkdir -p /tmp/www; echo hello from a pod > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"

#: Not on a node that only pretends, where the cluster has such.
_REALLY = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": RACK, "operator": "DoesNotExist"}]}]
    }
}


def _pod(cluster: AnyCluster, command: str, **container: Any) -> dict[str, Any]:
    run = {"name": "a", "image": cluster.image, "command": ["sh", "-c", command], **container}
    spec = {"containers": [run], "terminationGracePeriodSeconds": 0, "affinity": {"nodeAffinity": _REALLY}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"app": "a"}},
        "spec": spec,
    }


def _state(cluster: AnyCluster, namespace: str) -> client.V1ContainerStatus | None:
    said = cluster.core.read_namespaced_pod("a", namespace).status.container_statuses
    return said[0] if said else None


def _until(cluster: AnyCluster, namespace: str, ready: Callable[[client.V1ContainerStatus], Any]) -> None:
    def looked() -> bool:
        state = _state(cluster, namespace)
        return state is not None and bool(ready(state))

    until(looked, "the container's state")


def _page(cluster: AnyCluster, address: str, port: int) -> str:
    with urllib.request.urlopen(f"http://{cluster.reach(address, port)}/", timeout=5) as answer:
        said: bytes = answer.read()
    return said.decode()


def test_a_pod_serves_its_page_by_its_own_address_and_by_its_service(
    real_node: AnyCluster, real_namespace: str
) -> None:
    core = real_node.core
    core.create_namespaced_pod(real_namespace, _pod(real_node, _SERVE))
    service = {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]}
    address = core.create_namespaced_service(real_namespace, {"metadata": {"name": "a"}, "spec": service})
    _until(real_node, real_namespace, lambda state: state.ready)
    pod = core.read_namespaced_pod("a", real_namespace).status.pod_ip

    def answers(at: str, port: int) -> Callable[[], bool]:
        def look() -> bool:
            try:
                return _page(real_node, at, port) == "hello from a pod\n"
            except OSError:
                return False

        return look

    until(answers(pod, 8080), "the page of the pod")
    until(answers(address.spec.cluster_ip, 80), "the page of the service")
    assert real_node.kubectl("exec", "-n", real_namespace, "a", "--", "echo", "heard") == "heard\n"


def test_a_pod_that_outgrows_its_memory_is_oom_killed(real_node: AnyCluster, real_namespace: str) -> None:
    hungry = _pod(real_node, "tail /dev/zero", resources={"limits": {"memory": "16Mi"}})
    real_node.core.create_namespaced_pod(real_namespace, hungry)
    _until(real_node, real_namespace, lambda state: state.last_state.terminated or state.state.terminated)
    state = _state(real_node, real_namespace)
    ended = state.last_state.terminated or state.state.terminated
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


def test_a_pod_that_crashes_is_started_again_and_backs_off(
    real_node: AnyCluster, real_namespace: str
) -> None:
    real_node.core.create_namespaced_pod(real_namespace, _pod(real_node, "echo going down; exit 3"))
    _until(
        real_node,
        real_namespace,
        lambda state: state.state.waiting and state.state.waiting.reason == "CrashLoopBackOff",
    )
    state = _state(real_node, real_namespace)
    assert state.last_state.terminated.exit_code == 3
    assert "going down" in real_node.kubectl("logs", "-n", real_namespace, "a")


def test_pods_of_an_unplugged_node_run_on_and_are_the_same_when_it_is_back(own_real_node: Cluster) -> None:
    node = own_real_node.nodes["real-1"]
    with own_real_node.namespace() as namespace:
        patient = [{"operator": "Exists"}]
        pod = _pod(own_real_node, "sleep infinity")
        pod["spec"]["tolerations"] = patient
        own_real_node.core.create_namespaced_pod(namespace, pod)
        _until(own_real_node, namespace, lambda state: state.ready)
        container = _state(own_real_node, namespace).container_id.rpartition("/")[2]
        node.unplug()
        try:
            until(lambda: not own_real_node.ready_nodes(), "NotReady")
            assert _runs(node, container)
        finally:
            node.plug()
        until(lambda: own_real_node.ready_nodes() == {"real-1"}, "Ready again")
        _until(own_real_node, namespace, lambda state: state.ready)
        assert _state(own_real_node, namespace).container_id.rpartition("/")[2] == container
        assert _state(own_real_node, namespace).restart_count == 0


def test_a_node_without_power_comes_back_with_its_pods_started_again(own_real_node: Cluster) -> None:
    node = own_real_node.nodes["real-1"]
    with own_real_node.namespace() as namespace:
        pod = _pod(own_real_node, "sleep infinity")
        pod["spec"]["tolerations"] = [{"operator": "Exists"}]
        own_real_node.core.create_namespaced_pod(namespace, pod)
        _until(own_real_node, namespace, lambda state: state.ready)
        node.cut_power()
        until(lambda: not own_real_node.ready_nodes(), "NotReady")
        own_real_node.power_on(node)
        _until(own_real_node, namespace, lambda state: state.restart_count == 1 and state.ready)


def test_pods_outlive_the_kubelet(own_real_node: Cluster) -> None:
    node = own_real_node.nodes["real-1"]
    with own_real_node.namespace() as namespace:
        own_real_node.core.create_namespaced_pod(namespace, _pod(own_real_node, "sleep infinity"))
        _until(own_real_node, namespace, lambda state: state.ready)
        container = _state(own_real_node, namespace).container_id.rpartition("/")[2]
        own_real_node.kill("kubelet")
        assert _runs(node, container)
        own_real_node.start_again("kubelet")
        own_real_node.core.delete_namespaced_pod("a", namespace)
        until(lambda: not _runs(node, container), "the end of the container")


def _runs(node: Node, container: str) -> bool:
    return any(container in line and "RUNNING" in line for line in node.ctr("tasks", "list").splitlines())


@pytest.mark.timeout(400)  # 30 s on an idle machine
def test_the_whole_full_tier_comes_up_with_several_real_nodes_and_500_others(
    part: Callable[[Part], Part],
) -> None:
    for needed in (*FAST, *FULL):
        part(needed)
    with Cluster.up(pace=PATIENT) as cluster:
        cluster.add_tier_full()
        cluster.add_node("real-2", handlers=["urunc"])
        assert len(cluster.ready_nodes()) == 502
        second = cluster.core.read_node("real-2").status
        assert "urunc" in {handler.name for handler in second.runtime_handlers}
        assert second.node_info.machine_id != cluster.core.read_node("real-1").status.node_info.machine_id
