"""The stack's own end and return: killed it leaves workloads to the next, stopped it stops them; none is doubled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

import minicloud
from tests.journey.record import Record, node_must_hold
from tests.journey.requests import instances, job, page, started
from tests.journey.site import Site, eventually, witness
from tests.journey.waits import alive, in_state


async def answers(url: str) -> bool:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        return (await http.get(url)).text == "the page\n"


async def test_a_killed_stack_leaves_its_workloads_to_the_next(
    own_site: Site, ground: Path, starts: Path
) -> None:
    own_site.start()
    async with minicloud.connect(own_site.data) as cloud:
        await alive(cloud)
        url = (await cloud.deploy(page(ground, starts, "stays"))).replicas[0].endpoints[0]["url"]
        await cloud.deploy(job(starts, "done"))
        await in_state(cloud, "done", "completed")
    (pid,) = started(starts, "stays")
    worker = own_site.pid("worker")
    own_site.kill("up")
    await eventually(lambda: not Path(f"/proc/{worker}").exists(), "the worker ends with its parent")
    assert await answers(url)
    assert instances(starts, "stays") == [pid]

    own_site.start()
    async with minicloud.connect(own_site.data) as cloud, witness(own_site) as seen:
        await in_state(cloud, "stays", "running")
        await in_state(cloud, "done", "completed")
        await alive(cloud)
        assert await answers(url)
        (await Record.of(seen.bus, "stays")).must_hold(starts, "running")
        (await Record.of(seen.bus, "done")).must_hold(starts, "completed")
        await node_must_hold(own_site, seen.bus)


@pytest.mark.slow
async def test_a_stopped_stack_starts_again_what_had_not_ended(
    own_site: Site, ground: Path, starts: Path
) -> None:
    own_site.start()
    async with minicloud.connect(own_site.data) as cloud:
        await alive(cloud)
        await cloud.deploy(page(ground, starts, "again"))
        await cloud.deploy(job(starts, "once"))
        await in_state(cloud, "once", "completed")
    own_site.stop()
    assert instances(starts, "again") == []

    own_site.start()
    async with minicloud.connect(own_site.data) as cloud:
        await alive(cloud)
        await in_state(cloud, "again", "running")
        await in_state(cloud, "once", "completed")
        assert len(instances(starts, "again")) == 1
        assert len(started(starts, "again")) == 2
        assert len(started(starts, "once")) == 1, "a job that had ended was run again"
        assert {one["deployment"]: one["generation"] for one in await cloud.deployments()} == {
            "again": 1,
            "once": 1,
        }


def test_a_second_stack_over_the_same_folder_is_refused(site: Site) -> None:
    second = Site(site.data)
    second.log = site.data.with_suffix(".second")
    second.start(wait=False)
    assert second.process is not None
    try:
        assert second.process.wait(30) != 0
    except subprocess.TimeoutExpired:
        second.stop()
        raise
    assert "another process runs a broker here" in second.log.read_text()
    second.log.unlink()
    assert site.pid("broker") is not None
