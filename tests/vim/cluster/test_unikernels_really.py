"""A unikernel in a pod on a real node: it serves HTTP, is told apart from a crash, and says what ran it."""

import tarfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services.vim.packaging.layout import Item
from services.vim.packaging.unikernel import Unikernel, package
from tests.cluster.cluster import Cluster
from tests.unikernel.conftest import guest, kernel, packed_qemu  # noqa: F401
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site

IMAGE = "localhost/hello-unikernel:1"
ENDS = "localhost/ends-unikernel:1"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(
    own_real_node: Cluster,
    packed_qemu: dict[str, Item],  # noqa: F811
    kernel: Path,  # noqa: F811
    guest: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Cluster:
    """The real node, which has the images of the example and of a kernel that ends as it is told."""
    for name, file in ((IMAGE, kernel), (ENDS, guest)):
        folder = tmp_path_factory.mktemp("image")
        made = Unikernel(file.read_bytes(), "x86_64", env={"GREETING": "hello out of a pod"})
        package(made, folder / "layout", name, packed_qemu)
        with tarfile.open(folder / "image.tar", "w") as tar:
            for path in sorted((folder / "layout").iterdir()):
                tar.add(path, path.name)
        own_real_node.nodes["real-1"].load(folder / "image.tar")
    return own_real_node


@pytest.fixture
async def real_field(site: Site, loaded: Cluster, real_namespace: str) -> AsyncIterator[Field]:
    made = Field(site, loaded, real_namespace)
    made.start()
    yield made
    made.stop()


def page(cluster: Cluster, address: str, port: int) -> str:
    """What is served there; nothing where nothing answers."""
    with (
        suppress(OSError),
        urllib.request.urlopen(f"http://{cluster.reach(address, port)}/", timeout=5) as answer,
    ):
        return str(answer.read().decode())
    return ""


async def deploy(field: Field, word: str, image: str, **fields: Any) -> str:
    unikernel = {"image": image, "arguments": fields.pop("arguments", [])}
    return await field.deploy(
        word, runtimes=["unikernel"], image=None, images={"unikernel": unikernel},
        resources={"memory": "16MiB"}, **fields,
    )  # fmt: skip


async def test_it_serves_from_a_pod_and_the_decision_says_why_there(
    real_field: Field, loaded: Cluster
) -> None:
    await real_field.nodes(1)
    name = await deploy(
        real_field, "hello", IMAGE, ports=[{"name": "http", "port": 8080}], env={"GREETING": 'good "day" $(HOME) ]'},
        health={"http": "/healthz"},
    )  # fmt: skip
    status = await real_field.until_state(name, "running")
    (replica,) = status.replicas
    assert (replica.engine, replica.cluster) == ("qemu-pod", real_field.name)
    (endpoint,) = replica.endpoints
    # Each node's proxy learns of a ready pod a moment after everybody else.
    said = await until(lambda: page(loaded, endpoint["address"], endpoint["port"]), "the page at the node")
    assert said.startswith('good "day" $(HOME) ] from a unikernel: ')
    (pod,) = real_field.pods(name)
    assert page(loaded, pod["status"]["podIP"], 8080).startswith('good "day"')
    decision = real_field.site.decisions(name)[-1]
    assert "qemu-pod of cluster" in decision.placements[0].reason
    assert "no urunc: the cluster has no RuntimeClass urunc" in decision.placements[0].reason
    await real_field.site.cancel(name)
    await real_field.until_state(name, "stopped")
    await until(lambda: not real_field.lying("deployments,pods,services,secrets", name), "all is gone")


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("clean", "completed", "Completed"),
        ("crash", "failed", "GuestCrashed"),
        ("reset", "failed", "GuestReset"),
    ],
)
async def test_a_job_ends_as_its_guest_did(real_field: Field, word: str, state: str, reason: str) -> None:
    await real_field.nodes(1)
    name = await deploy(real_field, word, ENDS, arguments=[word], restart="never")
    status = await real_field.until_state(name, state)
    assert status.replicas[0].reason == reason
