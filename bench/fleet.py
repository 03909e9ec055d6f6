"""A stack with many simulated nodes over real MQTT connections: how soon all can be queried, how fresh, at what cost.

``minicloud up --fleet N`` in a folder of its own; each node is measured every five seconds. The latency runs from
the moment that an agent took a sample until a query tells it, over the bus, as a user asks.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from bench.figures import check, say, table
from bus.frame import configure_logs
from minicloud.client import Minicloud, connect
from minicloud.fleetreport import Cost, Costs, latencies, percentiles
from minicloud.site import STACK_FILE

_DEADLINE: Final = 300.0
_SAMPLES: Final = 500


def main(nodes: int = 1000, seconds: float = 30.0) -> dict[str, float]:
    """Measure, print a table; the figures by name."""
    configure_logs("error", "text")
    with tempfile.TemporaryDirectory(prefix="minicloud-fleet-") as folder:
        data = Path(folder)
        command = [sys.executable, "-m", "minicloud", "up", "--data", folder, "--fleet", str(nodes)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MINICLOUD_")}
        begun = time.perf_counter()
        with (data / "up.log").open("wb") as output:
            up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            whole, found, costs = asyncio.run(_measure(data, up, nodes, seconds, begun))
        finally:
            up.terminate()
            up.wait(60)
    check(math.inf not in found, "a sample was not queryable within seconds")
    middle, worst = percentiles(found)
    print(f"{nodes} nodes, {nodes / 5:g} samples/s; all could be queried {whole:.1f} s after the start")
    print(f"from a sample to a query that tells it: p50 {middle:.1f} ms, p99 {worst:.1f} ms of {len(found)}")
    print(f"over {seconds:g} s; CPU in per cent of one core\n")
    rows = [[cost.name, f"{cost.cpu:.1f}", f"{cost.memory:.1f}"] for cost in costs]
    rows.append(
        ["in sum", f"{sum(cost.cpu for cost in costs):.1f}", f"{sum(cost.memory for cost in costs):.0f}"]
    )
    table(["process", "CPU %", "RSS MB"], rows)
    return {"all queryable s": whole, "p50 ms": middle, "p99 ms": worst}


async def _measure(
    data: Path, up: subprocess.Popen[bytes], nodes: int, seconds: float, begun: float
) -> tuple[float, list[float], list[Cost]]:
    async with asyncio.timeout(_DEADLINE):
        while not (data / STACK_FILE).exists():
            check(up.poll() is None, (data / "up.log").read_text())
            await asyncio.sleep(0.01)
        async with connect(data) as cloud:
            await _all_queryable(cloud, nodes)
            whole = time.perf_counter() - begun
            say(f"all {nodes} nodes can be queried after {whole:.1f} s")
            await asyncio.sleep(5)  # their greetings are not what an ordinary moment costs
            costs = Costs(_processes(up.pid))
            waiting = asyncio.create_task(asyncio.sleep(seconds))
            found = await latencies(cloud, _SAMPLES, seconds)
            await waiting
            check(bool(found), "no sample was heard")
            return whole, found, costs.taken()


async def _all_queryable(cloud: Minicloud, nodes: int) -> None:
    told = time.perf_counter()
    while True:
        total = 0
        with suppress(Exception):
            total = (await cloud.query("label.simulated=true", limit=1, fields=["name"])).total
        if total >= nodes:
            return
        if time.perf_counter() - told > 5:
            told = time.perf_counter()
            say(f"{total} of {nodes} nodes can be queried")
        await asyncio.sleep(0.05)


def _processes(pid: int) -> dict[str, int]:
    """The stack's processes by name."""
    named = {"minicloud up": pid}
    for child in psutil.Process(pid).children(recursive=True):
        words = child.cmdline()
        named[" ".join(words[words.index("-m") + 1 :][:2]) if "-m" in words else Path(words[0]).name] = (
            child.pid
        )
    return named


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    main(options.nodes, options.seconds)
