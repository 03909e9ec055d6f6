"""A Kubernetes cluster as its administrator's kubeconfig shows it: ours, or any other that was named to us."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.cluster import kubeconfig
from tests.parts.kubernetes import KubernetesServers
from tests.parts.process import PartProcess

_TOKEN_S: Final = 3600


class AnyCluster:
    """What tests may do with every cluster.

    Args:
        kubeconfig: a file with an administrator's rights.

    Attributes:
        clients: kubeconfigs that are made go into this folder.
        image: of a container with busybox, which its real nodes have or can pull.
    """

    image: str = os.environ.get("MINICLOUD_TEST_IMAGE", "docker.io/library/busybox:stable")

    def __init__(self, kubeconfig: Path, clients: Path) -> None:
        self.kubeconfig = kubeconfig
        self.clients = clients
        self._forwards: dict[tuple[str, int], PartProcess] = {}

    @cached_property
    def api(self) -> client.ApiClient:
        """The official client, for its typed classes; with the administrator's rights."""
        return config.new_client_from_config(str(self.kubeconfig))

    @cached_property
    def core(self) -> client.CoreV1Api:
        """Pods, nodes, services, and what else has no group."""
        return client.CoreV1Api(self.api)

    def kubectl(self, *words: str, given: str | None = None, check: bool = True) -> str:
        """What ``kubectl`` says; ``given`` is its standard input."""
        done = subprocess.run(
            [self._kubectl(), "--kubeconfig", self.kubeconfig, *words],
            input=given, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"kubectl {' '.join(words)}: {done.stderr.strip()}"
        return done.stdout

    def _kubectl(self) -> str | Path:
        return shutil.which("kubectl") or KubernetesServers().obtain() / "kubectl"

    def apply(self, *documents: dict[str, Any]) -> None:
        """Make objects, or change them, as their owner (``kubectl apply --server-side``)."""
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(documents))

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """A namespace of a test's own, ready for pods; on its way out at the end."""
        name = f"t{secrets.token_hex(4)}"
        self.core.create_namespace({"metadata": {"name": name}})
        try:
            self.wait_for_service_account(name)
            yield name
        finally:
            self.core.delete_namespace(name, grace_period_seconds=0)

    def wait_for_service_account(self, namespace: str) -> None:
        """Until then pods of a new namespace are refused."""
        until(lambda: _exists(lambda: self.core.read_namespaced_service_account("default", namespace)))

    def service_account(self, name: str, namespace: str) -> Path:
        """A kubeconfig with the token of a service account, which is made where there is none."""
        if not _exists(lambda: self.core.read_namespaced_service_account(name, namespace)):
            self.core.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
        token = self.core.create_namespaced_service_account_token(
            name, namespace, {"spec": {"expirationSeconds": _TOKEN_S}}
        ).status.token
        path = self.clients / f"{namespace}-{name}.yaml"
        return kubeconfig.write(path, **self._server(), user=kubeconfig.by_token(token), namespace=namespace)

    def reach(self, address: str, port: int) -> str:
        """``host:port`` by which we reach an address of the cluster: of a pod, a service, or a node."""
        if (address, port) not in self._forwards:
            target = self._owner(address)
            if target is None:
                return f"{address}:{port}"
            self._forwards[address, port] = self._forward(*target, port)
        return "127.0.0.1:" + self._forwards[address, port].text().split()[2].rpartition(":")[2]

    def close(self) -> None:
        """End what :meth:`reach` began."""
        for forward in self._forwards.values():
            forward.stop()
        self._forwards.clear()

    def _owner(self, address: str) -> tuple[str, str] | None:
        """Namespace and name of the pod or the service that has an address."""
        for pod in self.core.list_pod_for_all_namespaces(field_selector=f"status.podIP={address}").items:
            if not pod.spec.host_network:
                return pod.metadata.namespace, f"pod/{pod.metadata.name}"
        for service in self.core.list_service_for_all_namespaces().items:
            if service.spec.cluster_ip == address:
                return service.metadata.namespace, f"service/{service.metadata.name}"
        return None

    def _forward(self, namespace: str, target: str, port: int) -> PartProcess:
        """A tunnel through the API server: few clusters show their pods' addresses to the outside."""
        self.clients.mkdir(parents=True, exist_ok=True)
        output = self.clients / f"{namespace}-{target.replace('/', '-')}-{port}.log"
        command = ["setpriv", "--pdeathsig", "TERM", self._kubectl(), "--kubeconfig", self.kubeconfig]
        forward = PartProcess(
            [*command, "port-forward", "--namespace", namespace, target, f":{port}"], output
        )
        try:
            forward.wait_until(lambda: "Forwarding from" in forward.text())
        except BaseException:
            forward.kill()
            raise
        return forward

    def establish(self, definitions: list[dict[str, Any]]) -> None:
        """Define custom resources and wait until they are served and described (a KWOK exits before that)."""
        if not definitions:
            return
        self.apply(*definitions)
        names = [f"crd/{definition['metadata']['name']}" for definition in definitions]
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        for definition in definitions:
            spec = definition["spec"]
            for version in spec["versions"]:
                path = f"/openapi/v3/apis/{spec['group']}/{version['name']}"
                until(
                    partial(self._describes, path, spec["names"]["kind"]),
                    f"{spec['names']['kind']} in {path}",
                )

    def ready_nodes(self, selector: str = "") -> set[str]:
        """The names of the nodes that are Ready."""
        # Not as the client's classes: hundreds of nodes would take it most of a second.
        answer = self.core.list_node(label_selector=selector, resource_version="0", _preload_content=False)
        return {
            node["metadata"]["name"]
            for node in json.loads(answer.data)["items"]
            if {"Ready": "True"}.items()
            <= {said["type"]: said["status"] for said in node["status"].get("conditions", [])}.items()
        }

    def _describes(self, path: str, kind: str) -> bool:
        answer = self.api.call_api("GET", f"{self.api.configuration.host}{path}")
        return answer.status == 200 and f'"kind":"{kind}"'.encode() in answer.read()

    def _server(self) -> dict[str, Any]:
        """Address and authority, for another kubeconfig of the same cluster."""
        document = yaml.safe_load(self.kubeconfig.read_text())
        context = next(c["context"] for c in document["contexts"] if c["name"] == document["current-context"])
        cluster = next(c["cluster"] for c in document["clusters"] if c["name"] == context["cluster"])
        return {
            "server": cluster["server"],
            "authority": kubeconfig.authority_of(cluster, self.kubeconfig.parent),
        }


def until(ready: Callable[[], bool], what: str = "it", timeout: float = 60) -> None:
    """Wait for a condition that the API tells; AssertionError if it takes too long."""
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come in {timeout:g} s"
        time.sleep(0.05)


def _exists(read: Callable[[], Any]) -> bool:
    try:
        read()
    except ApiException as error:
        if error.status == 404:
            return False
        raise
    return True
