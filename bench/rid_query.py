"""The resource index beside its peers: the same nodes, queries and updates, side by side in one run.

``python -m bench.rid_query [--nodes 100000] [--large 1000000] [--queries 300]``. Every engine is checked
against brute force over plain dictionaries before it is timed, and again after updates. Then rid alone in
one event loop: queries come at random while 100,000 updates a second flow in, first as values, then as the
JSON of the bus, which is read, checked and taken in as the service does it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from bench.rid_peers import Columns, Dicts, DuckDb, Mongo, Peer, Polars, Row, Sqlite, frame_of
from schemas.attributes import Value
from schemas.event import event
from schemas.liveness import Thresholds
from schemas.node import Measurement
from schemas.query import Query
from schemas.sample import read_sample
from services.rid.columns import ColumnIndex
from services.rid.ingest import Ingest
from tests.parts.mongodb import MongoServer, named_server, own_database
from tests.parts.part import PartMissing

_GIB = 1024**3
_CITIES = ["Athens", "Pisa", "Graz", "Turku", "Delft", "Porto", "Brno", "Cork"]
#: A flow is taken in by so many updates at a time, as the service takes it in.
_AT_ONCE = 16
#: Each figure is that of the best of so many rounds: the machine has other work, too.
_ROUNDS = 5
#: Beyond so many nodes, SQLite and MongoDB take minutes to load and to answer.
_SMALL = 200_000


def metrics(rng: random.Random) -> dict[str, Value]:
    """One sample of a node."""
    return {
        "cpu.used": rng.uniform(0, 100),
        "memory.available": rng.randrange(64 * _GIB),
        "load.1m": rng.expovariate(1),
        "load.5m": rng.expovariate(1),
        "load.15m": rng.expovariate(1),
        "disk.free": rng.randrange(2048 * _GIB),
        "network.rx": rng.expovariate(1e-6),
        "network.tx": rng.expovariate(1e-6),
        "temperature": rng.uniform(20, 90),
    }


def node(at: int, rng: random.Random) -> dict[str, Value]:
    """A believable node with 25 attributes."""
    return {
        "name": f"node-{at:07}",
        "id": f"{rng.getrandbits(128):032x}",
        "minicloud": "home",
        "cpu.arch": rng.choice(["x86_64", "x86_64", "aarch64", "armv7l"]),
        "cpu.bits": 64,
        "cpu.cores": rng.choice([1, 2, 4, 8, 16]),
        "memory.total": rng.choice([1, 2, 4, 8, 16, 32, 64]) * _GIB,
        "disk.total": rng.choice([16, 32, 256, 1024]) * _GIB,
        "gpu": rng.random() < 0.1,
        "battery": rng.random() < 0.2,
        "os.name": rng.choice(["debian", "alpine", "ubuntu"]),
        "os.version": rng.choice(["11", "12", "13", "3.19", "22.04"]),
        "region.country": "GR",
        "region.city": rng.choice(_CITIES),
        "state": "alive" if rng.random() < 0.97 else "stale",
        "worker": rng.random() < 0.9,
        **metrics(rng),
    }


def queries(count: int, rng: random.Random) -> list[Query]:
    """Three to five conditions, sorted by a metric, the best 10 to 100."""
    made = []
    for _ in range(count):
        parts: list[dict[str, Any]] = [
            {"cpu.arch": rng.choice(["x86_64", "aarch64"])},
            {"memory.available": {"$gte": rng.randrange(1, 32) * _GIB}},
            {"load.5m": {"$lt": rng.uniform(0.2, 3)}},
            {"region.city": {"$in": rng.sample(_CITIES, 3)}},
            {"gpu": rng.random() < 0.3},
            {"cpu.cores": {"$gte": rng.choice([2, 4, 8])}},
            {"state": "alive"},
            {"temperature": {"$lt": rng.uniform(40, 80)}},
        ]
        where = {name: value for part in rng.sample(parts, rng.randint(3, 5)) for name, value in part.items()}
        made.append(
            Query.model_validate(
                {
                    "where": where,
                    "sort": [{"load.1m": "asc"}],
                    "limit": rng.choice([10, 20, 100]),
                    "fields": ["name", "load.1m", "memory.available"],
                }
            )
        )
    return made


def fleet(count: int) -> Iterator[Row]:
    """The nodes; the same ones each time."""
    rng = random.Random(1)
    return (node(at, rng) for at in range(count))


def build(count: int) -> tuple[ColumnIndex, float, float, float]:
    """The index, seconds to make it, bytes a node, and those of running means on top."""
    process = psutil.Process(os.getpid())
    gc.collect()
    before = process.memory_info().rss
    index, taken = ColumnIndex(), 0.0
    for row in fleet(count):
        begun = time.perf_counter()
        index.put(str(row["name"]), row)
        taken += time.perf_counter() - begun
    gc.collect()
    bare = process.memory_info().rss
    for minute in range(16):
        list(index.sampling(1e9 + 60 * minute))
    return index, taken, (bare - before) / count, (process.memory_info().rss - bare) / count


def timed(work: Callable[[Query], Any], asked: list[Query], patience: float = 15.0) -> list[list[float]]:
    """Milliseconds of each query, round after round, until patience ends."""
    rounds: list[list[float]] = []
    until = time.perf_counter() + patience
    while len(rounds) < _ROUNDS and (not rounds or time.perf_counter() < until):
        taken: list[float] = []
        for query in asked:
            begun = time.perf_counter()
            work(query)
            taken.append((time.perf_counter() - begun) * 1e3)
            if begun > until and len(taken) >= 5:
                break
        rounds.append(taken)
    return rounds


def best(rounds: list[list[float]], percent: int) -> float:
    """A percentile in the round that the rest of the machine disturbed least."""
    return min(statistics.quantiles(taken, n=100, method="inclusive")[percent - 1] for taken in rounds)


def changes_of(count: int, nodes: int, rng: random.Random) -> list[tuple[str, Row]]:
    """Updates of nine metrics each; of a thousand in a row each is of another node."""
    made: list[tuple[str, Row]] = []
    while len(made) < count:
        several = min(1000, nodes, count - len(made))
        made += [(f"node-{at:07}", metrics(rng)) for at in rng.sample(range(nodes), several)]
    return made


def updating(peer: Peer, changes: list[tuple[str, Row]], patience: float = 8.0) -> tuple[float, int]:
    """Updates a second, and how many of ``changes`` were made."""
    begun = time.perf_counter()
    done = 0
    while done < len(changes) and time.perf_counter() - begun < patience:
        peer.update(changes[done : done + 1000])
        done += len(changes[done : done + 1000])
    return done / (time.perf_counter() - begun), done


async def in_one_loop(
    peer: Columns, asked: list[Query], take: Callable[[int], None], updates: float, rate: float
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each query, told in three ways, and the updates a second meanwhile.

    ``take`` takes in so many updates, beginning with the one of a number.
    """
    loop, rng = asyncio.get_running_loop(), random.Random(3)
    done, stop = 0, False
    begun = loop.time()

    async def flow() -> None:
        nonlocal done
        while not stop:
            due = int((loop.time() - begun) * updates)
            while done < due and not stop:
                take(done)
                done += _AT_ONCE
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)

    arrived: asyncio.Queue[tuple[Query, float]] = asyncio.Queue()

    def arrive(at: int) -> None:
        arrived.put_nowait((asked[at], loop.time()))
        if at + 1 < len(asked):
            loop.call_later(rng.expovariate(rate), arrive, at + 1)

    flowing = asyncio.create_task(flow())
    taken: dict[str, list[float]] = {"its CPU time": [], "a query by itself": [], "with its wait": []}
    arrive(0)
    for _ in asked:
        query, came = await arrived.get()
        started, worked = loop.time(), time.thread_time()
        peer.ask(query)
        ended, done_working = loop.time(), time.thread_time()
        moments = (done_working - worked, ended - started, ended - came)
        for several, moment in zip(taken.values(), moments, strict=True):
            several.append(moment * 1e3)
    stop = True
    await flowing
    return taken, done / (loop.time() - begun)


