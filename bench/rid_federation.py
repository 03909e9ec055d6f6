"""Queries over several miniclouds: scatter beside replicate beside a local one, with the messages they cost.

``python -m bench.rid_federation [--miniclouds 3 10] [--nodes 1000] [--queries 300]``. Each minicloud is a
nats-server and a rid process of its own on loopback, linked to the first; the last one is asked. Every
answer is checked against brute force over all nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bus.broker import Broker
from bus.bus import Bus, gather_published
from bus.credentials import Credentials
from schemas.errors import Unavailable
from services.rid.settings import RidSettings
from tests.bus.links import sites
from tests.rid import nodes
from tests.rid.miniclouds import one_index, without_age

_CITIES = ["Athens", "Pisa", "Graz", "Turku", "Delft"]
_FIELDS = ["load.5m", "memory.available", "region.city"]
_GIB = 1024**3


def values(rng: random.Random) -> dict[str, float]:
    return {
        "load.1m": rng.expovariate(1),
        "load.5m": round(rng.expovariate(1), 2),
        "load.15m": rng.expovariate(1),
        "cpu.used": rng.uniform(0, 100),
        "cpu.free": rng.uniform(0, 4),
        "memory.available": float(rng.randrange(8 * _GIB)),
        "disk.free": float(rng.randrange(64 * _GIB)),
        "network.rx": rng.expovariate(1e-6),
        "temperature": rng.uniform(20, 90),
    }


class Site:
    """One minicloud: its broker, its rid's process, a bus of ours."""

    def __init__(self, name: str, bus: Bus) -> None:
        self.name = name
        self.bus = bus
        self.documents: dict[str, dict[str, Any]] = {}

    async def fill(self, count: int, rng: random.Random) -> None:
        said = []
        for at in range(count):
            name, city = f"node-{at:05}", rng.choice(_CITIES)
            said.append((self.bus.subjects.characterization(name), self._what(name, city)))
            self.documents[name] = {
                "name": name,
                "minicloud": self.name,
                "state": "alive",
                "region.city": city,
            }
            said.append((self.bus.subjects.metrics(name), self._how(name, values(rng))))
        for begin in range(0, len(said), 500):
            await gather_published([self.bus.publish(*one) for one in said[begin : begin + 500]])

    def _what(self, name: str, city: str) -> Any:
        return nodes.characterization(name, self.name, region={"country": "EU", "city": city})

    def _how(self, name: str, sample: dict[str, float]) -> Any:
        self.documents[name] |= sample | {"memory.available": round(sample["memory.available"])}
        return nodes.measurement(name, 3600).model_copy(update={"values": sample})

    async def measure(self, rng: random.Random) -> None:
        """A sample of every node."""
        samples = [self._how(name, values(rng)) for name in self.documents]
        for sample in samples:
            await self.bus.emit(self.bus.subjects.metrics(sample.node), sample)
        await self.bus.flush()

    async def ask(self, **query: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.bus.request("rid", "query", query, timeout=30)
        return answer

    async def until(self, total: int, mode: str) -> None:
        deadline = time.monotonic() + 120
        while True:
            with suppress(Unavailable):
                scope = {"mode": mode, "deadline": "10s"}
                answer = await self.ask(fields=["name"], limit=1, scope=scope)
                if answer["total"] == total and answer["complete"]:
                    return
            assert time.monotonic() < deadline, f"not all nodes are found by {mode}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def site(name: str, broker: Broker) -> AsyncIterator[Site]:
    known = Credentials(broker.data)
    admin = known.ensure("admin", "bench")
    secret = broker.data / "secrets" / f"minicloud.{name}"
    access = {"broker": broker.url, "minicloud": name, "user": admin.user, "password": admin.password}
    async with await Bus.connect(RidSettings.load({}, **access).endpoint("bench"), name, "bench") as bus:
        await bus.ensure_streams()
        environment = {
            **os.environ,
            **{f"MINICLOUD_{key.upper()}": text for key, text in access.items()},
            "MINICLOUD_LINK_PASSWORD_FILE": str(secret),
            "MINICLOUD_LOST_AFTER": "36000",
        }
        rid = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.rid", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield Site(name, bus)
        finally:
            rid.terminate()
            await rid.wait()


def crossed(hub: Broker) -> tuple[int, int]:
    """Messages and bytes that crossed all links so far, each way counted; every link ends at the hub."""
    links = hub.monitor("leafz")["leafs"]
    return (
        sum(link["in_msgs"] + link["out_msgs"] for link in links),
        sum(link["in_bytes"] + link["out_bytes"] for link in links),
    )


def queries(count: int, rng: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "where": {
                "load.5m": {"$lt": round(rng.uniform(0.2, 3), 2)},
                "region.city": {"$in": rng.sample(_CITIES, 2)},
                "memory.available": {"$gte": rng.randrange(1, 6) * _GIB},
            },
            "sort": [{"load.5m": "asc"}],
            "limit": 10,
            "fields": _FIELDS,
        }
        for _ in range(count)
    ]


