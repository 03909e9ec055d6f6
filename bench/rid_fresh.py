"""From a published sample to a query that sees it, while a fleet goes on sampling.

``python -m bench.rid_fresh [--nodes 1000] [--rate 0.2] [--samples 300]``: a real broker and a real rid,
each in a process of its own. The time includes the query itself, asked again until it sees the sample.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from bus.settings import Settings
from schemas.errors import Unavailable
from tests.rid import nodes


async def background(bus: Bus, count: int, rate: float) -> None:
    """Every node but the measured one samples ``rate`` times a second, evenly spread."""
    at = 0
    begun = time.perf_counter()
    while True:
        due = int((time.perf_counter() - begun) * count * rate)
        for _ in range(due - at):
            node = f"n{1 + at % (count - 1)}"
            await bus.emit(bus.subjects.metrics(node), nodes.measurement(node, 1 / rate, load_1m=0.5))
            at += 1
        await asyncio.sleep(0.005)


async def until(bus: Bus, part: str, least: int) -> None:
    """Wait until rid answers, with at least so much in a part of its answer."""
    while True:
        with contextlib.suppress(Unavailable):
            if (await bus.request("rid", "query", {"fields": ["name"], "limit": 1}))[part] >= least:
                return
        await asyncio.sleep(0.05)


async def measure(bus: Bus, samples: int) -> tuple[list[float], list[float]]:
    """Milliseconds from publishing to seeing, and of a query alone."""
    seen, asked = [], []
    for number in range(samples):
        value = 1000.0 + number
        question = {"where": {"load.1m": value}, "fields": ["name"]}
        begun = time.perf_counter()
        await bus.emit(bus.subjects.metrics("n0"), nodes.measurement("n0", load_1m=value))
        while not (await bus.request("rid", "query", question))["total"]:
            pass
        seen.append((time.perf_counter() - begun) * 1e3)
        begun = time.perf_counter()
        await bus.request("rid", "query", question)
        asked.append((time.perf_counter() - begun) * 1e3)
    return seen, asked


def percentiles(values: list[float]) -> str:
    """For the table."""
    return f"p50 {statistics.median(values):.2f} ms, p99 {statistics.quantiles(values, n=100)[98]:.2f} ms"


async def run(data: Path, count: int, rate: float, samples: int) -> None:
    """Start all, measure, stop all."""
    with Broker(data) as broker:
        admin = Credentials(data).add("admin", "bench")
        access = {"broker": broker.url, "user": admin.user, "password": admin.password}
        settings = Settings.load({}, minicloud="bench", **access)
        told = {**access, "minicloud": "bench", "log_level": "error"}
        environment = {f"MINICLOUD_{name.upper()}": value for name, value in told.items()}
        async with await Bus.connect(settings.endpoint("bench"), "bench", "bench") as bus:
            await bus.ensure_streams()
            for at in range(0, count, 500):
                await asyncio.gather(
                    *(
                        bus.publish(
                            bus.subjects.characterization(node), nodes.characterization(node, "bench")
                        )
                        for node in (f"n{number}" for number in range(at, min(count, at + 500)))
                    )
                )
            begun = time.perf_counter()
            rid = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.rid",
                env={**os.environ, **environment},
            )
            load = None
            try:
                await until(bus, "total", count)
                starting = time.perf_counter() - begun
                await until(bus, "revision", count)
                logging = time.perf_counter() - begun - starting
                # In a process of its own: else the measurement would wait for its own load.
                load = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "bench.rid_fresh",
                    "--load",
                    f"--nodes={count}",
                    f"--rate={rate}",
                    env={**os.environ, **environment},
                )
                await asyncio.sleep(2.0)  # until it is in its stride
                process = psutil.Process(rid.pid)
                process.cpu_percent()
                seen, asked = await measure(bus, samples)
                cpu, rss = process.cpu_percent(), process.memory_info().rss
                print(f"{count} nodes at {rate:g} Hz: {count * rate:.0f} samples/s beside the measurement")
                print(f"published to seen by a query   {percentiles(seen)}")
                print(f"a query over the bus           {percentiles(asked)}")
                print(f"rid: ready after {starting:.1f} s, the change log whole {logging:.1f} s later")
                print(f"rid while it was asked: CPU {cpu:.0f} %, RSS {rss / 2**20:.0f} MiB")
            finally:
                for running in (load, rid):
                    if running is not None:
                        running.terminate()
                        await running.wait()


async def only_load(count: int, rate: float) -> None:
    """Sample for ever, as the environment says where."""
    async with await Bus.connect(
        (settings := Settings.load()).endpoint("load"), settings.minicloud, "load"
    ) as bus:
        await background(bus, count, rate)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--load", action="store_true", help="only sample, for a rid that runs already")
    options = parser.parse_args()
    if options.load:
        asyncio.run(only_load(options.nodes, options.rate))
        return
    with tempfile.TemporaryDirectory() as data:
        asyncio.run(run(Path(data), options.nodes, options.rate, options.samples))


if __name__ == "__main__":
    main()
