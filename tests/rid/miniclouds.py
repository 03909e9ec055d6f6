"""Miniclouds with nodes, each a broker and a rid, joined to a hub; and what one index over all would answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cmp_to_key
from types import SimpleNamespace
from typing import Any

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from schemas.attributes import kind_of
from schemas.predicate import matches
from schemas.query import parse_query
from schemas.version import version_key
from services.rid.service import Rid
from tests.rid import nodes
from tests.rid.nodes import GIB, until
from tests.rid.test_service import Site

BEAT = 0.5
_CITIES = ["Athens", "Pisa", "Graz"]


class Minicloud:
    """One minicloud: its broker, its rid, and a bus for the test."""

    def __init__(self, name: str, site: Site, rid: Rid) -> None:
        self.name = name
        self.site = site
        self.rid = rid

    async def ask(self, **query: Any) -> dict[str, Any]:
        return await self.site.bus.request("rid", "query", query, timeout=15)

    def documents(self) -> list[dict[str, Any]]:
        """Its nodes, whole, as its own index has them."""
        answer = self.rid.answers.query({"where": {"state": {"$exists": True}}})
        return [{**node, "minicloud": self.name} for node in answer.nodes]

    def copied(self, other: Minicloud) -> bool:
        """Whether its copy of another's nodes lacks nothing."""
        assert self.rid.federation.replicate is not None
        copy = self.rid.federation.replicate.copies.get(other.name)
        if copy is None or copy.confirmed is None:
            return False
        mine = copy.answers.query({"where": {"state": {"$exists": True}}}).nodes
        return without_age(mine) == without_age(other.documents())

    async def populate(self, count: int, seed: int) -> None:
        """Nodes whose names other miniclouds have, too."""
        rng = random.Random(seed)
        for at in range(count):
            # Few different values, so that ties are many; and some have no load at all.
            name = f"n{at}"
            await self.site.say(
                nodes.characterization(
                    name,
                    self.name,
                    memory={"total": rng.choice([1, 2, 8]) * GIB},
                    region={"city": rng.choice(_CITIES)},
                    software={"python3": rng.choice(["3.9", "3.11", "3.11.0", "3.12.1"])},
                    labels={"zone": rng.choice(["a", "b"])} if rng.random() < 0.7 else {},
                ),
                nodes.presence(name),
            )
            values = {"load_5m": rng.choice([0.25, 0.5, 1.5])} if rng.random() < 0.8 else {}
            await self.site.say(nodes.measurement(name, interval=3600, **values))
        await until(lambda: len(self.rid.index) == count, "all are indexed")


QUERIES: list[dict[str, Any]] = [
    {},
    {"limit": 7},
    {"sort": [{"load.5m": "asc"}], "limit": 10},
    {"sort": [{"load.5m": "desc"}, {"memory.total": "asc"}], "limit": 13, "fields": ["cpu.arch"]},
    {"where": "region.city in (Athens,Pisa)", "sort": [{"software.python3": "desc"}], "limit": 9},
    {"where": {"load.5m": {"$lt": 1}}, "sort": [{"label.zone": "asc"}, {"load.5m": "desc"}], "limit": 20},
    {"where": {"software.python3": {"$gte": "3.11"}}, "sort": [{"minicloud": "desc"}], "limit": 15},
    {"where": {"minicloud": {"$in": ["pisa", "graz"]}}, "sort": [{"name": "desc"}], "limit": 5},
    {"where": "memory.total>=8GiB,label.zone=a", "fields": ["name", "label.zone"]},
    {"where": "load.5m>100"},
]


def without_age(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in node.items() if name != "age"} for node in found]


def one_index(documents: list[dict[str, Any]], query: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """What one index over all these nodes would answer, by brute force."""
    asked = parse_query(query)
    found = [node for node in documents if matches(asked.predicate, node) and node["state"] != "lost"]

    def compare(one: dict[str, Any], two: dict[str, Any]) -> int:
        for name, descending in asked.order:
            if name not in one or name not in two:
                if (name in one) != (name in two):
                    return -1 if name in one else 1
                continue
            a, b = one[name], two[name]
            if kind_of(name) == "version":
                a, b = version_key(a), version_key(b)
            if a != b:
                return (-1 if a < b else 1) * (-1 if descending else 1)
        a, b = (one["name"], one["minicloud"]), (two["name"], two["minicloud"])
        return (a > b) - (a < b)

    best = sorted(found, key=cmp_to_key(compare))[: asked.limit]
    if asked.fields is not None:
        wanted = {"name", "minicloud", *asked.fields}
        best = [{name: value for name, value in node.items() if name in wanted} for node in best]
    return without_age(best), len(found)


@asynccontextmanager
async def minicloud(
    name: str, broker: Broker, url: str | None = None, **more: Any
) -> AsyncIterator[Minicloud]:
    """A rid on a broker, linked, with a bus for the test."""
    known = Credentials(broker.data)
    admin, link = known.ensure("admin", "tests"), known.ensure("minicloud", name)
    site = Site(SimpleNamespace(url=url or broker.url), admin, name, None)
    async with await Bus.connect(site.settings().endpoint("tests"), name, "tests") as bus:
        site.bus = bus
        await bus.ensure_streams()
        settings = {
            "link_password": link.password, "heartbeat_every": BEAT, "stale_after": 3600, "lost_after": 7200,
        }  # fmt: skip
        async with site.rid(**{**settings, **more}) as (rid, _):
            yield Minicloud(name, site, rid)


@asynccontextmanager
async def miniclouds(
    brokers: dict[str, Broker], urls: dict[str, str] | None = None, **more: Any
) -> AsyncIterator[dict[str, Minicloud]]:
    """One a broker, each knowing all others."""
    async with AsyncExitStack() as stack:
        joined = {
            name: await stack.enter_async_context(minicloud(name, broker, (urls or {}).get(name), **more))
            for name, broker in brokers.items()
        }
        await all_heard(joined)
        yield joined


async def all_heard(joined: dict[str, Minicloud]) -> None:
    """Wait until each has heard all others from now on, however long TCP takes to find a cable that is back."""
    now = time.monotonic()

    def heard(one: Minicloud, other: str) -> bool:
        peers = one.rid.federation.peers
        return other == one.name or (other in peers and peers[other].at > now)

    await until(
        lambda: all(heard(one, other) for one in joined.values() for other in joined), "all are heard", 60
    )


async def all_copied(joined: dict[str, Minicloud]) -> None:
    """Wait until each has a whole copy of all others."""
    await until(
        lambda: all(
            one.copied(other) for one in joined.values() for other in joined.values() if one is not other
        ),
        "all copies are whole",
        30,
    )


def coverage(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["minicloud"]: part for part in answer["coverage"]}


async def gathered(*asking: Any) -> list[Any]:
    return list(await asyncio.gather(*asking))
