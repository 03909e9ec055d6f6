"""The fast tier: a control plane that does its work, and racks that can be lost."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.cluster.any_cluster import AnyCluster, until
from tests.cluster.cluster import Cluster
from tests.cluster.racks import RACK


def _deployment(replicas: int, labels: dict[str, str] | None = None) -> dict[str, Any]:
    spread = {
        "maxSkew": 1,
        "topologyKey": RACK,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "a"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {
                    "containers": [{"name": "a", "image": "localhost/none:1"}],
                    "topologySpreadConstraints": [spread],
                },
            },
        },
    }


def test_every_node_of_both_racks_is_ready(own_kubernetes: Cluster) -> None:
    assert len(own_kubernetes.ready_nodes(f"{RACK}=rack-1")) == 20
    assert len(own_kubernetes.ready_nodes(f"{RACK}=rack-2")) == 20


def test_a_deployment_becomes_available(kubernetes: AnyCluster, namespace: str) -> None:
    apps = client.AppsV1Api(kubernetes.api)
    apps.create_namespaced_deployment(namespace, _deployment(4))
    until(lambda: apps.read_namespaced_deployment("a", namespace).status.available_replicas == 4)


def test_nodes_of_a_lost_rack_are_not_ready_and_their_pods_move(own_kubernetes: Cluster) -> None:
    apps = client.AppsV1Api(own_kubernetes.api)
    with own_kubernetes.namespace() as namespace:
        apps.create_namespaced_deployment(namespace, _deployment(4))

        def placed() -> set[str]:
            pods = own_kubernetes.core.list_namespaced_pod(namespace).items
            return {
                pod.spec.node_name
                for pod in pods
                if pod.metadata.deletion_timestamp is None and pod.status.phase == "Running"
            }

        until(lambda: len(placed()) == 4)
        assert {node[:6] for node in placed()} == {"rack-1", "rack-2"}
        own_kubernetes.kill("kwok-rack-1")
        try:
            until(lambda: not own_kubernetes.ready_nodes(f"{RACK}=rack-1"), "rack-1 NotReady")
            assert len(own_kubernetes.ready_nodes(f"{RACK}=rack-2")) == 20
            until(lambda: len(placed()) == 4 and {node[:6] for node in placed()} == {"rack-2"})
        finally:
            own_kubernetes.start_again("kwok-rack-1")
        until(lambda: len(own_kubernetes.ready_nodes(f"{RACK}=rack-1")) == 20, "rack-1 Ready again")


def test_an_api_server_that_is_down_refuses_and_then_forgets_what_was_before(own_kubernetes: Cluster) -> None:
    core = own_kubernetes.core
    with own_kubernetes.namespace() as namespace:
        before = core.list_namespaced_config_map(namespace).metadata.resource_version
        core.create_namespaced_config_map(namespace, {"metadata": {"name": "later"}})
        own_kubernetes.kill("apiserver")
        try:
            with pytest.raises(HTTPError, match="Connection refused"):
                core.list_namespaced_config_map(namespace)
        finally:
            own_kubernetes.start_again("apiserver")
        with pytest.raises(ApiException) as gone:
            for _ in watch.Watch().stream(
                core.list_namespaced_config_map, namespace, resource_version=before, timeout_seconds=10
            ):
                pass
        assert gone.value.status == 410
        kept = {item.metadata.name for item in core.list_namespaced_config_map(namespace).items}
        assert "later" in kept
