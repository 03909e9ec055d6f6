"""Neighbours, taints and preemption on a real bus with a real rid and vim; nodes are fake."""

from __future__ import annotations

import pytest

from tests.vim.conftest import serving
from tests.vim.site import Site


async def test_a_higher_priority_makes_room_and_who_made_it_comes_back(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    low = await site.deploy("low", resources={"cpu": 3}, priority=1)
    await site.until_state(low, "running")
    waits = await site.deploy("waits", resources={"cpu": 3}, priority=5)
    await site.until_state(waits, "unschedulable")
    assert site.last(low).state == "running", "off by default"  # type: ignore[union-attr]
    await site.cancel(waits)
    await site.until_state(waits, "stopped")
    equal = await site.deploy("equal", resources={"cpu": 3}, priority=1, preempt="lower")
    await site.until_state(equal, "unschedulable")
    await site.cancel(equal)
    high = await site.deploy("high", resources={"cpu": 3}, priority=5, preempt="lower")
    await site.until_state(high, "running")
    told = await site.until_state(low, "unschedulable", reason="Preempted")
    assert f"preempted by {high} (priority 5)" in told.message
    (decision,) = site.decisions(high)
    assert [(one.deployment, one.priority) for one in decision.preempts] == [(low, 1)]
    assert {"preempt", "priority"} <= {one.field for one in decision.enforced}
    (name,) = site.node("a")
    assert site.nodes.most_at_once[f"{low}-0"] == 1
    order = [(one.deployment, one.state) for one in site.heard if hasattr(one, "state")]
    assert order.index((low, "unschedulable")) < order.index((high, "running")), "it waits for the room"
    await site.looks(2)
    assert (name, f"{low}-0") not in site.nodes.running
    await site.cancel(high)
    await site.until(lambda: (s := site.last(low)) and s.state == "running", "it is back")
    site.check_sequence(low)
    await site.looks(2)
    assert site.last(low).state == "running"  # type: ignore[union-attr]


async def test_of_several_replicas_only_those_go_that_must(site: Site) -> None:
    await site.nodes.join(*site.node("a", "b"))
    await site.found(2)
    low = await site.deploy("low", resources={"cpu": 3}, replicas=2)
    await site.until_state(low, "running")
    high = await site.deploy("high", resources={"cpu": 2}, priority=1, preempt="lower")
    await site.until_state(high, "running")
    told = await site.until_state(low, "degraded", reason="Preempted")
    assert len(told.replicas) == 1
    (roomy,) = site.node("roomy")
    await site.nodes.join(roomy)
    await site.until(lambda: (s := site.last(low)) and s.state == "running", "both run again")
    assert {replica.node for replica in site.last(low).replicas} >= {roomy}  # type: ignore[union-attr]


async def test_whatif_tells_who_would_make_room_and_stops_nobody(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    low = await site.deploy("low", resources={"cpu": 3})
    await site.until_state(low, "running")
    asked = site.request(resources={"cpu": 3}, priority=1, preempt="lower", id=site.name("would"))
    would = await site.bus.request("vim", "whatif", asked)
    assert [one["deployment"] for one in would["preempts"]] == [low]
    await site.looks(2)
    assert site.last(low).state == "running"  # type: ignore[union-attr]


@pytest.mark.slow
async def test_killed_in_between_the_room_is_still_made_once(own: Site) -> None:
    """vim dies at every moment of a preemption: one runs, the other waits and says so, nothing is doubled."""
    site = own
    site.stack.rid()
    await serving(site.bus, "rid", "attributes")
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    vim = site.stack.vim()
    await serving(site.bus, "vim", "list")
    for number in range(4):
        low = await site.deploy(f"low{number}", resources={"cpu": 3})
        await site.until_state(low, "running")
        high = await site.deploy(f"high{number}", resources={"cpu": 3}, priority=1, preempt="lower")
        if number < 3:
            await site.until(lambda h=high: site.decisions(h), "decided")
        else:
            await site.until(lambda lo=low: len(site.decisions(lo)) > 1, "it gives way")
        vim.kill()
        vim = site.stack.vim(f"vim-{number + 2}")
        await site.until_state(high, "running", seconds=40)
        await site.until_state(low, "unschedulable", reason="Preempted")
        assert max(site.nodes.most_at_once.values()) == 1
        assert [level.deployment for level in site.nodes.running.values()] == [high]
        for name in (high, low):
            await site.cancel(name)
            await site.until_state(name, "stopped")


async def test_neighbours_are_kept_apart_and_brought_together(site: Site) -> None:
    a, b, c = site.node("a", "b", "c")
    await site.nodes.join(a, b, rack="r1")
    await site.nodes.join(c, rack="r2")
    await site.found(3)
    db = await site.deploy("db", where={"name": a}, labels={"app": "db"})
    await site.until_state(db, "running")
    web = await site.deploy("web", apart=[{"labels": {"app": "db"}, "over": "rack"}])
    assert (await site.until_state(web, "running")).node == c
    beside = await site.deploy("beside", together=[{"deployment": db}])
    assert (await site.until_state(beside, "running")).node == a
    alone = await site.deploy("alone", together=[{"deployment": site.name("nobody")}])
    told = await site.until_state(alone, "unschedulable")
    assert f"deployment {site.name('nobody')} does not run there" in told.message
    nobody = await site.deploy("nobody", where={"name": b})
    await site.until_state(nobody, "running")
    assert (await site.until_state(alone, "running")).node == b
    three = await site.deploy("three", replicas=3, apart=[{"itself": True}])
    assert {one.node for one in (await site.until_state(three, "running")).replicas} == {a, b, c}
    decided = site.decisions(three)[-1]
    assert "apart.0" in {one.field for one in decided.enforced}


async def test_a_tainted_node_is_left_out_with_its_reason(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, labels={"taint.gpu": "yes:NoSchedule"})
    await site.nodes.join(b)
    await site.found(2)
    name = await site.deploy()
    assert (await site.until_state(name, "running")).node == b
    reasons = {node: group.reason for group in site.decisions(name)[-1].rejected for node in group.nodes}
    assert reasons[a] == "taint gpu=yes:NoSchedule is not tolerated"
    stands = await site.deploy(
        "stands", where={"taints": "gpu=yes:NoSchedule"}, tolerations=[{"key": "gpu", "value": "yes"}]
    )
    assert (await site.until_state(stands, "running")).node == a
