"""vim killed with SIGKILL at many points, driven by what is heard: the same end state, nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from bus.port import Message
from schemas.errors import Unavailable
from tests.parts.process import PartProcess
from tests.vim.conftest import serving
from tests.vim.site import Site

_SPOKEN = ("status", "decision", "desired")


class Reaper:
    """Kills the acting vim right after it said something, and starts it again.

    Args:
        site: where.
        when: whether to kill after the message, told by its number and aspect.
    """

    def __init__(self, site: Site, when: Callable[[int, str], bool]) -> None:
        self.site = site
        self.when = when
        self.count = 0
        self.killed_after: list[str] = []
        self.vim: PartProcess | None = None

    async def start(self) -> None:
        root = self.site.bus.subjects.root
        await self.site.bus.wire.subscribe(f"{root}.deployment.*.*", self._hear)
        await self.site.bus.wire.subscribe(f"{root}.node.*.desired.*", self._hear)
        self.vim = self.site.stack.vim()

    async def _hear(self, message: Message) -> None:
        aspect = next((part for part in message.subject.split(".") if part in _SPOKEN), None)
        if aspect is None or self.vim is None:
            return
        self.count += 1
        if self.when(self.count, aspect):
            self.killed_after.append(aspect)
            self.vim.kill()
            self.vim = self.site.stack.vim()


async def _fleet(own: Site, *words: str) -> list[str]:
    own.stack.rid()
    await serving(own.bus, "rid", "attributes")
    names = own.node(*words)
    await own.nodes.join(*names)
    await own.found(len(names))
    return names


def check_once(site: Site, deployment: str) -> None:
    """Every status has a number of its own, every fact is said once, every generation is decided once."""
    statuses = site.statuses(deployment)
    numbers = [status.sequence for status in statuses]
    assert all(one < other for one, other in pairwise(numbers)), numbers
    site.check_facts(deployment)
    first = Counter(one.generation for one in site.decisions(deployment) if not one.attempts)
    assert set(first.values()) == {1}, first
    assert max(site.nodes.starts.values()) == 1, site.nodes.starts
    assert max(site.nodes.most_at_once.values()) == 1


@pytest.mark.slow
async def test_killed_after_any_message_of_a_first_journey(own: Site) -> None:
    await _fleet(own, "a", "b")
    point = 0
    begun = 0
    reaper = Reaper(own, lambda count, _: count - begun == point)
    await reaper.start()
    await serving(own.bus, "vim", "list")
    for point in range(1, 9):
        begun = reaper.count
        name = await own.deploy(f"d{point}", replicas=2)
        await own.until_state(name, "running", generation=1)
        assert len({workload for _, workload in own.nodes.running if workload.startswith(name)}) == 2
        check_once(own, name)
    assert len(reaper.killed_after) >= 7
    assert set(reaper.killed_after) == set(_SPOKEN)


@pytest.mark.slow
async def test_killed_after_every_message_of_a_whole_life(own: Site) -> None:
    """Deployed, updated, refused, its node lost, scaled, cancelled: with a vim that says one thing a life."""
    a, b = await _fleet(own, "a", "b")
    reaper = Reaper(own, lambda *_: True)
    await reaper.start()
    patient = {"onLoss": {"replaceAfter": "1s"}}
    name = await own.deploy(**patient)
    first = await own.until_state(name, "running", generation=1, seconds=60)
    await own.deploy(**patient, env={"A": "1"})
    await own.until_state(name, "running", generation=2, seconds=60)
    await own.deploy(**patient, data=[{"bucket": "x"}])
    await own.until_state(name, "running", reason="UpdateRejected", seconds=60)
    lost, left = str(first.node), ({a, b} - {str(first.node)}).pop()
    await own.nodes.lose(lost)
    await own.until(
        lambda: (left, f"{name}-0") in own.nodes.running and (s := own.last(name)) and s.state == "running",
        "replaced",
        60,
    )
    await own.until(lambda: own.nodes.levels[lost, f"{name}-0"].state == "stopped", "the old is to stop", 60)
    await own.nodes.come_back(lost)
    await own.deploy(**patient, replicas=2)
    await own.until_state(name, "running", generation=3, seconds=60)
    await own.cancel(name)
    await own.until_state(name, "stopped", reason="Cancelled", seconds=60)
    assert own.nodes.running == {}
    check_once(own, name)
    assert [one.generation for one in own.decisions(name)] == [1, 2, 2, 3]
    assert len(reaper.killed_after) >= 20


@pytest.mark.slow
async def test_one_acts_and_the_other_takes_over(own: Site) -> None:
    await _fleet(own, "a", "b")
    vims = {"vim-1": own.stack.vim("vim-1"), "vim-2": own.stack.vim("vim-2")}
    await serving(own.bus, "vim", "list")
    taken_over = []

    async def during(word: str, kill: Callable[[], Awaitable[Any]]) -> None:
        name = await own.deploy(word, replicas=2)
        await kill()
        await own.until_state(name, "running", generation=1, seconds=40)
        check_once(own, name)

    for aspect in ("status", "desired"):
        acting = await holder(own)
        said = asyncio.Event()

        async def hear(message: Message, aspect: str = aspect, said: asyncio.Event = said) -> None:
            if f".{aspect}" in message.subject:
                said.set()

        listening = await own.bus.wire.subscribe(f"{own.bus.subjects.root}.>", hear)
        await own.bus.wire.flush()

        async def kill(said: asyncio.Event = said, acting: str = acting) -> None:
            await said.wait()
            vims[acting].kill()

        await during(aspect, kill)
        await listening.unsubscribe()
        taken_over.append((acting, await holder(own)))
        vims[acting] = own.stack.vim(acting)
    assert all(before != after for before, after in taken_over)
    assert set(own.nodes.starts.values()) == {1}


async def holder(site: Site) -> str:
    """Who holds vim's lease."""
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                stored = await site.bus.jetstream.last(f"{site.mc}_leases", f"mc.{site.mc}.lease.vim")
                if stored:
                    return str(json.loads(stored[1])["holder"])
            await asyncio.sleep(0.05)


