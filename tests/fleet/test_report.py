"""A running stack with a fleet tells how fresh its index is and what each of its processes costs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from minicloud.client import Minicloud, connect
from minicloud.fleetreport import Costs, latencies, percentiles, report
from minicloud.stack import Stack, StackSettings
from schemas.errors import Unavailable
from tests.parts.nats_server import NatsServer


async def everybody(cloud: Minicloud, count: int) -> None:
    """Return when the index has the whole fleet."""
    while True:
        with suppress(Unavailable):  # rid is starting
            if (await cloud.query("label.simulated=true", fields=["name"])).total == count:
                return
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_stack_with_a_fleet_reports_freshness_and_costs(
    part: Callable[[NatsServer], NatsServer], tmp_path: Path
) -> None:
    part(NatsServer())
    stack = Stack(StackSettings(data=tmp_path / "data", node="here", fleet=5))
    said: asyncio.Queue[str] = asyncio.Queue()
    reporting = None
    try:
        await stack.start()
        costs = Costs(stack.processes())
        async with asyncio.timeout(90), connect(tmp_path / "data", timeout=20.0) as cloud:
            await everybody(cloud, 5)
            found = await latencies(cloud, 3, 60.0)
            assert len(found) == 3
            assert all(0 < seconds < math.inf for seconds in found)
            taken = {cost.name: cost for cost in costs.taken()}
            assert taken.keys() == {"up", "broker", "rid", "vim", "worker", "agent", "fleet"}
            assert all(cost.memory > 1 for cost in taken.values())
            reporting = asyncio.create_task(
                report(stack.processes(), 5, tmp_path / "data", said.put_nowait, every=6.0)
            )
            lines = [await said.get() for _ in range(3)]
    finally:
        if reporting:
            reporting.cancel()
        await stack.stop()
    assert lines[0] == "fleet: 5 of 5 nodes can be queried"
    assert "p99" in lines[1]
    assert "rid" in lines[2]


def test_the_99th_percentile_is_the_worst_of_a_hundred_but_one() -> None:
    assert percentiles([number / 1000 for number in range(1, 101)]) == (50.5, 99.0)
    assert percentiles([0.004]) == (4.0, 4.0)
