"""Who may do what, and kinds of objects that Kubernetes does not have by itself."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.cluster.any_cluster import AnyCluster, until
from tests.cluster.cluster import Cluster


def _as(kubeconfig: Path) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def _reader(namespace: str, subject: dict[str, Any]) -> list[dict[str, Any]]:
    """A role that may list pods of a namespace, and who has it."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "reader", "namespace": namespace}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}
    to = {"apiGroup": group, "kind": "Role", "name": "reader"}
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": to}
    return [role, {**binding, "subjects": [subject]}]


def _may_only_list_pods(core: client.CoreV1Api, namespace: str) -> None:
    assert core.list_namespaced_pod(namespace).items == []
    for refused in (core.list_namespaced_secret, core.list_namespaced_config_map):
        with pytest.raises(ApiException) as forbidden:
            refused(namespace)
        assert forbidden.value.status == 403


def test_a_service_account_may_do_what_its_role_says(kubernetes: AnyCluster, namespace: str) -> None:
    kubeconfig = kubernetes.service_account("vim", namespace)
    subject = {"kind": "ServiceAccount", "name": "vim", "namespace": namespace}
    kubernetes.apply(*_reader(namespace, subject))
    _may_only_list_pods(_as(kubeconfig), namespace)


def test_a_user_with_a_certificate_may_do_what_its_role_says(own_kubernetes: Cluster, namespace: str) -> None:
    kubeconfig = own_kubernetes.user("somebody", ["readers"])
    subject = {"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"}
    own_kubernetes.apply(*_reader(namespace, subject))
    _may_only_list_pods(_as(kubeconfig), namespace)


def test_a_kind_of_our_own_lives_as_its_stages_say(own_kubernetes: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "lamps"
    folder.mkdir()
    (folder / "definition.yaml").write_text(
        dedent("""
            apiVersion: apiextensions.k8s.io/v1
            kind: CustomResourceDefinition
            metadata: {name: lamps.minicloud.dev}
            spec:
              group: minicloud.dev
              names: {kind: Lamp, plural: lamps}
              scope: Namespaced
              versions:
              - name: v1
                served: true
                storage: true
                subresources: {status: {}}
                schema:
                  openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
        """)
    )
    (folder / "stages.yaml").write_text(
        dedent("""
            apiVersion: kwok.x-k8s.io/v1alpha1
            kind: Stage
            metadata: {name: lamp-lit}
            spec:
              resourceRef: {apiGroup: minicloud.dev/v1, kind: Lamp}
              selector:
                matchExpressions:
                - jq: {key: '.status.lit', operator: DoesNotExist}
              steps:
              - patch: {subresource: status, root: status, type: merge, template: 'lit: true'}
        """)
    )
    own_kubernetes.add_kinds(folder)
    lamps = client.CustomObjectsApi(own_kubernetes.api)
    of = {"group": "minicloud.dev", "version": "v1", "plural": "lamps"}
    try:
        with own_kubernetes.namespace() as namespace:
            lamp = {"apiVersion": "minicloud.dev/v1", "kind": "Lamp", "metadata": {"name": "a"}}
            lamps.create_namespaced_custom_object(namespace=namespace, body=lamp, **of)

            def lit() -> bool:
                found = lamps.get_namespaced_custom_object(namespace=namespace, name="a", **of)
                return bool(found.get("status", {}).get("lit"))

            until(lit, "a lit lamp")
    finally:
        own_kubernetes.kill("kwok-lamps")
        own_kubernetes.kubectl("delete", "crd", "lamps.minicloud.dev", "--wait=false")
