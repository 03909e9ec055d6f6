"""What a stack with a fleet costs and how fresh its index is: CPU and memory a process, publish to queryable.

In: the processes by name, and a user's connection. Out: lines for people, or the figures behind them. A
sample counts from the moment that its agent says it was taken until a query tells its values.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from minicloud.client import Minicloud, connect
from schemas.errors import MinicloudError
from schemas.event import Event
from schemas.node import Measurement

_EVERY: Final = 30.0
_SAMPLES: Final = 100
_GIVE_UP: Final = 5.0  # seconds after which a sample counts as not queryable


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took: CPU in per cent of one core since it was last asked, resident memory in MB."""

    name: str
    cpu: float
    memory: float


class Costs:
    """The costs of some processes, from one asking to the next.

    Args:
        processes: process ids by name.
    """

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes: dict[str, psutil.Process] = {}
        for name, pid in processes.items():
            with suppress(psutil.NoSuchProcess):
                self._processes[name] = process = psutil.Process(pid)
                process.cpu_percent()

    def taken(self) -> list[Cost]:
        """What each process that still lives took since it was last asked."""
        costs = []
        for name, process in self._processes.items():
            with suppress(psutil.NoSuchProcess):
                costs.append(Cost(name, process.cpu_percent(), process.memory_info().rss / 1e6))
        return costs


async def latencies(cloud: Minicloud, count: int, seconds: float) -> list[float]:
    """Seconds from an agent's sample until a query tells it, of up to ``count`` samples within ``seconds``.

    A sample that no query tells in time is given as infinite.
    """
    heard: asyncio.Queue[Event[Measurement]] = asyncio.Queue(1)

    async def on_sample(event: Event[Measurement]) -> None:
        if heard.empty():
            heard.put_nowait(event)

    subscription = await cloud.bus.subscribe(cloud.bus.subjects.metrics(), Measurement, on_sample)
    found: list[float] = []
    try:
        async with asyncio.timeout(seconds):
            while len(found) < count:
                found.append(await _until_told(cloud, await heard.get()))
                await asyncio.sleep(seconds / count / 2)
                while not heard.empty():  # it waited for us, not for the index
                    heard.get_nowait()
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return found


async def _until_told(cloud: Minicloud, sample: Event[Measurement]) -> float:
    values = sample.data.values
    question = {"where": {"name": sample.data.node}, "fields": list(values)}
    while (age := (datetime.now(UTC) - sample.time).total_seconds()) < _GIVE_UP:
        for node in (await cloud.query(question)).nodes:
            # The index keeps most metrics in single precision.
            if all(name in node and math.isclose(node[name], values[name], rel_tol=1e-6) for name in values):
                return (datetime.now(UTC) - sample.time).total_seconds()
        await asyncio.sleep(0)
    return math.inf if age >= _GIVE_UP else age


def percentiles(found: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    ordered = sorted(found)
    return statistics.median(ordered) * 1e3, ordered[math.ceil(0.99 * len(ordered)) - 1] * 1e3


async def report(
    processes: Mapping[str, int],
    nodes: int,
    data: Path,
    say: Callable[[str], None],
    every: float = _EVERY,
) -> None:
    """Say every ``every`` seconds, for ever, how a stack with ``nodes`` simulated nodes fares."""
    while True:
        with suppress(MinicloudError):  # rid or the broker is away: the next round tells
            async with connect(data) as cloud:
                costs = Costs(processes)
                found = await latencies(cloud, _SAMPLES, every)
                total = (await cloud.query("label.simulated=true", limit=1, fields=["name"])).total
                say(f"fleet: {total} of {nodes} nodes can be queried")
                if found:
                    middle, worst = percentiles(found)
                    say(f"fleet: sample to queryable p50 {middle:.1f} ms, p99 {worst:.1f} ms of {len(found)}")
                taken = (f"{cost.name} {cost.cpu:.0f} % {cost.memory:.0f} MB" for cost in costs.taken())
                say(f"fleet: CPU of one core and memory: {', '.join(taken)}")
                continue
        await asyncio.sleep(1.0)
