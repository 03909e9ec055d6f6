"""A thousand standing queries beside 100,000 updates a second: what they cost, and that they are right.

``python -m bench.rid_standing [--nodes 100000] [--queries 1000] [--rate 100000] [--seconds 10]``. Updates come
at the rate asked for, nine metrics each; the cost of the standing queries is the CPU time with them less the
CPU time of the same updates without. What readers hold at the end is held against brute force.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import time
from typing import Any

import psutil

from bench.rid_query import metrics, node, queries
from schemas.attributes import Value
from schemas.predicate import matches
from schemas.query import Query
from services.rid.columns import ColumnIndex
from services.rid.index import Index
from services.rid.standing import Standing, Watcher

Update = tuple[str, dict[str, Value]]


class Fleet:
    """Nodes, and what their agents will say."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.rows = {str(row["name"]): row for row in (node(at, rng) for at in range(count))}
        names = list(self.rows)
        self.updates: list[Update] = [(rng.choice(names), metrics(rng)) for _ in range(100_000)]

    def index(self) -> ColumnIndex:
        """All of them, indexed."""
        index = ColumnIndex()
        for name, row in self.rows.items():
            index.put(name, row)
        return index


async def flow(write: Index, updates: list[Update], rate: int, seconds: float) -> tuple[int, float]:
    """Write at a rate; returns how many updates it were and the CPU time that all took."""
    begun, cpu = time.perf_counter(), time.process_time()
    done = 0
    while (passed := time.perf_counter() - begun) < seconds:
        for _ in range(int(passed * rate) - done):
            name, values = updates[done % len(updates)]
            write.update(name, values)
            done += 1
            if done % 250 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    return done, time.process_time() - cpu


def standing_queries(count: int, rng: random.Random, fields: list[str]) -> list[Query]:
    """Three to five conditions each, as in ``bench/rid_query.py``."""
    return [Query.model_validate({"where": query.where, "fields": fields}) for query in queries(count, rng)]


async def read(watchers: list[Watcher], held: list[dict[str, dict[str, Any]]]) -> int:
    """Each reader takes what there is; returns how many items it was."""
    items = 0
    for watcher, nodes in zip(watchers, held, strict=True):
        while watcher.behind:
            for item in watcher.pull(500):
                item.apply(nodes)
                items += 1
            await asyncio.sleep(0)
    return items


def drift(fleet: Fleet, rng: random.Random) -> list[Update]:
    """Metrics as they move from one sample to the next: by a few parts in a hundred."""
    updates = []
    for name, _ in fleet.updates:
        row = fleet.rows[name]
        moved = {key: row[key] for key in metrics(random.Random(0))}
        updates.append((name, {k: type(v)(v * rng.uniform(0.97, 1.03)) for k, v in moved.items()}))  # type: ignore[arg-type,call-arg,operator]
    return updates


def choosy(count: int, rng: random.Random) -> list[Query]:
    """As a placement or a dashboard asks: a place, a kind of machine and two ranges; some tens of nodes match."""
    made = []
    for query in queries(count, rng):
        assert isinstance(query.where, dict)
        where = {
            **query.where,
            "region.city": rng.choice(["Athens", "Pisa", "Graz", "Turku"]),
            "cpu.cores": rng.choice([2, 4, 8]),
            "memory.total": rng.choice([8, 16, 32]) * 1024**3,
            "os.name": rng.choice(["debian", "alpine"]),
            "load.5m": {"$lt": rng.uniform(0.3, 1)},
            "memory.available": {"$gte": rng.randrange(16, 32) * 1024**3},
        }
        made.append(Query.model_validate({"where": where, "fields": ["name", "load.5m"]}))
    return made


async def sifted(
    index: ColumnIndex, updates: list[Update], options: argparse.Namespace, alone: float
) -> None:
    """The sieve alone: every mark is made, kept and taken, but nobody looks."""
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    standing = Standing(index, lambda: 0, lambda query: query.predicate, bound=10**9)
    asked = standing_queries(options.queries, random.Random(2), ["name"])
    watchers = [standing.add(query) for query in asked]
    for watcher in watchers:
        watcher.resume(0, [])
        watcher.pull(1)
    grown = (process.memory_info().rss - before) / options.queries / 1024
    marks = 0

    async def take() -> None:
        nonlocal marks
        while True:
            await asyncio.sleep(0.25)
            for watcher in watchers:
                marks += watcher._interest._count
                watcher._interest._unmark()

    tasks = [asyncio.create_task(standing.run()), asyncio.create_task(take())]
    done, cpu = await flow(standing.written, updates, options.rate, options.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    cost = cpu / done - alone
    print(
        f"  {options.queries} standing queries: {cost * options.rate * 100:5.1f} % of a core more, "
        f"{cost * 1e6:.2f} us an update, {cost / options.queries * 1e9:.2f} ns a pair; "
        f"{marks / options.seconds:,.0f} marks/s at {done / options.seconds:,.0f} updates/s; {grown:.0f} KiB a query"
    )
    for watcher in watchers:
        watcher.close()


async def served(
    index: ColumnIndex, fleet: Fleet, updates: list[Update], options: argparse.Namespace, alone: float
) -> None:
    """Readers that keep up, four times a second; then each is held against brute force."""
    standing = Standing(index, lambda: 0, lambda query: query.predicate)
    asked = choosy(options.queries, random.Random(3))
    watchers = [standing.add(query) for query in asked]
    held: list[dict[str, dict[str, Any]]] = [{} for _ in watchers]
    told = await read(watchers, held)
    tasks = [asyncio.create_task(standing.run())]
    items = 0

    async def keep_up() -> None:
        nonlocal items
        while True:
            await asyncio.sleep(0.25)
            items += await read(watchers, held)

    tasks.append(asyncio.create_task(keep_up()))
    done, cpu = await flow(standing.written, updates, options.rate, options.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    standing.sift()
    await read(watchers, held)
    cost = cpu / done - alone
    print(
        f"  {options.queries} readers of {told / options.queries:.0f} nodes each: "
        f"{cost * options.rate * 100:5.1f} % of a core more, {items / options.seconds:,.0f} items/s "
        f"at {done / options.seconds:,.0f} updates/s"
    )
    rows = {name: index.get(name) or {} for name in fleet.rows}
    for query, nodes in list(zip(asked, held, strict=True))[: options.checked]:
        expected = {
            name: {"name": name, "load.5m": row["load.5m"]}
            for name, row in rows.items()
            if matches(query.predicate, row)
        }
        assert nodes == expected, query.where
    print(f"  what the first {options.checked} hold equals brute force over every node")


async def run(options: argparse.Namespace) -> None:
    """Measure without, with all marks made, and with readers; then check."""
    rng = random.Random(1)
    fleet = Fleet(options.nodes, rng)
    index = fleet.index()
    slow = drift(fleet, rng)
    gc.collect()
    gc.freeze()
    done, cpu = await flow(index, fleet.updates, options.rate, options.seconds)
    alone = cpu / done
    print(f"{options.nodes} nodes, {done / options.seconds:,.0f} updates/s of 9 metrics")
    print(f"  without standing queries: {alone * options.rate * 100:5.1f} % of a core")
    print("each sample random, so that every third pair moves")
    await sifted(index, fleet.updates, options, alone)
    print("samples that drift by up to 3 % from one state")
    await flow(index, slow, options.rate, options.seconds / 5)
    await sifted(index, slow, options, alone)
    await served(index, fleet, slow, options, alone)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=20)
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