async def test_a_vim_that_is_told_to_stop_hands_over_at_once(own: Site) -> None:
    await _fleet(own, "a")
    one = own.stack.vim("vim-1")
    await serving(own.bus, "vim", "list")
    own.stack.vim("vim-2")
    name = await own.deploy()
    await own.until_state(name, "running")
    assert await asyncio.to_thread(one.stop) == 0
    other = await own.deploy("other")
    await own.until_state(other, "running", seconds=10)
    assert await holder(own) == "vim-2"
    check_once(own, name)


async def test_noise_over_what_was_decided_and_told_is_read_back_by_the_next_vim(own: Site) -> None:
    (a,) = await _fleet(own, "a")
    vim = own.stack.vim()
    name = await own.deploy()
    await own.until_state(name, "running")
    await own.deploy(env={"A": "1"})
    before = await own.until_state(name, "running", generation=2)
    vim.kill()
    for aspect in ("decision", "status"):
        await own.publish(name, aspect, b"noise")
    await own.bus.jetstream.publish(own.bus.subjects.desired(a, f"{name}-0"), b"noise", f"n{name}")
    own.stack.vim()
    await own.until(lambda: (s := own.last(name)) and s.sequence > before.sequence, "told again")
    await own.deploy(env={"A": "2"})
    after = await own.until_state(name, "running", generation=3)
    assert after.sequence > before.sequence
    assert [one.generation for one in own.decisions(name)] == [1, 2, 3]
    await own.cancel(name)
    await own.until_state(name, "stopped")


async def test_a_message_that_would_kill_it_is_not_there(own: Site) -> None:
    """What was refused or buried is met again at each start, and must not end it."""
    await _fleet(own, "a")
    for number, payload in enumerate(
        [b"\xff", b"{}", b'{"where": 1}', json.dumps({"name": "x" * 70}).encode()]
    ):
        await own.publish(own.name(f"d{number}"), "request", payload)
    await own.bus.wire.publish(f"mc.{own.mc}.deployment.a//b.request", json.dumps(own.request()).encode())
    for _ in range(2):
        vim = own.stack.vim()
        await own.until(
            lambda: [own.states(own.name(f"d{n}")) for n in range(4)] == [["rejected"]] * 4, "all"
        )
        await serving(own.bus, "vim", "list")
        assert vim.process.poll() is None
        assert await asyncio.to_thread(vim.stop) == 0


@pytest.mark.slow
async def test_wishes_to_migrate_are_neither_lost_nor_doubled_when_vim_is_killed(own: Site) -> None:
    """Wishes come while nobody acts, and whoever acts is killed after each message of the answer."""
    nodes = await _fleet(own, "a", "b")
    name = await own.deploy(replicas=4, where={"name": nodes[0]})
    vim = own.stack.vim()
    await own.until_state(name, "running")
    await own.deploy(replicas=4)
    await own.until_state(name, "running", generation=2)
    vim.kill()
    for replica in (1, 3):  # two wishes, of which the present state of the bus holds the last one only
        await own.publish(name, "migrate", {"replica": replica, "from": nodes[0], "to": nodes[1]})
    point = 0
    while True:
        point += 1
        reaper = Reaper(own, lambda count, _, until=point: count == until)
        await reaper.start()
        here = [nodes[point % 2] if replica in (1, 3) else nodes[0] for replica in range(4)]

        def there(here: list[str] = here) -> bool:
            last = own.last(name)
            return bool(
                last
                and last.state == "running"
                and [replica.node for replica in last.replicas] == here
                and sorted(own.nodes.running) == sorted((node, f"{name}-{n}") for n, node in enumerate(here))
            )

        await own.until(there, f"moved though killed after message {point}", 40)
        begun: Counter[str] = Counter()
        for (_, workload, _), count in own.nodes.starts.items():
            begun[workload] += count
        assert begun == {f"{name}-{n}": 1 + point * (n in (1, 3)) for n in range(4)}, own.nodes.starts
        killed = len(reaper.killed_after)
        reaper.when = lambda *_: False
        assert reaper.vim is not None
        reaper.vim.kill()
        reaper.vim = None
        if not killed:
            break
        origin, goal = nodes[point % 2], nodes[(point + 1) % 2]
        for replica in (1, 3):
            await own.publish(name, "migrate", {"replica": replica, "from": origin, "to": goal})
    assert point > 6, "it was killed at several points"
