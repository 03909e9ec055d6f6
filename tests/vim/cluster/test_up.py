"""``minicloud up --kubeconfig``: a machine and a cluster as one minicloud, used as people use it."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minicloud.client import Minicloud, connect
from minicloud.kubeconfig import clusters_of
from schemas.errors import InvalidDocument, InvalidName, NotFound, Unavailable
from tests.cluster.any_cluster import AnyCluster
from tests.journey.site import Site


@pytest.fixture
def stack(real_node: AnyCluster, real_namespace: str, tmp_path: Path) -> Iterator[Site]:
    """A stack with the full tier's cluster as ``lab``."""
    environment = {"MINICLOUD_NAMESPACE": real_namespace}
    site = Site(tmp_path / "data", "--kubeconfig", f"lab={real_node.kubeconfig}", environment=environment)
    site.start()
    yield site
    site.stop()


async def _node(cloud: Minicloud) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(Unavailable, NotFound):
                answer = await cloud.query("cluster.name=lab,cluster.ready", limit=10)
                if answer.total:
                    return
            await asyncio.sleep(0.1)


async def test_a_request_for_a_container_ends_on_the_cluster_and_serves(
    stack: Site, real_node: AnyCluster
) -> None:
    async with connect(stack.data) as cloud:
        await _node(cloud)
        request = {
            "name": "hello",
            "runtimes": ["container"],
            "images": {
                "container": {
                    "image": real_node.image,
                    "command": ["sh", "-c", "echo up; exec httpd -f -p $PORT -h /www"],
                }
            },
            "files": [{"path": "www/index.html", "content": "hello"}],
            "ports": [{"name": "http", "port": 8080}],
            "where": {"cluster.name": "lab"},
        }
        status = await cloud.deploy(request, timeout=90)
        assert status.state == "running", status
        (endpoint,) = status.replicas[0].endpoints
        page = f"http://{real_node.reach(endpoint['address'], endpoint['port'])}/"

        def read() -> str:
            with suppress(OSError), urllib.request.urlopen(page, timeout=5) as answer:
                said: bytes = answer.read()
                return said.decode()
            return ""

        async with asyncio.timeout(20):
            while await asyncio.to_thread(read) != "hello":
                await asyncio.sleep(0.1)
        assert await cloud.logs("hello") == {"hello-0": ["up"]}
        await cloud.cancel("hello")
        async with asyncio.timeout(40):
            while (await cloud.deployment("hello"))["state"] != "stopped":
                await asyncio.sleep(0.1)


def test_clusters_are_called_as_their_contexts_unless_named(tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    one.write_text("current-context: admin@home.k3s\n")
    assert clusters_of([str(one)]) == {"admin-home-k3s": one}
    assert clusters_of([f"attic={one}", f"cellar={one}"]) == {"attic": one, "cellar": one}
    with pytest.raises(InvalidDocument, match="two clusters are called"):
        clusters_of([str(one), str(one)])
    with pytest.raises(InvalidDocument, match="cannot be read"):
        clusters_of([str(tmp_path / "none")])
    one.write_text("a: b\n")
    with pytest.raises(InvalidDocument, match="no current context"):
        clusters_of([str(one)])
    one.write_text("current-context: x\n")
    with pytest.raises(InvalidName):
        clusters_of([f"a b={one}"])