async def timed(
    asked: Site, everything: list[dict[str, Any]], scope: dict[str, Any], questions: list[dict[str, Any]]
) -> list[float]:
    """Milliseconds of each query; every answer is right and complete."""
    taken, answers = [], []
    for question in questions:
        begun = time.perf_counter()
        answers.append(await asked.ask(**question, scope=scope))
        taken.append((time.perf_counter() - begun) * 1e3)
    for question, answer in itertools.islice(zip(questions, answers, strict=True), 50):
        expected, total = one_index(everything, question)
        assert without_age(answer["nodes"]) == expected, question
        assert (answer["total"], answer["complete"]) == (total, True)
    return taken


async def measured(count: int, size: int, questions: list[dict[str, Any]], folder: Path) -> None:
    """One federation of so many miniclouds."""
    names = [f"m{at:02}" for at in range(count)]
    rng = random.Random(1)
    with sites(folder, *names) as brokers:
        hub = brokers[names[0]]
        async with AsyncExitStack() as stack:
            all_sites = [await stack.enter_async_context(site(name, brokers[name])) for name in names]
            for one in all_sites:
                await one.fill(size, rng)
            asked = all_sites[-1]
            for mode in ("scatter", "replicate"):
                await asked.until(count * size, mode)
            everything = [node for one in all_sites for node in one.documents.values()]
            own = list(asked.documents.values())
            before, begun = crossed(hub)[0], time.monotonic()
            await asyncio.sleep(5)
            idle = (crossed(hub)[0] - before) / (time.monotonic() - begun)
            ways = {
                "local": (own, {"miniclouds": [asked.name]}),
                "replicate": (everything, {"mode": "replicate"}),
                "scatter": (everything, {"mode": "scatter", "deadline": "10s"}),
            }
            for way, (documents, scope) in ways.items():
                await timed(asked, documents, scope, questions[:50])
                before, begun = crossed(hub)[0], time.monotonic()
                taken = await timed(asked, documents, scope, questions)
                extra = crossed(hub)[0] - before - idle * (time.monotonic() - begun)
                p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
                each = max(0.0, extra / len(questions))
                print(f"{count:>10} {way:<12}{p50:>10.2f}{p99:>10.2f}{each:>22.1f}")
            updates, seconds = len(asked.documents), 6
            messages, volume = crossed(hub)
            begun = time.monotonic()
            for second in range(seconds):
                await asked.measure(rng)
                await asyncio.sleep(max(0.0, begun + second + 1 - time.monotonic()))
            took = time.monotonic() - begun
            messages, volume = (after - b for after, b in zip(crossed(hub), (messages, volume), strict=True))
            print(
                f"{count:>10} idle: {idle:.0f} messages/s on all links; one minicloud at {updates} updates/s: "
                f"{messages / took:.0f} messages/s, {volume / took / 1024:.0f} KiB/s "
                f"(before compression)"
            )
            for other in all_sites:
                await other.until(count * size, "replicate")
            documents = [node for one in all_sites for node in one.documents.values()]
            await asyncio.sleep(2.5)  # two heartbeats: the copies have the last samples
            own = list(asked.documents.values())
            await timed(asked, own, {"miniclouds": [asked.name]}, questions[:50])
            await timed(all_sites[0], documents, {"mode": "replicate"}, questions[:50])


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--miniclouds", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    print(f"{options.nodes} nodes a minicloud; answers equal brute force; loopback")
    print(f"{'miniclouds':>10} {'mode':<12}{'p50 ms':>10}{'p99 ms':>10}{'messages a query':>22}")
    for count in options.miniclouds:
        with tempfile.TemporaryDirectory() as folder:
            questions = queries(options.queries, random.Random(2))
            asyncio.run(measured(count, options.nodes, questions, Path(folder)))


if __name__ == "__main__":
    main()
