"""kill -9 of any one process upon any event of the journey: the same end, nothing lost, nothing run twice.

The victim dies in the moment in which the n-th event is seen, and whoever watches over it starts it
again. Jobs are published around the kill; whatever was acknowledged is carried out once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import minicloud
from minicloud.client import Minicloud
from schemas.errors import Unavailable
from tests.journey.record import Record, node_must_hold
from tests.journey.requests import job, page
from tests.journey.site import VICTIMS, Seen, Site, Witness, eventually, witness
from tests.journey.waits import alive, in_state

#: Events from two requests at once to the running page and the ended job, on a site that is up.
EVENTS = 21
#: And from one request to the running page, at the birth of a site whose first event is the request.
BORN_EVENTS = 16


class Killer:
    """Kills its victim upon one event."""

    def __init__(self, site: Site, seen: Witness, victim: str, number: int) -> None:
        self._site, self._seen, self._victim = site, seen, victim
        self.pid: int | None = None
        self.mark = 0
        self.session = ""
        self.point = f"{victim} at event {number}"
        self.done = asyncio.Event()
        seen.upon(number, self._strike)

    def _strike(self, event: Seen) -> None:
        online = [e.data for e in self._seen.seen if e.subject.endswith(".presence")]
        self.session = online[-1]["session"] if online else ""
        self.mark = event.number + 1
        self.pid = self._site.kill(self._victim)
        self.point += f": {event.subject} {event.data.get('to') or event.data.get('state') or ''}"
        self.done.set()

    async def recovered(self) -> None:
        """Once the victim is back and whoever depends on it has noticed."""
        site, seen = self._site, self._seen
        if self._victim == "up":
            await asyncio.to_thread(site.start)
        await eventually(lambda: site.pid(self._victim) not in (None, self.pid), f"{self._victim} is back")
        if self._victim in ("agent", "up"):
            await seen.until(
                lambda e: (
                    e.subject.endswith(".presence")
                    and e.data["state"] == "online"
                    and e.data["session"] != self.session
                ),
                after=self.mark,
            )
        if self._victim in ("worker", "up"):
            await seen.until(
                lambda e: e.subject.endswith(".worker") and e.data["state"] == "ready", after=self.mark
            )


async def publish(cloud: Minicloud, document: dict[str, Any]) -> str | None:
    """The deployment if the broker acknowledged the request; None if it was told that it did not."""
    try:
        return await cloud.request(document)
    except Unavailable:
        return None


async def arrived(
    site: Site, seen: Witness, cloud: Minicloud, starts: Path, name: str, jobs: list[str | None]
) -> None:
    """The end that every journey has: the page answers, and the record of it holds."""
    await in_state(cloud, name, "running")
    acknowledged = [wish for wish in jobs if wish is not None]
    for wish in acknowledged:
        await in_state(cloud, wish, "completed")
    await alive(cloud)
    (replica,) = (await cloud.deployment(name))["replicas"]
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        assert (await http.get(replica["endpoints"][0]["url"])).text == "the page\n"
    (await Record.of(seen.bus, name)).must_hold(starts, "running")
    for wish in acknowledged:
        (await Record.of(seen.bus, wish)).must_hold(starts, "completed")
    await node_must_hold(site, seen.bus)


@asynccontextmanager
async def telling(site: Site, seen: Witness, killer: Killer, name: str) -> AsyncIterator[None]:
    """Whoever must find out why a journey failed gets the point of the kill, the story and the logs."""
    try:
        yield
    except BaseException:
        print(f"killed {killer.point}\n{(await Record.of(seen.bus, name)).story()}\n{site.logs()}")
        raise


async def travel(
    site: Site,
    seen: Witness,
    cloud: Minicloud,
    ground: Path,
    starts: Path,
    victim: str,
    number: int,
    name: str,
) -> None:
    """One journey with one kill, checked at its end."""
    killer = Killer(site, seen, victim, number)
    async with telling(site, seen, killer, name):
        wishes = [asyncio.create_task(publish(cloud, page(ground, starts, name)))]
        wishes.append(asyncio.create_task(publish(cloud, job(starts, f"{name}-before"))))
        async with asyncio.timeout(20):
            await killer.done.wait()
        wishes.append(asyncio.create_task(publish(cloud, job(starts, f"{name}-after"))))
        await killer.recovered()
        asked, *jobs = await asyncio.gather(*wishes)
        assert killer.pid is not None, "the victim was not there"
        assert asked == name
        await arrived(site, seen, cloud, starts, name, jobs)
    for wish in [name, f"{name}-before", f"{name}-after"]:
        await cloud.cancel(wish)
        await in_state(cloud, wish, "stopped")


async def streams(seen: Witness) -> bool:
    """Whether the site keeps what is published already."""
    await seen.bus.jetstream.api("STREAM.INFO.home_leases")
    return True


@asynccontextmanager
async def watched(site: Site) -> AsyncIterator[tuple[Witness, Minicloud]]:
    async with witness(site) as seen, minicloud.connect(site.data, timeout=20) as cloud:
        await alive(cloud)
        yield seen, cloud


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("number", range(1, EVENTS + 1, 2))
async def test_killed_on_the_way(site: Site, ground: Path, starts: Path, victim: str, number: int) -> None:
    async with watched(site) as (seen, cloud):
        await travel(site, seen, cloud, ground, starts, victim, number, f"k{number}-{victim}")


@pytest.mark.parametrize("victim", ["broker", "vim", "worker"])
async def test_killed_in_the_middle_of_the_way(site: Site, ground: Path, starts: Path, victim: str) -> None:
    async with watched(site) as (seen, cloud):
        await travel(site, seen, cloud, ground, starts, victim, EVENTS // 2, f"middle-{victim}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("number", range(3, BORN_EVENTS, 4))
async def test_killed_from_birth_on(
    own_site: Site, ground: Path, starts: Path, victim: str, number: int
) -> None:
    own_site.start(wait=False)
    async with witness(own_site) as seen:
        await eventually(lambda: streams(seen), "the streams are there")
        killer = Killer(own_site, seen, victim, number)
        cloud = Minicloud(seen.bus)
        async with telling(own_site, seen, killer, "born"):
            assert await publish(cloud, page(ground, starts, "born")) == "born"
            async with asyncio.timeout(30):
                await killer.done.wait()
            await killer.recovered()
            await arrived(own_site, seen, cloud, starts, "born", [])
