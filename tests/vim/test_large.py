"""Large: fleets beyond one answer of the index, a thousand deployments, a thousand replicas; nodes are fake."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from tests.vim.conftest import serving
from tests.vim.fake import UP
from tests.vim.site import GIB, Site

#: Ten thousand work, too, and take most of a minute to join.
MANY = 3_000


@pytest.fixture
async def large(own: Site) -> Site:
    own.stack.rid()
    await serving(own.bus, "rid", "attributes")
    return own


@pytest.mark.slow
async def test_a_fleet_beyond_one_answer(large: Site) -> None:
    """No node is passed over because of its name, and every decision fits into a message."""
    site = large
    many = [f"n{number:05}" for number in range(MANY)]
    small = {"arch": "x86_64", "bits": 64, "cores": 1}
    # What no decision could hold if it told each node by itself: every memory and serial is another.
    for begin in range(0, len(many), 1000):
        await asyncio.gather(
            *(
                site.nodes.join(
                    name,
                    cpu=small,
                    memory={"total": GIB + number},
                    labels={"serial": f"{name}-{'x' * 100}"},
                    runtimes=["process", "container"],
                )
                for number, name in enumerate(many[begin : begin + 1000], begin)
            )
        )
    await site.nodes.join("zz-last", cpu={**small, "cores": 8}, memory={"total": 32 * GIB})
    await site.found(MANY + 1)
    site.stack.vim()
    await serving(site.bus, "vim", "list")
    begun = time.monotonic()
    name = await site.deploy(resources={"cpu": 4, "memory": "2GiB"})
    running = await site.until_state(name, "running")
    took = time.monotonic() - begun
    assert running.node == "zz-last"
    (decision,) = site.decisions(name)
    assert decision.considered > MANY
    full = await site.deploy("full", resources={"cpu": 6}, runtimes=["process", "container"], images=BOTH)
    await site.until_state(full, "unschedulable")
    lacking: Counter[tuple[str | None, str | None]] = Counter()
    for group in site.decisions(full)[-1].rejected:
        lacking[group.runtime, group.attribute] += group.count
    assert lacking["process", "allocatable.cpu"] == MANY + 1
    assert lacking["container", "allocatable.cpu"] == MANY
    unique = {"label.group": site.group, "label.serial": "none"}
    odd = await site.deploy("odd", where=unique)
    await site.until_state(odd, "unschedulable")
    preferring = await site.deploy(
        "prefers", prefer=[{"label.serial": "desc"}], spread={"over": "label.serial"}
    )
    await site.until_state(preferring, "running")
    thousand = await site.deploy("thousand", replicas=1000, resources={"cpu": 1})
    everywhere = await site.until_state(thousand, "running", seconds=60)
    assert len({replica.node for replica in everywhere.replicas}) == 1000
    assert max(site.sizes) < 1024 * 1024
    whole = await site.bus.request("vim", "get", {"deployment": thousand})
    assert len(whole["replicas"]) == len(whole["decision"]["placements"]) == 1000
    # A status of a thousand replicas is long: they are told together, not one by one.
    assert len(site.statuses(thousand)) < 40
    assert max(site.nodes.starts.values()) == 1
    print(f"among {MANY}, running after {took:.2f} s")
    assert took < 5, "from a request to running, in a large fleet"


BOTH: dict[str, Any] = {"process": {"command": ["/bin/true"]}, "container": {"image": "registry.local/x:1"}}


@pytest.mark.slow
async def test_a_thousand_deployments_and_a_quick_restart(large: Site) -> None:
    site = large
    names = site.node(*(f"n{number}" for number in range(100)))
    await site.nodes.join(*names)
    await site.found(100)
    vim = site.stack.vim()
    await serving(site.bus, "vim", "list")
    site.nodes.behave = lambda _: UP[-1:]
    deployments = [site.name(f"d{number}") for number in range(1000)]
    wanted = site.request(resources={"memory": "512MiB"})
    begun = time.monotonic()
    await asyncio.gather(*(site.publish(name, "request", wanted) for name in deployments))
    await site.until(lambda: len(site.nodes.running) == 1000, "all run", 60)
    await site.until(
        lambda: all(site.states(name)[-1:] == ["running"] for name in deployments[:]), "told", 60
    )
    assert time.monotonic() - begun < 60
    print(f"1000 deployments in {time.monotonic() - begun:.1f} s")
    vim.kill()
    told = len(site.heard)
    site.stack.vim()
    begun = time.monotonic()
    await serving(site.bus, "vim", "list")
    late = await site.deploy("late")
    await site.until_state(late, "running")
    restarted = time.monotonic() - begun
    await site.looks(2)
    assert {one.deployment for one in site.heard[told:]} == {late}, "nothing is told or decided again"
    assert max(site.nodes.starts.values()) == 1
    listed: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await site.bus.request("vim", "list", {"after": after, "limit": 400})
        listed += [one["deployment"] for one in page["deployments"]]
        after = page["next"]
    assert listed == sorted([*deployments, late])
    print(f"the next one serves and places after {restarted:.1f} s")
    assert restarted < 10


async def test_a_list_too_long_for_a_message_is_told_in_parts(large: Site) -> None:
    site = large
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    site.stack.vim()
    # Each is told in many words, which its summary holds.
    site.nodes.more = ", " + "x" * 3000
    names = sorted(site.name(f"d{number:03}") for number in range(200))
    await asyncio.gather(*(site.publish(name, "request", site.request()) for name in names))
    await site.until(lambda: all(site.states(name)[-1:] == ["running"] for name in names), "all run", 60)
    first = await site.bus.request("vim", "list")
    told = [one["deployment"] for one in first["deployments"]]
    assert 100 < len(told) < 200
    assert first["next"] == told[-1]
    rest = await site.bus.request("vim", "list", {"after": told[-1]})
    assert rest["next"] is None
    assert told + [one["deployment"] for one in rest["deployments"]] == names
    few = await site.bus.request("vim", "list", {"limit": 2})
    assert ([one["deployment"] for one in few["deployments"]], few["next"]) == (names[:2], names[1])
