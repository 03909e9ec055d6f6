"""The partition matrix of docs/reconnect.md where a cable is involved: a node beyond a link that is cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import minicloud
from schemas.node import Measurement
from tests.journey.conftest import MakeSite
from tests.journey.link import EDGE, Cable, EdgeNode, inside
from tests.journey.record import Record, kept
from tests.journey.requests import instances, page, started
from tests.journey.site import NODE, Site, Witness, eventually, witness
from tests.journey.waits import in_state
from tests.worker.conftest import leftovers, needs_root

pytestmark = [pytest.mark.slow, needs_root]


@dataclass
class Land:
    """A hub, a cable, an edge."""

    site: Site
    cable: Cable
    edge: EdgeNode


@pytest.fixture
def land(make_site: MakeSite, ground: Path) -> Iterator[Land]:
    cable = Cable()
    data = ground / f"edge-{os.urandom(3).hex()}"
    data.mkdir(mode=0o711)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, data)
        undo.callback(cable.remove)
        try:
            cable.lay()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
        undo.enter_context(inside(cable.hub))
        site = make_site("--host", "0.0.0.0")  # all of it is the test's own
        site.start()
        edge = EdgeNode(site, cable, data)
        undo.callback(leave, edge)
        for part in ("agent", "worker"):
            edge.start(part)
        yield Land(site, cable, edge)


def leave(edge: EdgeNode) -> None:
    """End the edge node with all that it runs."""
    for part in ("agent", "worker"):
        edge.end(part)
    assert leftovers(edge.data / "worker") == []


async def joined(cloud: minicloud.Minicloud) -> None:
    async def ask() -> bool:
        answer = await cloud.query("worker,state=alive", fields=["name"])
        return {node["name"] for node in answer.nodes} == {NODE, EDGE}

    await eventually(ask, "both nodes are in the index")


def for_edge(ground: Path, starts: Path, name: str, **fields: Any) -> dict[str, Any]:
    """A page that prefers the edge and may run on either node."""
    return page(
        ground, starts, name, where={"name": {"$in": [EDGE, NODE]}}, prefer=[{"name": "asc"}], **fields
    )


async def told(seen: Witness, deployment: str, state: str, *, after: int, seconds: float = 60) -> int:
    found = await seen.until(
        lambda event: (
            event.subject == f"mc.home.deployment.{deployment}.status" and event.data["to"] == state
        ),
        after=after,
        seconds=seconds,
    )
    return found.number


async def test_a_short_cut_replaces_nothing_and_the_spool_is_sent(
    land: Land, ground: Path, starts: Path
) -> None:
    async with witness(land.site) as seen, minicloud.connect(land.site.data) as cloud:
        await joined(cloud)
        status = await cloud.deploy(for_edge(ground, starts, "short", onLoss={"replaceAfter": "300s"}))
        assert (status.state, status.replicas[0].node) == ("running", EDGE)
        (pid,) = started(starts, "short")
        cut = datetime.now(UTC)
        mark = len(seen.seen)
        land.cable.cut()
        mark = await told(seen, "short", "lost", after=mark)
        lost = datetime.now(UTC)
        assert instances(starts, "short") == [pid], "it runs on while its node is cut off"

        land.cable.mend()
        await told(seen, "short", "running", after=mark)
        await joined(cloud)
        assert instances(starts, "short") == [pid]
        (await Record.of(seen.bus, "short", EDGE)).must_hold(starts, "running")

        async def measured() -> int:
            found = 0
            for _, payload in await kept(seen.bus, seen.bus.subjects.metrics(EDGE)):
                event = json.loads(payload)
                Measurement.model_validate(event["data"])
                found += cut < datetime.fromisoformat(event["time"]) < lost
            return found

        # One a second while it was cut; what was on the wire in the moment of the cut may be lost.
        seconds = (lost - cut).total_seconds()

        async def all_sent() -> bool:
            return await measured() >= seconds - 12

        await eventually(all_sent, f"the samples of {seconds:.0f} s without a cable are sent later")


async def test_a_long_cut_is_replaced_and_nothing_is_doubled_on_return(
    land: Land, ground: Path, starts: Path
) -> None:
    async with witness(land.site) as seen, minicloud.connect(land.site.data) as cloud:
        await joined(cloud)
        await cloud.deploy(for_edge(ground, starts, "long", onLoss={"replaceAfter": "2s"}))
        await cloud.deploy(for_edge(ground, starts, "only", onLoss={"replaceAfter": "2s", "singleton": True}))
        await cloud.deploy(page(ground, starts, "bound", where={"name": EDGE}, onLoss={"replaceAfter": "2s"}))
        (first,), (only,), (bound,) = (started(starts, name) for name in ("long", "only", "bound"))
        mark = len(seen.seen)
        land.cable.cut()
        lost = await told(seen, "long", "lost", after=mark)
        await told(seen, "only", "lost", after=mark)
        mark = await told(seen, "long", "running", after=lost)
        _, second = started(starts, "long")
        assert (await cloud.deployment("long"))["replicas"][0]["node"] == NODE
        assert sorted(instances(starts, "long")) == sorted([first, second]), (
            "the old self runs on, unreachable"
        )

        land.cable.mend()
        await joined(cloud)
        await told(seen, "only", "running", after=mark)
        await eventually(
            lambda: instances(starts, "long") == [second], "the old self ends when its node returns"
        )
        await in_state(cloud, "bound", "running")
        assert instances(starts, "only") == [only], "a singleton stays where it is"
        assert instances(starts, "bound") == [bound], "what runs nowhere else stays where it is"
        assert (started(starts, "only"), started(starts, "bound")) == ([only], [bound])
        assert len(started(starts, "long")) == 2
        await in_state(cloud, "long", "running")
        assert (await cloud.deployment("long"))["generation"] == 1


async def test_a_worker_killed_while_its_node_is_cut_off_takes_over_without_the_broker(
    land: Land, ground: Path, starts: Path
) -> None:
    async with witness(land.site) as seen, minicloud.connect(land.site.data) as cloud:
        await joined(cloud)
        await cloud.deploy(for_edge(ground, starts, "alone", onLoss={"replaceAfter": "300s"}))
        (pid,) = started(starts, "alone")
        mark = len(seen.seen)
        land.cable.cut()
        land.edge.end("worker", 9)
        land.edge.start("worker")
        await told(seen, "alone", "lost", after=mark)
        assert instances(starts, "alone") == [pid]
        land.cable.mend()
        await joined(cloud)
        await in_state(cloud, "alone", "running")
        await seen.until(
            lambda event: event.subject == f"mc.home.node.{EDGE}.worker" and event.data["state"] == "ready",
            after=mark,
        )
        assert instances(starts, "alone") == [pid]
        assert started(starts, "alone") == [pid]
