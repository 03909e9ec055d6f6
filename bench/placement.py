"""Placement decisions a second at 1,000 and 10,000 nodes, each looking at every node and reserving what it takes.

By the code that vim places new deployments with, beside a plain-Python best fit over the same nodes and requests: the
loop that one writes first. Then end to end: from request events to decision events, over a real bus, rid and vim.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from bench.figures import check, goal, say, table
from bus.broker import Broker
from schemas.decision import Decision
from schemas.deployment import DeploymentRequest
from schemas.event import read_event
from services.vim.fleet import Fleet
from services.vim.ledger import Held, Ledger
from services.vim.placement import place
from tests.vim.conftest import serving
from tests.vim.site import Site, Stack

_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB
_CITIES: Final = ("Athens", "Pisa", "Ghent", "Lyon", "Turku")
_GOAL: Final = 2000.0

Placer = Callable[[str, DeploymentRequest], str | None]


def fleet_of(many: int) -> list[dict[str, Any]]:
    """Nodes of different sizes, places and machines, as the change log tells them."""
    rng = random.Random(7)
    return [
        {
            "name": f"n{at:05}",
            "id": f"{at:032x}",
            "state": "alive",
            "worker": True,
            "worker.allow_root": False,
            "runtimes": ["container", "process"],
            "cpu.arch": rng.choice(["x86_64", "x86_64", "aarch64"]),
            "cpu.cores": rng.choice([4, 8, 16, 32]),
            "memory.total": rng.choice([8, 16, 32, 64]) * _GIB,
            "memory.available": rng.randrange(2, 8) * _GIB,
            "load.1m": round(rng.random() * 4, 2),
            "rack": f"r{at % 40}",
            "region.city": rng.choice(_CITIES),
            "gpu": rng.random() < 0.1,
        }
        for at in range(many)
    ]


def requests_of(many: int) -> list[DeploymentRequest]:
    """Requests of different sizes; two of three say where, in ways of their own."""
    rng = random.Random(11)
    wheres: list[dict[str, Any]] = [
        {},
        {"cpu.arch": "x86_64"},
        {"region.city": {"$in": ["Athens", "Pisa", "Ghent"]}, "cpu.cores": {"$gte": 8}},
        {"gpu": True},
        {"$or": [{"region.city": "Lyon"}, {"rack": {"$in": ["r1", "r2", "r3"]}}]},
        {},
    ]
    return [
        DeploymentRequest.model_validate(
            {
                "runtimes": ["container"],
                "images": {"container": {"image": "registry.local/x:1"}},
                "resources": {
                    "cpu": rng.choice([0.1, 0.25, 0.5]),
                    "memory": rng.choice([64, 128, 256]) * _MIB,
                },
                "where": wheres[at % len(wheres)],
                "pack": at % 5 == 0,
            }
        )
        for at in range(many)
    ]


def by_columns(nodes: list[dict[str, Any]], *, explained: bool) -> Placer:
    """As vim does."""
    fleet = Fleet()
    for node in nodes:
        fleet.put(node["name"], node)
    ledger = Ledger(fleet.reserve)

    def decide(deployment: str, request: DeploymentRequest) -> str | None:
        picked = fleet.choose(request)
        if picked is None:
            return None
        if explained:
            picked.unmatched()
            picked.explained()
        ledger.reserve(
            deployment, [Held(p.node, p.cpu, p.memory + p.memory_overhead) for p in picked.placements]
        )
        return picked.placements[0].node

    return decide


def by_rooms(nodes: list[dict[str, Any]]) -> Placer:
    """As vim does where it must ask the index, whose answers are at hand here: one object a node."""
    ledger = Ledger()

    def decide(deployment: str, request: DeploymentRequest) -> str | None:
        matching = [node for node in nodes if _plain_where(request.where, node)]
        choice = place(request, matching, ledger.of_nodes())
        if not choice.placements:
            return None
        ledger.reserve(
            deployment, [Held(p.node, p.cpu, p.memory + p.memory_overhead) for p in choice.placements]
        )
        return choice.placements[0].node

    return decide


def by_a_loop(nodes: list[dict[str, Any]]) -> Placer:
    """The loop that one writes first: every node is tested and scored by hand-written Python, no reason is kept."""
    cpu = {node["name"]: float(node["cpu.cores"]) for node in nodes}
    memory = {node["name"]: node["memory.total"] for node in nodes}

    def decide(_: str, request: DeploymentRequest) -> str | None:
        cores = request.resources.cpu or 0.0
        need = (request.resources.memory or 0) + 8 * _MIB
        best, least = None, -1.0
        for node in nodes:
            name = node["name"]
            if not node["worker"] or node["state"] != "alive" or "container" not in node["runtimes"]:
                continue
            if not _plain_where(request.where, node):
                continue
            if cpu[name] + 1e-6 < cores or memory[name] < need or node["memory.available"] < need:
                continue
            free = memory[name] / node["memory.total"]
            room = _rounded((1 - free if request.pack else free) * 0.5)
            idle = _rounded(0.5 / (1 + node["load.1m"] / node["cpu.cores"]))
            score = _rounded(room + idle)
            if score > least or (score == least and (best is None or name < best)):
                best, least = name, score
        if best is not None:
            cpu[best] -= cores
            memory[best] -= need
        return best

    return decide


def _rounded(score: float) -> float:
    return round(score * 1e4) / 1e4


def _plain_where(where: dict[str, Any], node: dict[str, Any]) -> bool:
    """The few kinds of condition that are asked here, by hand."""
    for name, wanted in where.items():
        if name == "$or":
            if not any(_plain_where(part, node) for part in wanted):
                return False
        elif isinstance(wanted, dict):
            ((op, value),) = wanted.items()
            had = node.get(name)
            if not (had in value if op == "$in" else had is not None and had >= value):
                return False
        elif node.get(name) != wanted:
            return False
    return True


def rate(
    placer: Placer, requests: list[DeploymentRequest], seconds: float
) -> tuple[float, float, list[str | None]]:
    """Decisions a second of the processor, the median milliseconds of one by the clock, and where they went.

    What else runs on the machine costs none of the processor's seconds that are counted here.
    """
    went: list[str | None] = []
    each: list[float] = []
    begun = time.process_time()
    for at, request in enumerate(requests):
        before = time.perf_counter()
        went.append(placer(f"d{at}", request))
        each.append(time.perf_counter() - before)
        if time.process_time() - begun > seconds:
            break
    return len(went) / (time.process_time() - begun), statistics.median(each) * 1000, went


def pure(seconds: float, rounds: int) -> dict[str, float]:
    """Without a bus."""
    found: dict[str, float] = {}
    for many in (1000, 10_000):
        nodes, requests = fleet_of(many), requests_of(20_000)
        rows = []
        placers: dict[str, Callable[[], Placer]] = {
            "vim: chosen and reserved": lambda nodes=nodes: by_columns(nodes, explained=False),  # type: ignore[misc]
            "vim: and every node's reason or score told": lambda nodes=nodes: by_columns(
                nodes, explained=True
            ),  # type: ignore[misc]
            "vim, the plain way, index at hand": lambda nodes=nodes: by_rooms(nodes),  # type: ignore[misc]
            "a loop in Python, nothing told": lambda nodes=nodes: by_a_loop(nodes),  # type: ignore[misc]
        }
        went: dict[str, list[str | None]] = {}
        for name, make in placers.items():
            best = max((rate(make(), requests, seconds) for _ in range(rounds)), key=lambda one: one[0])
            went[name] = best[2]
            found[f"{name}, {many} nodes"] = best[0]
            rows.append([name, f"{best[0]:,.0f}", f"{best[1]:.2f}"])
        first, *others = went.values()
        for name, other in zip(list(went)[1:], others, strict=True):
            both = min(len(first), len(other))
            check(first[:both] == other[:both], f"{name} decides otherwise than the columns at {many} nodes")
        check(None not in first, "a request found no place")
        print(f"{many:,} nodes")
        table(["decided by", "decisions/s", "median ms"], rows)
        goal(
            f"decisions/s at {many:,} nodes",
            found[f"vim: chosen and reserved, {many} nodes"],
            lambda v: v >= _GOAL,
            ">= 2,000",
        )
    return found


async def whole(nodes: int, deployments: int) -> dict[str, float]:
    """From request events to decision events, through a real bus, rid and vim; nodes are fake."""
    with (
        tempfile.TemporaryDirectory(prefix="minicloud-placement-") as folder,
        Broker(Path(folder) / "broker") as broker,
    ):
        stack = Stack(broker, f"b{secrets.token_hex(3)}", Path(folder) / "stack")
        try:
            return await _whole(stack, nodes, deployments)
        finally:
            stack.close()


async def _whole(stack: Stack, nodes: int, deployments: int) -> dict[str, float]:
    bus = await stack.connect()
    stack.rid()
    await serving(bus, "rid", "attributes")
    site = Site(stack, bus)
    site.nodes.behave = lambda _: []
    await site.nodes.join(*(f"n{at:05}" for at in range(nodes)), runtimes=["container", "process"])
    await site.found(nodes)
    vim = psutil.Process(stack.vim().process.pid)
    await serving(bus, "vim", "list")
    decided: dict[str, float] = {}
    done = asyncio.Event()

    async def hear(message: Any) -> None:
        decision = read_event(message.data, Decision).data
        check(decision.outcome == "scheduled", f"{decision.deployment}: {decision.message}")
        check(decision.considered >= nodes, f"only {decision.considered} nodes were looked at")
        decided.setdefault(decision.deployment, time.perf_counter())
        if len(decided) == deployments:
            done.set()

    await bus.wire.subscribe(f"{bus.subjects.root}.deployment.*.decision", hear)
    await bus.wire.flush()
    request = json.dumps(site.request(resources={"cpu": 0.01})).encode()
    spent = sum(vim.cpu_times()[:2])
    begun = time.perf_counter()
    for at in range(deployments):
        await site.publish(f"d{at:05}", "request", request)
    async with asyncio.timeout(300):
        await done.wait()
    took = max(decided.values()) - begun
    each = (sum(vim.cpu_times()[:2]) - spent) / deployments * 1000
    await site.nodes.end()
    await bus.close()
    print(f"end to end, {nodes:,} nodes: {deployments} deployments decided at {deployments / took:.1f}/s,")
    print(f"{each:.1f} ms of vim's processor time each, its own levels and statuses included")
    return {"end to end deployments/s": deployments / took, "vim CPU ms each": each}


def main(
    seconds: float = 3.0, rounds: int = 3, nodes: int = 1000, deployments: int = 300
) -> dict[str, float]:
    """Measure, print; the figures by name."""
    found = pure(seconds, rounds) if rounds else {}
    if deployments:
        say("end to end")
        found |= asyncio.run(whole(nodes, deployments))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best is told; 0: end to end only")
    parser.add_argument("--nodes", type=int, default=1000, help="end to end")
    parser.add_argument("--deployments", type=int, default=300, help="end to end; 0: none")
    options = parser.parse_args()
    main(options.seconds, options.rounds, options.nodes, options.deployments)
