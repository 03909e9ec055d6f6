"""The first journey: this machine is characterized, indexed, chosen, and runs what one event asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

import minicloud
from schemas.decision import Decision, DeploymentStatus
from tests.journey.conftest import MakeSite
from tests.journey.requests import instances, job, page, started
from tests.journey.site import NODE, Site, eventually, witness
from tests.journey.waits import in_state
from tests.parts.process import free_port
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc
from tests.worker.conftest import needs_root


async def fetch(url: str) -> str:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        return (await http.get(url)).raise_for_status().text


async def ready(cloud: minicloud.Minicloud, **wanted: Any) -> dict[str, Any]:
    """This machine's attributes once the index offers it."""

    async def ask() -> dict[str, Any] | None:
        answer = await cloud.query(f"name={NODE},worker,state=alive", fields=["runtimes", "cpu.cores"])
        return dict(answer.nodes[0]) if answer.nodes else None

    found: dict[str, Any] = await eventually(ask, "the machine is in the index")
    return found


async def stopped(cloud: minicloud.Minicloud, deployment: str) -> None:
    await cloud.cancel(deployment, "the test is over")

    async def ask() -> bool:
        return (await cloud.deployment(deployment))["state"] in ("stopped", "rejected")

    await eventually(ask, f"{deployment} is stopped")


async def test_one_event_makes_a_page(site: Site, ground: Path, starts: Path) -> None:
    async with minicloud.connect(site.data) as cloud:
        await ready(cloud)
        told: list[DeploymentStatus | Decision] = []
        status = await cloud.deploy(page(ground, starts, "hello"), on_event=told.append)
        assert status.state == "running"
        (replica,) = status.replicas
        assert await fetch(replica.endpoints[0]["url"]) == "the page\n"
        (pid,) = started(starts, "hello")
        assert pid in instances(starts, "hello")

        # Why: the decision names the winner, the query that found it and what enforces each field.
        known = await cloud.deployment("hello")
        assert known["decision"]["placements"][0]["node"] == NODE
        assert known["decision"]["considered"] == 1
        assert {held["field"] for held in known["decision"]["enforced"]} >= {"resources.memory", "ports"}
        states = [event.state for event in told if isinstance(event, DeploymentStatus)]
        assert states[:2] == ["accepted", "scheduled"]
        assert states[-1] == "running"
        assert await cloud.logs("hello") == {"hello-0": ["hello-0 starts"]}

        await stopped(cloud, "hello")
        assert instances(starts, "hello") == []
        with pytest.raises(httpx.HTTPError):
            await fetch(replica.endpoints[0]["url"])
        assert list((site.data / "worker/workloads").iterdir()) == []


async def test_the_same_request_again_changes_nothing_and_another_is_the_next_generation(
    site: Site, ground: Path, starts: Path
) -> None:
    async with minicloud.connect(site.data) as cloud:
        await ready(cloud)
        request = page(ground, starts, "again")
        first = await cloud.deploy(request)
        async with witness(site) as seen:
            await cloud.request(request)
            await cloud.request(page(ground, starts, "again", env={"GREETING": "other"}))
            await seen.until(
                lambda event: (
                    event.subject.endswith("again.status")
                    and (event.data["generation"], event.data["to"]) == (2, "running")
                )
            )
            decided = [
                event.data["generation"] for event in seen.seen if event.subject.endswith("again.decision")
            ]
        assert first.generation == 1
        assert decided == [2]
        assert len(started(starts, "again")) == 2
        assert len(instances(starts, "again")) == 1
        await stopped(cloud, "again")


async def test_a_job_runs_once_and_completes(site: Site, starts: Path) -> None:
    async with minicloud.connect(site.data) as cloud:
        await ready(cloud)
        await cloud.deploy(job(starts, "job"))  # it may be seen running, or not before its end
        await in_state(cloud, "job", "completed")
        assert len(started(starts, "job")) == 1
        await stopped(cloud, "job")


def build(images: Path, what: str, wanted: Path, **environment: str) -> None:
    made = subprocess.run(
        ["make", "-C", images, what, "PYTHON=/usr/bin/python3"],
        capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
    )  # fmt: skip
    if not wanted.exists():
        pytest.skip(f"not built here: {made.stdout}{made.stderr}")


def search(programs: Path) -> dict[str, str]:
    """The environment of a site that finds its runtimes' programs in a folder of the test's."""
    return {"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}


@needs_root
async def test_one_event_makes_a_container(
    make_site: MakeSite, ground: Path, images: Path, programs: Path, runc: Runc
) -> None:
    shutil.copy(ground / "busybox", programs / "busybox")
    (programs / "runc").symlink_to(runc.obtain())
    build(
        images, "container", images / "hello-container/hello-oci/index.json", PATH=f"{programs}:/usr/bin:/bin"
    )
    site = make_site(environment=search(programs))
    site.start()
    async with minicloud.connect(site.data) as cloud:
        assert "container" in (await ready(cloud))["runtimes"]
        status = await cloud.deploy({
            "name": "box", "runtimes": ["container", "process"],
            "images": {"container": {"layout": str(images / "hello-container/hello-oci")},
                       "process": {"command": ["false"]}},
            "resources": {"cpu": "250m", "memory": "32MiB"}, "ports": [{"name": "http", "port": free_port()}],
            "env": {"GREETING": "good evening"}, "health": {"http": "/"},
        })  # fmt: skip
        (replica,) = status.replicas
        assert (status.state, replica.runtime) == ("running", "container"), site.logs()
        assert "good evening" in await fetch(replica.endpoints[0]["url"])
        await stopped(cloud, "box")


@pytest.mark.slow
async def test_one_event_makes_a_unikernel(
    make_site: MakeSite, images: Path, programs: Path, qemu: Qemu
) -> None:
    (programs / "qemu-system-x86_64").symlink_to(qemu.obtain())
    build(images, "unikernel", images / "hello-unikernel/hello.elf")
    site = make_site(environment=search(programs))
    site.start()
    async with minicloud.connect(site.data) as cloud:
        assert "unikernel" in (await ready(cloud))["runtimes"], site.logs()
        status = await cloud.deploy({
            "name": "uni", "runtimes": ["unikernel"],
            "images": {"unikernel": {"kernel": str(images / "hello-unikernel/hello.elf"),
                                     "arguments": ["$(PORT)"]}},
            "resources": {"cpu": "250m", "memory": "64MiB"}, "ports": [{"name": "http", "port": free_port()}],
            "env": {"GREETING": "hello from nowhere"}, "health": {"http": "/"},
        })  # fmt: skip
        (replica,) = status.replicas
        assert (status.state, replica.runtime) == ("running", "unikernel"), site.logs()
        assert "hello from nowhere" in await fetch(replica.endpoints[0]["url"])
        await stopped(cloud, "uni")
