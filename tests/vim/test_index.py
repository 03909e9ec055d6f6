"""The resource index away, silent, wrong, or the only one that knows of a loss: always told, never a hang."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import RootModel

from bus.bus import Bus
from tests.rid import nodes
from tests.vim.conftest import serving
from tests.vim.site import Site


class Anything(RootModel[dict[str, Any]]):
    """A query that nobody reads."""


async def fake_index(site: Site, answer: Any) -> Bus:
    """Something that answers in rid's place, and is not rid."""
    bus = await site.stack.connect(name="fake-index")
    await bus.serve("rid", "query", Anything, answer)
    await bus.serve("rid", "attributes", Anything, answer)
    return bus


async def test_an_index_that_is_away_is_told_and_waited_for(own: Site) -> None:
    site = own
    rid = site.stack.rid()
    await serving(site.bus, "rid", "attributes")
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    site.stack.vim()
    running = await site.deploy("runs")
    await site.until_state(running, "running")
    rid.kill()
    name = await site.deploy()
    told = await site.until_state(name, "accepted", reason="IndexAway")
    assert "index" in told.message
    unheard = await site.deploy("unheard", where={"my.metric": {"$gt": 1}, "label.group": site.group})
    await site.until_state(unheard, "requested", reason="IndexAway")
    wrong = await site.deploy("wrong", data=[{"bucket": "b"}])
    await site.until_state(wrong, "rejected")
    await site.cancel(running)
    await site.until_state(running, "stopped"), "what needs no node goes on"
    site.stack.rid()
    await site.until_state(name, "running")
    await site.until_state(unheard, "rejected")
    site.check_sequence(name)
    (a,) = site.node("a")
    await site.bus.publish(site.bus.subjects.metrics(a), nodes.measurement(a, my_metric=2.0), about=a)
    async with asyncio.timeout(10):
        while not any(
            one["name"] == "my.metric" for one in (await site.bus.request("rid", "attributes"))["attributes"]
        ):
            await asyncio.sleep(0.02)
    foreseen = await site.deploy("seen", where={"my.metric": {"$gt": 1}, "label.group": site.group})
    await site.until_state(foreseen, "running")


@pytest.mark.slow
async def test_an_index_that_never_answers_holds_up_nobody_who_needs_no_node(own: Site) -> None:
    site = own
    rid = site.stack.rid()
    await serving(site.bus, "rid", "attributes")
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    site.stack.vim()
    names = [await site.deploy(f"runs{number}") for number in range(3)]
    for name in names:
        await site.until_state(name, "running")
    rid.kill()

    async def never(_: Anything) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    fake = await fake_index(site, never)
    try:
        waiting = [await site.deploy(f"waits{number}") for number in range(30)]
        for name in waiting:
            await site.until_state(name, "accepted", reason="IndexAway")
        for name in names:
            await site.cancel(name)
            await site.until_state(name, "stopped", seconds=15)
    finally:
        await fake.close()
    site.stack.rid()
    for name in waiting:
        await site.until_state(name, "running")
        site.check_sequence(name)


async def test_an_answer_that_makes_no_sense_is_told_and_ends_nothing(own: Site) -> None:
    site = own

    async def nonsense(_: Anything) -> dict[str, Any]:
        return {"nodes": [{"nme": 7}], "total": 1}

    fake = await fake_index(site, nonsense)
    vim = site.stack.vim()
    name = await site.deploy()
    told = await site.until_state(name, "unknown")
    assert told.reason == "InternalError"
    await fake.close()
    site.stack.rid()
    await serving(site.bus, "rid", "attributes")
    await site.nodes.join(*site.node("a"))
    await site.until_state(name, "running", generation=1)
    assert vim.process.poll() is None
    site.check_sequence(name)


@pytest.mark.slow
async def test_a_node_that_falls_silent_without_a_will_is_replaced(own: Site) -> None:
    """As when the broker was away at that moment: only the index notices."""
    site = own
    site.stack.start("services.rid", MINICLOUD_STALE_AFTER="1", MINICLOUD_LOST_AFTER="2")
    await serving(site.bus, "rid", "attributes")
    silent, heard = site.node("silent", "heard")
    site.stack.vim()
    await serving(site.bus, "vim", "list")
    await site.nodes.join(silent)
    await site.found(1)
    name = await site.deploy(onLoss={"replaceAfter": "1s"})
    assert (await site.until_state(name, "running")).node == silent

    async def beat() -> None:
        while True:
            sample = nodes.measurement(heard, interval=0.1)
            await site.bus.publish(site.bus.subjects.metrics(heard), sample, about=heard)
            await asyncio.sleep(0.1)

    await site.nodes.join(heard)
    beating = asyncio.create_task(beat())
    try:
        await site.until_state(name, "lost")
        await site.until(lambda: (s := site.last(name)) and s.state == "running" and s.node == heard, "moved")
    finally:
        beating.cancel()
