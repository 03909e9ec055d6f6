"""What a scrape of the monitor costs with 10,000 nodes of 20 metrics, beside prometheus_client's gauges.

Both hold the same values in the same labels, and prometheus_client's own parser reads the same numbers out of
both pages. CPU seconds of one scrape, after every value changed since the last; over HTTP and real events, too.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parsed

from bench.figures import check, goal, say, table
from bus.bus import Bus
from bus.credentials import Credentials
from bus.frame import Frame
from bus.http import serve_http
from schemas.attributes import METRICS
from schemas.event import event
from schemas.liveness import Thresholds
from schemas.node import Measurement
from services.monitor.fleet import Fleet
from services.monitor.page import Page, family
from services.monitor.service import Monitor
from services.monitor.settings import MonitorSettings
from services.monitor.windows import Windows
from tests.parts.nats_server import NatsServer
from tests.rid import nodes

GOAL: Final = 0.1  # CPU seconds a scrape
#: 12 that are foreseen, 8 that nobody foresaw.
NAMES: Final = [*METRICS, *(f"queue{at}.depth" for at in range(8))]
_LABELS: Final = ["minicloud", "node"]


def main(count: int = 10_000, rounds: int = 5) -> dict[str, float]:
    """Measure, print a table; the figures by name."""
    rng = random.Random(7)
    fleet = Fleet(Thresholds(3600, 7200), windows := Windows())
    page = Page("home", fleet)
    for at in range(count):
        fleet.take(event(nodes.characterization(f"n{at}"), "/bench"), live=True)
    registry = CollectorRegistry()
    gauges = {name: Gauge(family(name), name, _LABELS, registry=registry) for name in METRICS}
    others = Gauge("minicloud_node_value", "others", [*_LABELS, "name"], registry=registry)
    costs: dict[str, list[float]] = {"taken in": [], "page": [], "gauges set": [], "prometheus_client": []}
    for number in range(rounds + 1):
        samples = [_sample(rng, f"n{at}") for at in range(count)]
        events = [event(sample, "/bench") for sample in samples]
        timed = {}
        begun = time.process_time()
        for one in events:
            fleet.take(one, live=True)
        timed["taken in"] = time.process_time() - begun
        ours, timed["page"] = _timed(page.render)
        begun = time.process_time()
        for sample in samples:
            for name, value in sample.values.items():
                if name in gauges:
                    gauges[name].labels("home", sample.node).set(value)
                else:
                    others.labels("home", sample.node, name).set(value)
        timed["gauges set"] = time.process_time() - begun
        theirs, timed["prometheus_client"] = _timed(lambda: generate_latest(registry))
        if number == 0:  # the first makes what stays
            say(f"first page {timed['page']:.2f} s, {len(ours) / 1e6:.1f} MB")
            first = timed["page"]
            _compare(ours, theirs, count)
            continue
        for name, seconds in timed.items():
            costs[name].append(seconds)
    http = asyncio.run(_over_http(count, rounds))
    best = {name: min(seconds) for name, seconds in costs.items()}
    median = {name: statistics.median(seconds) for name, seconds in costs.items()}
    print(f"{count:,} nodes x {len(NAMES)} metrics, best and median of {rounds}; CPU seconds\n")
    table(
        ["", "best", "median", "this / page"],
        [
            [what, f"{best[name]:.3f}", f"{median[name]:.3f}", f"{best[name] / best['page']:.1f}"]
            for name, what in (
                ("page", "the monitor's page, every value new"),
                ("prometheus_client", "prometheus_client, generate_latest"),
                ("taken in", "taking in a sample of each node, windows included"),
                ("gauges set", "setting as many gauges of prometheus_client"),
            )
        ],
    )
    print(f"page made anew, as after a node came: {first:.3f} s")
    print(f"over HTTP, real broker, whole process: {http:.3f} s CPU a scrape\n")
    goal("CPU seconds a scrape", best["page"], lambda v: v <= GOAL, f"<= {GOAL:g}")
    held = windows.mean("n0", "load.1m", "5m", time.time())
    check(held is not None, "the windows took the samples in")
    return {**best, "first": first, "http": http}


def _sample(rng: random.Random, node: str) -> Measurement:
    """As an agent sends it: per cent and loads with two digits, bytes whole."""
    values = {
        name: float(rng.randrange(1 << 36))
        if name in ("memory.available", "disk.free")
        else round(rng.random() * 100, 2)
        for name in NAMES
    }
    return Measurement(node=node, interval=5, values=values)


def _timed(work: Any) -> tuple[bytes, float]:
    begun = time.process_time()
    made: bytes = work()
    return made, time.process_time() - begun


def _compare(ours: bytes, theirs: bytes, count: int) -> None:
    """Whoever reads both pages finds the same."""

    def read(page: bytes) -> dict[Any, float]:
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for one in parsed(page.decode())
            for sample in one.samples
        }

    mine, peers = read(ours), read(theirs)
    check(len(peers) == count * len(NAMES), "the peer has every value")
    check(all(mine.get(key) == value for key, value in peers.items()), "both pages say the same")


async def _over_http(count: int, rounds: int) -> float:
    """CPU seconds of this process for one scrape over HTTP, the client's share taken off."""
    with tempfile.TemporaryDirectory() as folder, NatsServer().start(Path(folder) / "broker") as broker:
        admin = Credentials(broker.data).add("admin", "bench")
        access = {"broker": broker.url, "user": admin.user, "password": admin.password}
        settings = MonitorSettings.load({}, **access, minicloud="home", http_port=0, api_token="bench")
        async with await Bus.connect(settings.endpoint("monitor"), "home", "monitor") as bus:
            frame = Frame("monitor", settings, bus)
            monitor = Monitor(frame)
            monitor.serve_http()
            await bus.ensure_streams()
            running = asyncio.create_task(monitor.run())
            server = await serve_http(frame)
            while not frame.ready:
                await asyncio.sleep(0.01)
            rng = random.Random(7)
            for at in range(count):
                monitor.fleet.take(event(nodes.characterization(f"n{at}"), "/bench"), live=True)
                monitor.fleet.take(event(_sample(rng, f"n{at}"), "/bench"), live=True)
            costs = []
            for _ in range(rounds + 1):
                # A client of its own process, so that what is measured is the server's.
                process = psutil.Process()
                before = process.cpu_times()
                curl = await asyncio.create_subprocess_exec(
                    "curl",
                    "-sf",
                    "-o",
                    "/dev/null",
                    "-H",
                    "Authorization: Bearer bench",
                    f"{server.url}/metrics",
                )
                check(await curl.wait() == 0, "the scrape is answered")
                after = process.cpu_times()
                costs.append(after.user - before.user + after.system - before.system)
            frame.stopping.set()
            await running
            await frame.close()
            await server.stop()
    return min(costs[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    main(options.nodes, options.rounds)
