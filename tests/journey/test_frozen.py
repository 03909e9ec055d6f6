"""A part that is away for long without having ended: frozen until the others notice, then thawed.

What runs runs on, what was asked meanwhile waits, and after the thaw everything is as if nothing had been.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minicloud.client import Minicloud
from schemas.errors import Unavailable
from tests.journey.record import Record
from tests.journey.requests import instances, job, page, started
from tests.journey.site import NODE, Site, Witness, eventually
from tests.journey.test_kill import arrived, watched
from tests.journey.waits import in_state

pytestmark = pytest.mark.slow


@contextmanager
def frozen(site: Site, part: str) -> Iterator[None]:
    """The process stands still, its connections open; nobody tells its parent."""
    pid = site.pid(part)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def runs(seen: Witness, cloud: Minicloud, ground: Path, starts: Path, name: str) -> None:
    """A page that must not be touched."""
    await cloud.request(page(ground, starts, name, onLoss={"replaceAfter": "600s"}))
    await in_state(cloud, name, "running")


async def untouched(
    site: Site, seen: Witness, cloud: Minicloud, starts: Path, name: str, jobs: list[str | None]
) -> None:
    """The same end as ever; then everything ends."""
    try:
        await arrived(site, seen, cloud, starts, name, jobs)
    except BaseException:
        print((await Record.of(seen.bus, name)).story(), site.logs(), sep="\n")
        raise
    for wish in [name, *filter(None, jobs)]:
        await cloud.cancel(wish)
        await in_state(cloud, wish, "stopped")


def is_status(deployment: str, state: str):  # type: ignore[no-untyped-def]
    return lambda e: e.subject == f"mc.home.deployment.{deployment}.status" and e.data["to"] == state


async def test_the_agent(site: Site, ground: Path, starts: Path) -> None:
    async with watched(site) as (seen, cloud):
        await runs(seen, cloud, ground, starts, "agentless")
        with frozen(site, "agent"):
            mark = len(seen.seen)
            await seen.until(is_status("agentless", "lost"), after=mark, seconds=60)
            assert instances(starts, "agentless") == started(starts, "agentless")
            asked = await cloud.request(job(starts, "while-agentless"))
            await seen.until(is_status(asked, "unschedulable"), after=mark)
        await seen.until(is_status("agentless", "running"), after=mark)
        await untouched(site, seen, cloud, starts, "agentless", [asked])


async def test_the_worker(site: Site, ground: Path, starts: Path) -> None:
    async with watched(site) as (seen, cloud):
        await runs(seen, cloud, ground, starts, "workerless")
        with frozen(site, "worker"):
            mark = len(seen.seen)
            asked = await cloud.request(job(starts, "while-workerless"))
            await seen.until(lambda e: e.subject == f"mc.home.node.{NODE}.desired.{asked}-0", after=mark)
            await seen.until(is_status(asked, "creating"), after=mark)
            assert started(starts, asked) == []
        await untouched(site, seen, cloud, starts, "workerless", [asked])


async def test_vim(site: Site, ground: Path, starts: Path) -> None:
    async with watched(site) as (seen, cloud):
        await runs(seen, cloud, ground, starts, "vimless")
        with frozen(site, "vim"):
            asked = await cloud.request(job(starts, "while-vimless"))

            async def expired() -> bool:
                return await seen.bus.jetstream.last("home_leases", "mc.home.lease.vim") is None

            await eventually(expired, "vim's lease is gone, so that another vim might act")
            assert started(starts, asked) == []
        await untouched(site, seen, cloud, starts, "vimless", [asked])


async def test_rid(site: Site, ground: Path, starts: Path) -> None:
    async with watched(site) as (seen, cloud):
        await runs(seen, cloud, ground, starts, "ridless")
        with frozen(site, "rid"):
            mark = len(seen.seen)
            asked = await cloud.request(job(starts, "while-ridless"))
            await seen.until(is_status(asked, "accepted"), after=mark)
            with pytest.raises(Unavailable):
                await cloud.query("state=alive")
        await untouched(site, seen, cloud, starts, "ridless", [asked])


async def test_the_broker(site: Site, ground: Path, starts: Path) -> None:
    async with watched(site) as (seen, cloud):
        await runs(seen, cloud, ground, starts, "brokerless")
        logs = {part: site.data / "logs" / f"{part}.log" for part in ("agent", "worker", "vim", "rid")}
        sizes = {part: log.stat().st_size for part, log in logs.items()}
        with frozen(site, "broker"):
            for part, log in logs.items():
                sign = "connection broke" if part == "agent" else "broker away"
                await eventually(
                    lambda log=log, part=part, sign=sign: sign in log.read_text()[sizes[part] :],
                    f"{part} notices",
                    60,
                )
            with pytest.raises(Unavailable):
                await cloud.bus.jetstream.api("INFO", timeout=1.0)
            assert instances(starts, "brokerless") == started(starts, "brokerless")
        asked = await cloud.request(job(starts, "after-brokerless"))
        await untouched(site, seen, cloud, starts, "brokerless", [asked])
