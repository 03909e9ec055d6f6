"""Three miniclouds, each its own nats-server in a network namespace of its own, one of them cut off and back.

What happens to the links is what happens to real ones: a cable is pulled without a word. Each site can be
asked all the time by a cable of the test's own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.broker import Broker, BrokerSettings, Join
from bus.credentials import Credentials
from tests.rid import nodes
from tests.rid.miniclouds import (
    QUERIES,
    Minicloud,
    all_copied,
    all_heard,
    coverage,
    miniclouds,
    one_index,
    without_age,
)
from tests.rid.netns import Switch, unavailable
from tests.rid.nodes import until

NAMES = ("athens", "pisa", "graz")
HUB = "athens"
_WHY = unavailable()
pytestmark = pytest.mark.skipif(_WHY is not None, reason=_WHY or "")


class Network:
    """The switch, the brokers in their namespaces, and the miniclouds."""

    def __init__(self, switch: Switch, brokers: dict[str, Broker], joined: dict[str, Minicloud]) -> None:
        self.switch = switch
        self.brokers = brokers
        self.joined = joined

    def everything(self) -> list[dict[str, Any]]:
        return [node for one in self.joined.values() for node in one.documents()]

    async def answers_as_one_index(self, modes: tuple[str, ...] = ("scatter", "replicate")) -> None:
        documents = self.everything()
        for query in QUERIES:
            expected, total = one_index(documents, query)
            for one in self.joined.values():
                for mode in modes:
                    answer = await one.ask(**query, scope={"mode": mode, "deadline": "10s"})
                    assert without_age(answer["nodes"]) == expected, (one.name, mode, query)
                    assert (answer["total"], answer["complete"]) == (total, True)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    brokers: dict[str, Broker] = {}
    with Switch(NAMES) as switch:
        try:
            for name in NAMES:
                known = Credentials(tmp_path / name, name)
                known.ensure("minicloud", name)
                settings = BrokerSettings(name=name, host="0.0.0.0", port=4222, leaf_port=7422)
                if name != HUB:
                    there = Credentials(tmp_path / HUB).add("minicloud", name)
                    join = Join(f"nats-leaf://{switch.address(HUB)}:7422", there.user, there.password)
                    settings = BrokerSettings(name=name, host="0.0.0.0", port=4222, join=(join,))
                brokers[name] = Broker(tmp_path / name, settings)
                switch.inside(name, brokers[name].start)
            urls = {name: f"nats://{switch.seen_from_here(name)}:4222" for name in NAMES}
            async with miniclouds(brokers, urls) as joined:
                for seed, one in enumerate(joined.values()):
                    await one.populate(15 + seed, seed)
                await all_copied(joined)
                yield Network(switch, brokers, joined)
        finally:
            for name, broker in brokers.items():
                switch.inside(name, broker.stop)


async def test_each_answers_as_one_index_over_all_would(network: Network) -> None:
    await network.answers_as_one_index()
    rng = random.Random(7)
    documents = network.everything()
    for _ in range(40):
        query: dict[str, Any] = {
            "where": {"memory.total": {"$gte": rng.choice([0, 2**30, 2**33])}},
            "sort": [
                {name: rng.choice(["asc", "desc"])}
                for name in rng.sample(["load.5m", "software.python3", "label.zone", "region.city"], 2)
            ],
            "limit": rng.randint(1, 60),
        }
        expected, total = one_index(documents, query)
        one = rng.choice(list(network.joined.values()))
        answer = await one.ask(**query, scope={"mode": "scatter", "deadline": "10s"})
        assert (without_age(answer["nodes"]), answer["total"]) == (expected, total), query


async def test_a_minicloud_that_is_cut_off_is_missing_and_on_its_return_nothing_is_doubled(
    network: Network,
) -> None:
    athens, pisa, graz = (network.joined[name] for name in NAMES)
    network.switch.unplug("pisa")
    for one, others in ((athens, ["graz"]), (pisa, []), (graz, ["athens"])):
        begun = time.monotonic()
        answer = await one.ask(scope={"mode": "scatter", "deadline": "1s"})
        assert time.monotonic() - begun < 3, "no answer waits much longer than the deadline"
        answered = {name for name, part in coverage(answer).items() if part["answered"]}
        assert answered == {one.name, *others}
        assert answer["complete"] is False
        there = [node for name in answered for node in network.joined[name].documents()]
        assert without_age(answer["nodes"]) == one_index(there, {})[0]
    # Who is known to be silent is not waited for any more.
    await until(lambda: athens.rid.federation.peers.silent("pisa"), "the silence is noticed")
    answer = await athens.ask(scope={"mode": "scatter", "deadline": "10s"})
    assert answer["took"] < 5
    assert coverage(answer)["pisa"]["asked"] is False
    # The copy goes on answering whoever wants it, and tells how old it is.
    copied = await athens.ask(scope={"mode": "replicate", "miniclouds": ["pisa"]})
    assert copied["total"] == 16
    assert coverage(copied)["pisa"]["behind"] > 0.5
    # Both sides go on by themselves.
    await pisa.site.say(nodes.characterization("in-the-dark", "pisa", rack="r1"))
    await pisa.site.say(nodes.presence("n0", online=False, reason="stopping"))
    await pisa.site.say(nodes.measurement("n1", interval=3600, load_5m=9.5))
    await athens.site.say(nodes.characterization("in-the-light", "athens"))
    await until(lambda: len(pisa.rid.index) == 17, "pisa indexes")
    await until(lambda: len(athens.rid.index) == 16, "athens indexes")
    network.switch.plug("pisa")
    await all_heard(network.joined)
    await all_copied(network.joined)
    await network.answers_as_one_index()
    answer = await graz.ask(where="rack=r1", scope={"mode": "auto", "deadline": "10s"})
    assert [(node["name"], node["minicloud"]) for node in answer["nodes"]] == [("in-the-dark", "pisa")]


async def test_after_the_hub_was_killed_and_started_again_all_is_complete(network: Network) -> None:
    network.switch.inside(HUB, network.brokers[HUB].kill)
    for name in ("pisa", "graz"):
        answer = await network.joined[name].ask(scope={"mode": "scatter", "deadline": "1s"})
        assert [part["minicloud"] for part in answer["coverage"] if part["answered"]] == [name]
        assert answer["complete"] is False
    pisa = network.joined["pisa"]
    await pisa.site.say(nodes.characterization("meanwhile", "pisa"))
    await until(lambda: "meanwhile" in pisa.rid.index, "pisa itself has it")
    await asyncio.to_thread(network.switch.inside, HUB, network.brokers[HUB].start)
    await all_heard(network.joined)
    await all_copied(network.joined)
    await network.answers_as_one_index()