@contextlib.contextmanager
def mongo_peer(rows: list[Row]) -> Iterator[Mongo | None]:
    """A peer on the server that can be had, or None where none can."""
    with contextlib.ExitStack() as stack:
        url, name = named_server(), "MongoDB"
        if url is None:
            name = "mongo-java-server"
            try:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = stack.enter_context(MongoServer().start(folder / "data", heap="2g")).url
            except PartMissing as missing:
                print(f"no MongoDB beside it: {missing}")
        if url is None:
            yield None
            return
        database = stack.enter_context(own_database(url))
        yield Mongo(database["nodes"], rows, name)


def others(rows: list[Row]) -> Iterator[Callable[[], AbstractContextManager[Peer | None]]]:
    """How to make each of the others, when its turn comes."""
    frame = frame_of(rows)
    yield lambda: nullcontext(Polars(frame))
    yield lambda: nullcontext(DuckDb(frame))
    if len(rows) <= _SMALL:
        yield lambda: nullcontext(Sqlite(rows))
        yield lambda: mongo_peer(rows)


def checked(peer: Peer, truth: Dicts, asked: list[Query], when: str) -> None:
    """Compare with brute force; a wrong answer ends the benchmark."""
    for query in asked:
        found, expected = peer.ask(query), truth.ask(query)
        assert found == expected, f"{peer.name} {when}: {query.where}: {found[1]} instead of {expected[1]}"


