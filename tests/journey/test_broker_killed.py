"""The broker is killed while metrics flow and requests are published: an acknowledgement is kept, or there is an error."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

import minicloud
from schemas.deployment import DeploymentRequest
from schemas.errors import Unavailable
from schemas.event import read_document
from schemas.node import Measurement
from tests.journey.conftest import MakeSite
from tests.journey.record import events, kept
from tests.journey.site import eventually, witness
from tests.journey.waits import alive

KILLS = 4
BETWEEN = 40  # acknowledgements
PUBLISHERS = 8
FLEET = 20


def waiting(name: str) -> DeploymentRequest:
    """A request that no node satisfies: it is accepted, decided and waits."""
    document: dict[str, Any] = {
        "name": name,
        "runtimes": ["process"],
        "images": {"process": {"command": ["true"]}},
        "where": {"name": "nowhere"},
    }
    return read_document(document, DeploymentRequest)


@pytest.mark.slow
async def test_what_was_acknowledged_is_kept_and_carried_out(make_site: MakeSite) -> None:
    site = make_site("--fleet", str(FLEET))
    site.start()
    async with witness(site) as seen, minicloud.connect(site.data, timeout=20) as cloud:
        await alive(cloud)
        bus = cloud.bus

        async def measured(since: datetime) -> bool:
            heard = await events(seen.bus, bus.subjects.metrics(), Measurement, since=since)
            return len({measurement.node for measurement in heard}) == FLEET + 1

        await eventually(lambda: measured(datetime.min.replace(tzinfo=UTC)), "metrics flow", 60)
        acknowledged: dict[str, int] = {}
        refused: list[str] = []
        enough = asyncio.Event()

        async def publish(publisher: int) -> None:
            number = 0
            while not enough.is_set():
                number += 1
                name = f"p{publisher}-{number}"
                try:
                    acknowledged[name] = await bus.publish(
                        bus.subjects.request(name), waiting(name), about=name, timeout=0.5
                    )
                except Unavailable:
                    refused.append(name)

        publishers = [asyncio.create_task(publish(number)) for number in range(PUBLISHERS)]
        for kill in range(1, KILLS + 1):
            await eventually(
                lambda least=kill * BETWEEN: len(acknowledged) >= least, f"{kill * BETWEEN} are acknowledged"
            )
            before = site.kill("broker")
            await eventually(lambda old=before: site.pid("broker") not in (None, old), "the broker is back")
        await eventually(lambda: len(acknowledged) >= (KILLS + 1) * BETWEEN, "publishing goes on")
        enough.set()
        await asyncio.gather(*publishers)

        stored = await kept(seen.bus, bus.subjects.request())
        names = Counter(subject.split(".")[3] for subject, _ in stored)
        assert [name for name in acknowledged if name not in names] == []
        assert [name for name, count in names.items() if count > 1] == [], "stored twice"
        assert set(names) <= set(acknowledged) | set(refused)
        identities = Counter(json.loads(payload)["id"] for _, payload in stored)
        assert max(identities.values()) == 1

        async def all_decided() -> bool:
            states = {one["deployment"]: one["state"] for one in await cloud.deployments()}
            return all(states.get(name) == "unschedulable" for name in names)

        await eventually(all_decided, f"{len(names)} requests are decided", 60)

        killed = datetime.now(UTC)
        await eventually(lambda: measured(killed), "the metrics of every node flow again", 60)
