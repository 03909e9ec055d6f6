"""A cluster's worker in a process of its own, between a minicloud and a real API server; and what tests ask both."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from bus.credentials import Credential
from schemas.decision import DeploymentStatus
from schemas.errors import Unavailable
from tests.cluster.any_cluster import AnyCluster
from tests.parts.process import PartProcess
from tests.vim.site import Site

#: An image that nothing pulls on nodes that exist in the API only.
IMAGE = "localhost/none:1"


class Field:
    """One cluster in one minicloud.

    Args:
        site: the minicloud.
        cluster: the real part.
        namespace: where its workloads lie.
        name: the cluster's name in the minicloud.
    """

    def __init__(self, site: Site, cluster: AnyCluster, namespace: str, name: str | None = None) -> None:
        self.site = site
        self.cluster = cluster
        self.namespace = namespace
        self.kubeconfig = cluster.kubeconfig
        self.name = name or f"k{secrets.token_hex(3)}"
        self.workers: list[PartProcess] = []
        self._credential: Credential | None = None

    def start(
        self, *, kubeconfig: Path | None = None, instance: str = "cluster-1", **more: str
    ) -> PartProcess:
        """A worker of the cluster, by a credential that may do no more than it must."""
        stack = self.site.stack
        if self._credential is None:
            self._credential = stack.credentials.add("cluster", self.name)
        settings = {
            "MINICLOUD_CLUSTER": self.name,
            "MINICLOUD_KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "MINICLOUD_NAMESPACE": self.namespace,
            "MINICLOUD_INSTANCE": instance,
            "MINICLOUD_BEAT": "2",
            "MINICLOUD_LOG_LEVEL": "info",
            **more,
        }
        worker = stack.start("services.vim.cluster", credential=self._credential, **settings)
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        """End its workers."""
        for worker in self.workers:
            worker.stop()

    # -- the minicloud ---------------------------------------------------------------------------

    async def nodes(self, count: int, seconds: float = 40.0, **where: Any) -> list[str]:
        """The names of the cluster's nodes that can run something, once there are so many."""
        ask = {
            "where": {"cluster.name": self.name, "cluster.runtimes": "container", "state": "alive", **where},
            "limit": 1000,
        }
        async with asyncio.timeout(seconds):
            while True:
                with suppress(Unavailable):
                    answer = await self.site.bus.request("rid", "query", ask)
                    if answer["total"] == count:
                        return sorted(node["name"] for node in answer["nodes"])
                await asyncio.sleep(0.05)

    async def deploy(self, word: str = "c", **fields: Any) -> str:
        """Publish a request for containers on this cluster; returns the deployment's id."""
        image = fields.pop("image", {"image": IMAGE})
        where = {"cluster.name": self.name, **fields.pop("where", {})}
        request = {"runtimes": ["container"], "images": {"container": image}, "where": where, **fields}
        await self.site.publish(self.site.name(word), "request", request)
        return self.site.name(word)

    async def until_state(self, deployment: str, state: str, **more: Any) -> DeploymentStatus:
        try:
            return await self.site.until_state(deployment, state, **{"seconds": 60.0, **more})
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.workers[-1].text()[-3000:]}\n{self.told()}") from None

    # -- the cluster -----------------------------------------------------------------------------

    def lying(self, kind: str, deployment: str | None = None) -> list[dict[str, Any]]:
        """Objects of ours in the namespace, of one deployment or of all."""
        words = ["get", kind, "-n", self.namespace, "-o", "json", "-l", f"minicloud.dev/cluster={self.name}"]
        items: list[dict[str, Any]] = json.loads(self.cluster.kubectl(*words))["items"]
        return [
            item
            for item in items
            if deployment in (None, item["metadata"].get("annotations", {}).get("minicloud.dev/deployment"))
        ]

    def one(self, kind: str, deployment: str) -> dict[str, Any]:
        """The only object of a kind."""
        (found,) = self.lying(kind, deployment)
        return found

    def pods(self, deployment: str) -> list[dict[str, Any]]:
        """Its pods that were not told to end."""
        return [pod for pod in self.lying("pods", deployment) if "deletionTimestamp" not in pod["metadata"]]

    def told(self) -> str:
        """What the cluster says of everything in the namespace, for whoever reads a failure."""
        with suppress(AssertionError, ApiException):
            return self.cluster.kubectl("get", "all", "-n", self.namespace, "-o", "wide", check=False)[-3000:]
        return ""


async def until(condition: Callable[[], Any], what: str = "it", seconds: float = 30.0) -> Any:
    """Wait until the cluster says so."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := await asyncio.to_thread(condition)):
                await asyncio.sleep(0.1)
            return found
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