def one_size(count: int, asked: list[Query], updates: int, checks: int, *, alone: bool = False) -> Columns:
    """Build all engines that are fit for so many nodes, check, time and print them; the index."""
    index, loading, bytes_a_node, bytes_of_means = build(count)
    rows = list(fleet(count))
    ours, truth = Columns(index), Dicts(rows)
    changes = changes_of(updates, count, random.Random(2))
    print(f"\n{count:,} nodes x {len(rows[0])} attributes")
    print(
        f"{'engine':<20}{'query p50 ms':>13}{'p99 ms':>10}{'p50 ratio':>11}{'updates/s':>12}  {'given':<10}"
    )
    gc.collect()
    gc.freeze()
    first = 0.0
    # The truth itself is changed last: until then it says what each peer started from.
    for make in (lambda: nullcontext(ours), *(() if alone else others(rows)), lambda: nullcontext(truth)):
        with make() as peer:
            if peer is None:
                continue
            few = asked[: checks if peer.quick else 2]
            checked(peer, truth, few, "as loaded")
            rounds = timed(peer.ask, asked)
            p50, p99 = best(rounds, 50), best(rounds, 99)
            first = first or p50
            rate, done = updating(peer, changes)
            if peer is not truth:
                state = Dicts({**row} for row in rows)
                state.update(changes[:done])
                checked(peer, state, few, "after updates")
                del state
            given = "one by one" if peer.together == 1 else f"by {peer.together}"
            print(
                f"{peer.name:<20}{p50:>13.3f}{p99:>10.3f}{p50 / first:>10.1f}x{rate:>12,.0f}  {given}",
                flush=True,
            )
    print("every engine equals brute force, as loaded and after updates of nine metrics each")
    print(
        f"rid: loaded in {loading:.1f} s; {bytes_a_node:.0f} B a node, "
        f"and {bytes_of_means:.0f} B for running means of nine metrics"
    )
    return ours


def flowing(ours: Columns, asked: list[Query], count: int, updates: float, rate: float) -> None:
    """Queries while updates flow in, in one loop; checked after it."""
    # What was just read is still in the cache; the nodes that it is about are anywhere.
    few = changes_of(1000, count, random.Random(4))
    nodes = random.Random(5).choices(range(count), k=50_000)
    changes = [(f"node-{at:07}", few[number % len(few)][1]) for number, at in enumerate(nodes)]

    def take(done: int) -> None:
        at = done % (len(changes) - _AT_ONCE)
        ours.update(changes[at : at + _AT_ONCE])

    in_rounds("values", ours, asked, take, updates, rate)
    checked(ours, present(ours, count), asked[:10], "after the flow of values")
    ingest = Ingest(ours.index, Thresholds(), lambda *_: None)
    for name in (f"node-{at:07}" for at in range(count)):
        ingest.adopt(name, ours.index.get(name) or {}, time.time())
    payloads = [payload_of(name, row) for name, row in changes]
    gc.collect()
    gc.freeze()

    def read_and_take(done: int) -> None:
        at = done % (len(payloads) - _AT_ONCE)
        for payload in payloads[at : at + _AT_ONCE]:
            sample = read_sample(payload)
            assert sample is not None
            ingest.sample(sample, live=True)

    begun = time.thread_time()
    for done in range(0, 100_000, _AT_ONCE):
        read_and_take(done)
    alone = 100_000 / (time.thread_time() - begun)
    in_rounds("JSON", ours, asked, read_and_take, updates, rate)
    checked(ours, present(ours, count), asked[:10], "after the flow of JSON")
    print(f"all of one core reads, checks and takes in {alone:,.0f} samples of JSON a second")


def payload_of(name: str, values: Row) -> bytes:
    """A sample as the bus brings it."""
    measurement = Measurement.model_validate({"node": name, "interval": 1.0, "values": values})
    return event(measurement, f"/home/{name}", name).to_json()


def present(ours: Columns, count: int) -> Dicts:
    """What the index holds, for brute force."""
    return Dicts(ours.index.get(f"node-{at:07}") or {} for at in range(count))


def in_rounds(
    what: str, ours: Columns, asked: list[Query], take: Callable[[int], None], updates: float, rate: float
) -> None:
    """Run the loop several times and print the figures."""
    rounds: dict[str, list[list[float]]] = {}
    rates = []
    for _ in range(_ROUNDS):
        told, reached = asyncio.run(in_one_loop(ours, asked, take, updates, rate))
        rates.append(reached)
        for way, taken in told.items():
            rounds.setdefault(way, []).append(taken)
    print(
        f"\nin one loop with {max(rates):,.0f} updates/s of nine metrics each as {what} ({min(rates):,.0f} in "
        f"the slowest of {_ROUNDS} rounds), {rate:,.0f} queries/s wanted; the best round of each, and the worst:"
    )
    for way, several in rounds.items():
        worst = max(statistics.quantiles(taken, n=100, method="inclusive")[98] for taken in several)
        print(
            f"{way:<24} p50 {best(several, 50):.3f} ms, p99 {best(several, 99):.3f} ms, "
            f"p99 of the worst {worst:.3f} ms"
        )


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000, help="another fleet; 0 for none")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--flow", type=float, default=100_000, help="updates a second in the loop")
    parser.add_argument("--rate", type=float, default=1000, help="queries a second in the loop")
    parser.add_argument("--alone", action="store_true", help="without the peers")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    asked = queries(options.queries, random.Random(7))
    ours = one_size(options.nodes, asked, options.updates, 25, alone=options.alone)
    flowing(ours, asked * 7, options.nodes, options.flow, options.rate)
    del ours
    gc.unfreeze()
    gc.collect()
    if options.large:
        one_size(options.large, asked, options.updates, 3, alone=options.alone)


if __name__ == "__main__":
    main()
