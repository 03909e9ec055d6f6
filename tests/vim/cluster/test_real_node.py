"""Containers on a real node: they serve, are replaced, crash, outgrow their memory, and say so."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from bus.printed import follow_printed, last_printed
from tests.cluster.any_cluster import AnyCluster
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site

_SERVE = {"command": ["httpd", "-f", "-p", "8080", "-h", "/www"]}
_PORTS = [{"name": "http", "port": 8080}]


@pytest.fixture
async def real(site: Site, real_node: AnyCluster, real_namespace: str) -> AsyncIterator[Field]:
    """A worker of the full tier."""
    made = Field(site, real_node, real_namespace)
    made.start()
    yield made
    made.stop()


def _image(real: Field, *words: str) -> dict[str, Any]:
    return {"image": real.cluster.image, "command": list(words)}


def _page(real: Field, endpoint: dict[str, Any]) -> str:
    with suppress(OSError):
        where = real.cluster.reach(endpoint["address"], endpoint["port"])
        with urllib.request.urlopen(f"http://{where}/", timeout=5) as answer:
            said: bytes = answer.read()
            return said.decode()
    return ""


async def _serve(real: Field, page: str, **more: Any) -> str:
    return await real.deploy(
        image={"image": real.cluster.image, **_SERVE},
        files=[{"path": "www/index.html", "content": page}],
        ports=_PORTS,
        **more,
    )


async def test_the_first_journey_to_the_page_its_update_and_its_end(real: Field) -> None:
    await real.nodes(1)
    name = await _serve(real, "hello", health={"http": "/"}, resources={"cpu": "100m", "memory": "32MiB"})
    status = await real.until_state(name, "running", generation=1)
    (endpoint,) = status.replicas[0].endpoints
    assert endpoint["port"] >= 30000
    await until(lambda: _page(real, endpoint) == "hello", "the page")
    await _serve(real, "good bye", health={"http": "/"}, resources={"cpu": "100m", "memory": "32MiB"})
    status = await real.until_state(name, "running", generation=2)
    (endpoint,) = status.replicas[0].endpoints
    await until(lambda: _page(real, endpoint) == "good bye", "the other page")
    await _serve(
        real, "good bye", health={"http": "/"}, replicas=3, resources={"cpu": "100m", "memory": "32MiB"}
    )
    status = await real.until_state(name, "running", generation=3)
    assert len({replica.reference for replica in status.replicas}) == 3
    await real.site.cancel(name)
    await real.until_state(name, "stopped")
    await until(lambda: not real.lying("all,configmaps", name), "all is gone")


async def test_a_port_that_is_pinned_is_the_nodes_own(real: Field) -> None:
    await real.nodes(1)
    name = await real.deploy(
        image={"image": real.cluster.image, **_SERVE},
        files=[{"path": "www/index.html", "content": "pinned"}],
        ports=[{"name": "http", "port": 8080, "hostPort": 8099}],
    )
    status = await real.until_state(name, "running")
    (endpoint,) = status.replicas[0].endpoints
    assert endpoint["port"] == 8099
    await until(lambda: _page(real, endpoint) == "pinned", "the page")


async def test_what_crashes_is_started_again_and_what_it_said_can_be_read(real: Field) -> None:
    await real.nodes(1)
    name = await real.deploy(image=_image(real, "sh", "-c", "echo going down; exit 3"))
    status = await real.until_state(name, "starting", reason="CrashLoopBackOff")
    assert "exited with 3" in status.message
    assert status.replicas[0].restarts >= 1
    (printed,) = await last_printed(real.site.bus, name)
    assert printed.lines[-1] == "going down"


async def test_what_a_running_workload_prints_can_be_followed(real: Field) -> None:
    await real.nodes(1)
    count = "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; sleep 0.2; done"
    name = await real.deploy(image=_image(real, "sh", "-c", count))
    await real.until_state(name, "running")
    heard: list[str] = []
    async with asyncio.timeout(30):
        async for _, lines in follow_printed(real.site.bus, name, every=0.3):
            heard += lines
            if len(heard) > 12:
                break
    first = int(heard[0].split()[1])
    assert heard == [f"line {first + number}" for number in range(len(heard))]


async def test_a_workload_that_outgrows_its_memory_is_told_so(real: Field) -> None:
    await real.nodes(1)
    name = await real.deploy(image=_image(real, "tail", "/dev/zero"), resources={"memory": "16MiB"})
    status = await real.until_state(name, "starting", reason="OOMKilled")
    assert "memory" in status.message


async def test_jobs_end_with_what_they_exited_with(real: Field) -> None:
    await real.nodes(1)
    good = await real.deploy("good", image=_image(real, "echo", "done"), restart="never")
    bad = await real.deploy("bad", image=_image(real, "sh", "-c", "exit 7"), restart="never")
    big = await real.deploy(
        "big", image=_image(real, "tail", "/dev/zero"), restart="never", resources={"memory": "16MiB"}
    )
    await real.until_state(good, "completed")
    (printed,) = await last_printed(real.site.bus, good)
    assert printed.lines == ["done"]
    status = await real.until_state(bad, "failed", reason="ExitedWithError")
    assert "exited with 7" in status.message
    await real.until_state(big, "failed", reason="OOMKilled")


async def test_a_job_that_may_fail_is_run_until_it_succeeds(real: Field) -> None:
    await real.nodes(1)
    once = "[ -f /tmp/x/again ] && exit 0; echo once; exit 1"
    name = await real.deploy(image=_image(real, "sh", "-c", once), restart="on-failure")
    status = await real.site.until(
        lambda: next((one for one in real.site.statuses(name) if one.reason == "CrashLoopBackOff"), None),
        "it is tried again",
        60,
    )
    assert status.state == "starting"


async def test_an_image_that_nobody_has_and_a_program_that_is_not_there_are_told(real: Field) -> None:
    await real.nodes(1)
    no_image = await real.deploy("image", image={"image": "localhost:1/nothing:1"})
    no_program = await real.deploy("program", image=_image(real, "/no/such/program"))
    status = await real.site.until(
        lambda: next((one for one in real.site.statuses(no_image) if "Image" in one.reason), None),
        "the image is told",
        60,
    )
    assert status.reason in ("ImagePullFailed", "ImageNotFound")
    status = await real.until_state(no_program, "failed", reason="CommandNotFound")
    assert "/no/such/program" in status.message


async def test_an_ordinary_user_is_who_it_runs_as(real: Field) -> None:
    await real.nodes(1)
    secret = [{"path": "key", "content": "sesame", "secret": True, "mode": 0o400}]
    who = "cat /key; cat /proc/self/status | while read a b; do [ $a = Uid: ] && echo $b; done; exit 0"
    name = await real.deploy(image=_image(real, "sh", "-c", who), restart="never", files=secret)
    await real.until_state(name, "completed")
    (printed,) = await last_printed(real.site.bus, name)
    said = " ".join(printed.lines)
    assert "sesame" in said
    assert "65534" in said


async def test_root_is_refused_unless_the_site_allows_it(real: Field) -> None:
    await real.nodes(1)
    name = await real.deploy(image=_image(real, "sleep", "1000"), user="root")
    await real.until_state(name, "unschedulable")
    why = [str(group.attribute) + group.reason for group in real.site.decisions(name)[-1].rejected]
    assert any("allow_root" in one for one in why), why
    real.stop()
    real.start(MINICLOUD_ALLOW_ROOT="true")
    await real.until_state(name, "running")
