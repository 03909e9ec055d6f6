"""From a killed rid to one that answers for the whole fleet: from MongoDB, and from the bus alone.

``python -m bench.rid_restart [--nodes 100000] [--times 3]``: a real broker, a server that speaks MongoDB's
protocol, and rid in a process of its own that is killed each time. After each restart every node is
compared with what its events say.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from pymongo import MongoClient

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from bus.settings import Settings
from bus.streams import STREAMS
from schemas.errors import MinicloudError, Unavailable
from tests.parts.mongodb import MongoServer, named_server
from tests.parts.part import PartMissing
from tests.parts.process import free_port
from tests.rid import nodes

_MC = "bench"
_CITIES = ["Athens", "Pisa", "Graz", "Turku"]
_KEPT = ("characterizations", "presence", "metrics", "resources")


def facts(at: int) -> dict[str, Any]:
    """What is checked of each node."""
    return {
        "cpu.cores": 1 + at % 16,
        "region.city": _CITIES[at % 4],
        "rack": f"r{at % 100}",
        "load.1m": at % 997 / 100,
        "state": "alive",
    }


async def publish(bus: Bus, count: int) -> None:
    """Everything that the fleet says once."""
    s = bus.subjects

    async def say(at: int) -> None:
        node, told = f"n{at:06}", facts(at)
        what = nodes.characterization(
            node,
            _MC,
            cpu={"arch": "x86_64", "bits": 64, "cores": told["cpu.cores"], "model": "A CPU"},
            region={"country": "GR", "city": told["region.city"]},
            rack=told["rack"],
        )
        sample = nodes.measurement(
            node, load_1m=told["load.1m"], load_5m=0.5, load_15m=0.4, cpu_used=12.5, disk_free=1e10
        )
        await bus.publish(s.characterization(node), what)
        await bus.publish(s.presence(node), nodes.presence(node))
        await bus.publish(s.metrics(node), sample)

    for begin in range(0, count, 1000):
        await asyncio.gather(*(say(at) for at in range(begin, min(count, begin + 1000))))


@contextlib.asynccontextmanager
async def rid(told: dict[str, Any], output: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """rid in a process of its own; killed at the end."""
    environment = {f"MINICLOUD_{name.upper()}": str(value) for name, value in told.items()}
    with output.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.rid", env={**os.environ, **environment}, stderr=log
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until_answers(
    bus: Bus, count: int, process: asyncio.subprocess.Process, part: str = "total"
) -> float:
    """Seconds until the whole fleet is answered for, or in the change log (``part`` is ``revision``)."""
    begun = time.perf_counter()
    while process.returncode is None:
        with contextlib.suppress(Unavailable):
            answer = await bus.request("rid", "query", {"fields": ["name"], "limit": 1}, timeout=1.0)
            if answer[part] >= count:
                return time.perf_counter() - begun
        await asyncio.sleep(0.02)
    raise AssertionError(f"rid ended with {process.returncode}")


async def check(port: int, count: int) -> None:
    """Every node is what its events say."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        asked = {"fields": list(facts(0)), "where": "state"}
        found = (await http.post("/v1/query", json=asked)).json()["nodes"]
    told = {node.pop("name"): node for node in found}
    expected = {f"n{at:06}": facts(at) for at in range(count)}
    wrong = [name for name in expected if told.get(name) != expected[name]]
    assert not wrong, f"{len(wrong)} nodes, {wrong[0]}: {told.get(wrong[0])} for {expected[wrong[0]]}"


async def until_written(bus: Bus, url: str) -> None:
    """Wait until the log has every node and MongoDB is where the streams are."""
    with MongoClient[dict[str, Any]](url) as client:
        kept = client[f"minicloud_{_MC}"]["meta"]
        while True:
            await asyncio.sleep(0.25)
            streams = {
                stream.kind: (await bus.jetstream.api(f"STREAM.INFO.{stream.name(_MC)}"))["state"]["last_seq"]
                for stream in STREAMS
                if stream.kind in _KEPT
            }
            found = await asyncio.to_thread(kept.find_one, {"_id": "positions"}) or {}
            if {kind: revision for kind, (_, revision) in found.get("streams", {}).items()} == streams:
                return


