"""Queries over HTTP, beside the same over the bus: one connection and 32; p50, p99, queries a second.

``python -m bench.rid_http [--nodes 10000] [--seconds 5]``: a real broker, a real rid in a process of its own, and
a client of plain asyncio that keeps its connections open. Each answer is checked against brute force once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from bench.rid_fresh import until
from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from bus.settings import Settings
from schemas.flatten import attributes_of
from schemas.predicate import matches
from schemas.query import Query
from tests.rid import nodes

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_CITIES = ["Athens", "Pisa", "Graz", "Turku", "Delft", "Porto", "Brno", "Cork"]


class Connection:
    """One connection that is kept alive: a request, its answer, the next."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, document: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(document).encode()
        head = f"POST /v1/query HTTP/1.1\r\nHost: rid\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        told = await self._reader.readuntil(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200"), told
        found = re.search(rb"content-length: (\d+)", told)
        assert found is not None
        answer: dict[str, Any] = json.loads(await self._reader.readexactly(int(found[1])))
        return answer

    def close(self) -> None:
        self._writer.close()


def questions(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Three conditions, sorted, the best ten."""
    return [
        {
            "where": {
                "cpu.arch": "x86_64",
                "region.city": {"$in": rng.sample(_CITIES, 2)},
                "memory.total": {"$gte": f"{rng.choice([4, 8, 16])}GiB"},
            },
            "sort": [{"memory.total": "desc"}],
            "limit": 10,
            "fields": ["name", "memory.total"],
        }
        for _ in range(count)
    ]


async def measure(asks: list[Ask], asked: list[dict[str, Any]], seconds: float) -> str:
    """All connections ask one after the other for a while."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def one(ask: Ask, at: int) -> None:
        while (begun := time.perf_counter()) < end:
            await ask(asked[at % len(asked)])
            taken.append((time.perf_counter() - begun) * 1e3)
            at += 1

    await asyncio.gather(*(one(ask, at * 7) for at, ask in enumerate(asks)))
    p99 = statistics.quantiles(taken, n=100)[98]
    return (
        f"p50 {statistics.median(taken):6.2f} ms  p99 {p99:6.2f} ms  {len(taken) / seconds:7,.0f} queries/s"
    )


async def run(data: Path, count: int, seconds: float) -> None:
    """Start all, check, measure, stop all."""
    rng = random.Random(1)
    with Broker(data) as broker:
        admin = Credentials(data).add("admin", "bench")
        access = {"broker": broker.url, "user": admin.user, "password": admin.password}
        settings = Settings.load({}, minicloud="bench", **access)
        port = free_port()
        told = {**access, "minicloud": "bench", "http_port": str(port), "log_level": "error"}
        environment = {f"MINICLOUD_{name.upper()}": value for name, value in told.items()}
        async with await Bus.connect(settings.endpoint("bench"), "bench", "bench") as bus:
            await bus.ensure_streams()
            rows = await fill(bus, count, rng)
            rid = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.rid", env={**os.environ, **environment}
            )
            try:
                await until(bus, "total", count)
                await until(bus, "revision", count)  # the change log is whole: rid is at rest
                await compare(bus, port, rows, seconds, psutil.Process(rid.pid))
            finally:
                rid.terminate()
                await rid.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def fill(bus: Bus, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Publish so many nodes; returns their attributes."""
    rows: list[dict[str, Any]] = []
    for at in range(0, count, 500):
        batch = [
            nodes.characterization(
                f"n{number}",
                "bench",
                region={"city": rng.choice(_CITIES)},
                memory={"total": rng.choice([2, 4, 8, 16, 32]) * 1024**3},
            )
            for number in range(at, min(count, at + 500))
        ]
        rows += [dict(attributes_of(one)) for one in batch]
        await asyncio.gather(*(bus.publish(bus.subjects.characterization(one.node), one) for one in batch))
    return rows


async def compare(
    bus: Bus, port: int, rows: list[dict[str, Any]], seconds: float, process: psutil.Process
) -> None:
    """Check, then HTTP with one and 32 connections, then the bus likewise."""
    asked = questions(200, random.Random(2))
    connections = [await Connection.open("127.0.0.1", port) for _ in range(32)]
    for question in asked[:50]:
        predicate = Query.model_validate(question).predicate
        found = [row for row in rows if matches(predicate, row)]
        found.sort(key=lambda row: (-row["memory.total"], row["name"]))
        answer = await connections[0].ask(question)
        assert answer["total"] == len(found)
        assert [node["name"] for node in answer["nodes"]] == [row["name"] for row in found[:10]]
    print(f"{len(rows)} nodes; 50 answers over HTTP equal brute force")

    async def over_the_bus(question: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await bus.request("rid", "query", question)
        return answer

    for name, asks in (
        ("HTTP, 1 connection", [connections[0].ask]),
        ("HTTP, 32 connections", [connection.ask for connection in connections]),
        ("bus, 1 at a time", [over_the_bus]),
        ("bus, 32 at a time", [over_the_bus] * 32),
    ):
        process.cpu_percent()
        line = await measure(list(asks), asked, seconds)
        print(f"{name:<22}{line}  rid {process.cpu_percent():3.0f} % of a core")
    for connection in connections:
        connection.close()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        asyncio.run(run(Path(data), options.nodes, options.seconds))


if __name__ == "__main__":
    main()