@contextlib.contextmanager
def mongodb(folder: Path) -> Iterator[str | None]:
    """The URL of the server, or None where there is none."""
    if url := named_server():
        yield url
        return
    try:
        server = MongoServer().start(folder / "mongodb", heap="2g")
    except PartMissing as missing:
        print(f"no MongoDB: {missing}")
        yield None
        return
    with server:
        yield server.url


async def run(folder: Path, count: int, times: int) -> None:
    """Start all, measure, stop all."""
    output = folder / "rid.log"
    with Broker(folder / "broker") as broker, mongodb(folder) as url:
        admin = Credentials(folder / "broker").add("admin", "bench")
        access = {"broker": broker.url, "user": admin.user, "password": admin.password}
        port = free_port()
        told = {
            "minicloud": _MC, **access, "instance": "rid", "log_level": "info", "http_port": port,
            "stale_after": 36000, "lost_after": 36000, "store_every": 1, "store_metrics_every": 2,
        }  # fmt: skip
        durable = {**told, "mongodb_url": url} if url else told
        settings = Settings.load({}, minicloud=_MC, **access)
        async with await Bus.connect(settings.endpoint("bench"), _MC, "bench") as bus:
            await bus.ensure_streams()
            async with rid(durable, output) as process:
                begun = time.perf_counter()
                await publish(bus, count)
                publishing = time.perf_counter() - begun
                await until_answers(bus, count, process)
                indexed = time.perf_counter() - begun
                await until_answers(bus, count, process, "revision")
                logged = time.perf_counter() - begun
                if url:
                    await until_written(bus, url)
                stored = time.perf_counter() - begun
                await check(port, count)
            print(f"{count:,} nodes said what they are in {publishing:.1f} s; after {indexed:.1f} s indexed,")
            print(f"after {logged:.1f} s in the change log, after {stored:.1f} s in MongoDB")
            rows: list[tuple[str, list[float], float]] = []
            for name, how in (("MongoDB", durable if url else None), ("the bus alone", told)):
                if how is None:
                    continue
                taken, rss = [], 0.0
                for _ in range(times):
                    async with rid(how, output) as process:
                        taken.append(await until_answers(bus, count, process))
                        await check(port, count)
                        rss = psutil.Process(process.pid).memory_info().rss / 2**20
                rows.append((name, taken, rss))
            print(
                f"{'restart to ready from':<24}{'best s':>8}{'median s':>10}{'nodes/s':>10}{'ratio':>8}{'RSS MiB':>9}"
            )
            for name, taken, rss in rows:
                middle = statistics.median(taken)
                ratio = middle / statistics.median(rows[-1][1])
                print(
                    f"{name:<24}{min(taken):>8.2f}{middle:>10.2f}{count / middle:>10,.0f}{ratio:>7.2f}x{rss:>9.0f}"
                )
            print("killed each time; every node compared with what its events say")
            sizes = [
                (stream.kind, (await bus.jetstream.api(f"STREAM.INFO.{stream.name(_MC)}"))["state"])
                for stream in STREAMS
                if stream.kind in _KEPT
            ]
            print("the bus keeps: " + ", ".join(f"{kind} of {state['messages']:,}" for kind, state in sizes))
            said = [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]
            for event in ("read back from MongoDB", "the bus no longer keeps what some nodes are"):
                if lines := [line for line in said if line["event"].startswith(event)]:
                    print(f"rid said: {lines[-1]}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    with tempfile.TemporaryDirectory() as data:
        try:
            asyncio.run(run(Path(data), options.nodes, options.times))
        except MinicloudError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
