"""What users wish of what runs: other numbers, other places, standing still; over the bus, by verb and by event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from schemas.errors import Conflict, InvalidDocument, NotFound
from tests.vim.fake import UP, failing
from tests.vim.site import Site


async def ask(site: Site, verb: str, deployment: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await site.bus.request("vim", verb, {"deployment": deployment, **more})
    return answer


async def running_on(site: Site, deployment: str, *nodes: str) -> None:
    """Until it runs on these nodes, and on none beside."""
    await site.until(
        lambda: (
            sorted(node for node, workload in site.nodes.running if workload.startswith(f"{deployment}-"))
            == sorted(nodes)
            and (last := site.last(deployment))
            and last.state == "running"
            and sorted(replica.node for replica in last.replicas) == sorted(nodes)
        ),
        f"{deployment} on {nodes}",
    )


# -- scale -----------------------------------------------------------------------------------------


async def test_scaling_is_another_generation_in_which_what_runs_is_let_alone(site: Site) -> None:
    await site.nodes.join(*site.node("a", "b"))
    await site.found(2)
    name = await site.deploy(env={"WORD": "one"})
    await site.until_state(name, "running")
    told = await ask(site, "scale", name, replicas=3)
    assert told["changed"]
    three = await site.until_state(name, "running", generation=2)
    assert len(three.replicas) == 3
    assert site.decisions(name)[-1].request.env == {"WORD": "one"}
    assert not (await ask(site, "scale", name, replicas=3))["changed"]
    await ask(site, "scale", name, replicas=1)
    await site.until_state(name, "running", generation=3)
    await site.until(lambda: [w for _, w in site.nodes.running] == [f"{name}-0"], "one left")
    assert {w: c for (_, w, _), c in site.nodes.starts.items()} == {f"{name}-{n}": 1 for n in range(3)}
    site.check_sequence(name)


async def test_of_two_who_change_at_once_neither_undoes_what_the_other_wished(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy(env={"WORD": "one"})
    await site.until_state(name, "running")
    for round_ in range(5):
        verb = "resume" if round_ % 2 else "pause"
        await asyncio.gather(
            ask(site, "scale", name, replicas=2 + round_),
            ask(site, verb, name),
            *(ask(site, "scale", name, replicas=2 + round_) for _ in range(3)),
        )
        stored = await site.bus.jetstream.last(f"{site.mc}_deployments", site.bus.subjects.request(name))
        assert stored is not None
        assert f'"replicas":{2 + round_}'.encode() in stored[1]
        assert (b'"paused":true' in stored[1]) == (verb == "pause")
        assert b'"WORD":"one"' in stored[1]


async def test_what_was_refused_is_not_what_is_scaled(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy(env={"WORD": "one"})
    await site.until_state(name, "running")
    await site.deploy(env={"WORD": "two"}, data=[{"bucket": "photos"}])
    await site.until_state(name, "running", reason="UpdateRejected")
    await ask(site, "scale", name, replicas=2)
    await site.until_state(name, "running", generation=2, reason="Started")
    assert site.decisions(name)[-1].request.env == {"WORD": "one"}
    await site.publish(name, "request", b"noise")
    await site.until_state(name, "running", reason="UpdateRejected")
    await ask(site, "scale", name, replicas=1)
    await site.until_state(name, "running", generation=3)


async def test_nothing_is_wished_of_what_is_not_there(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(replicas=2)
    await site.until_state(name, "running")
    for verb, more in (("scale", {"replicas": 2}), ("pause", {}), ("resume", {}), ("migrate", {})):
        with pytest.raises(NotFound, match=name):
            await ask(site, verb, f"{name}x", **more)
    with pytest.raises(NotFound, match="0 to 1"):
        await ask(site, "migrate", name, replica=2)
    with pytest.raises(NotFound, match="nowhere"):
        await ask(site, "migrate", name, to="nowhere")
    with pytest.raises(InvalidDocument, match="another node"):
        await ask(site, "migrate", name, to=a, **{"from": a})
    with pytest.raises(InvalidDocument, match="1000"):
        await ask(site, "scale", name, replicas=1001)
    await site.cancel(name)
    await site.until_state(name, "stopped")
    for verb, more in (("scale", {"replicas": 3}), ("pause", {}), ("resume", {}), ("migrate", {})):
        with pytest.raises(Conflict, match="cancelled"):
            await ask(site, verb, name, **more)


# -- pause -----------------------------------------------------------------------------------------


async def test_what_is_paused_stands_still_where_it_is_and_keeps_its_room(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy(resources={"cpu": 4}, replicas=1)
    await site.until_state(name, "running")
    assert (await ask(site, "pause", name))["changed"]
    paused = await site.until_state(name, "paused", generation=2)
    assert [(replica.node, replica.state) for replica in paused.replicas] == [(a, "paused")]
    assert site.nodes.levels[a, f"{name}-0"].state == "paused"
    assert {"paused"} <= {one.field for one in site.decisions(name)[-1].enforced}
    assert not (await ask(site, "pause", name))["changed"]
    other = await site.deploy("other", resources={"cpu": 4})
    assert "unreserved" in (await site.until_state(other, "unschedulable")).message
    answer = await site.bus.request("rid", "query", {"where": {"name": a}, "fields": ["allocatable.cpu"]})
    assert answer["nodes"][0]["allocatable.cpu"] == 0.0
    assert (await ask(site, "resume", name))["changed"]
    await site.until_state(name, "running", generation=3)
    assert sum(count for (_, workload, _), count in site.nodes.starts.items() if workload == f"{name}-0") == 1
    await ask(site, "pause", name)
    await site.until_state(name, "paused")
    await site.cancel(name)
    await site.until_state(name, "stopped")
    await site.until_state(other, "running")
    site.check_sequence(name)


async def test_a_request_that_says_paused_begins_so(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy(paused=True)
    await site.until_state(name, "paused", generation=1)
    await site.deploy()
    await site.until_state(name, "running", generation=2)


# -- migrate ---------------------------------------------------------------------------------------


async def test_a_replica_moves_and_ends_where_it_was_only_after_it_runs(site: Site) -> None:
    a, b, c = site.node("a", "b", "c")
    await site.nodes.join(a, b, c)
    await site.found(3)
    name = await site.deploy(where={"label.group": site.group}, prefer=[{"name": "asc"}])
    await running_on(site, name, a)
    site.nodes.behave = lambda level: UP[:2] if level.node == b else UP
    assert (await ask(site, "migrate", name, replica=0, to=b))["changed"]
    moving = await site.until_state(name, "migrating", reason="Migrating")
    assert moving.message.startswith(f"from {a} to {b}")
    assert site.nodes.levels[a, f"{name}-0"].state == "running", "it runs on where it was"
    begun = (b, f"{name}-0")
    await site.until(lambda: begun in site.nodes.said and site.nodes.said[begun].state == "starting", "begun")
    await site.nodes.turn(b, f"{name}-0", "running")
    site.nodes.running[b, f"{name}-0"] = site.nodes.levels[b, f"{name}-0"]
    await running_on(site, name, b)
    site.nodes.behave = lambda _: UP
    decision = site.decisions(name)[-1]
    (placement,) = decision.placements
    assert (placement.node, placement.moved_from, decision.generation) == (b, a, 1)
    assert "as was wished" in placement.reason
    assert not (await ask(site, "migrate", name, replica=0, to=b))["changed"], "it is there"
    told = len(site.decisions(name))
    await site.publish(name, "migrate", {"replica": 0, "from": a, "to": c})  # said of where it no longer is
    await site.until(lambda: len(site.decisions(name)) > told, "answered")
    await running_on(site, name, b)
    await site.publish(name, "migrate", {})  # as a person writes it with mosquitto_pub: away from there
    await site.until(lambda: (s := site.last(name)) and s.node in (a, c) and s.state == "running", "away")
    site.check_sequence(name)


async def test_all_replicas_leave_their_nodes(site: Site) -> None:
    a, b, c = site.node("a", "b", "c")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(replicas=4)
    await running_on(site, name, a, a, b, b)
    await site.nodes.join(c)
    await site.found(3)
    await ask(site, "migrate", name, to=c)
    await running_on(site, name, c, c, c, c)
    await site.publish(name, "migrate", {"from": a})  # nothing is there
    await ask(site, "migrate", name, replica=3)
    await site.until(lambda: (s := site.last(name)) and {r.node for r in s.replicas} > {c}, "one left")
    assert max(site.nodes.starts.values()) == 1
    site.check_sequence(name)


async def test_what_cannot_move_stays_and_says_why(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy(resources={"cpu": 3})
    await running_on(site, name, a)
    await ask(site, "migrate", name)
    stays = await site.until_state(name, "running", reason="CannotMigrate")
    assert f"it stays on {a}: no other node takes it" in stays.message
    await site.nodes.join(b, cpu={"arch": "x86_64", "bits": 64, "cores": 2})
    await site.found(2)
    await ask(site, "migrate", name, to=b)
    stays = await site.until(lambda: (s := site.last(name)) and b in s.message and s, "why")
    assert "cpu 2 unreserved < 3" in stays.message
    assert (stays.node, stays.reason) == (a, "CannotMigrate")
    await site.looks(2)
    assert site.last(name) == stays, "answered is answered: it is not tried for ever"
    assert max(site.nodes.starts.values()) == 1


async def test_where_it_cannot_start_it_goes_on_where_it_was(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    site.nodes.behave = lambda level: failing("ImageNotFound") if level.node == b else UP
    name = await site.deploy(prefer=[{"name": "asc"}])
    await running_on(site, name, a)
    await ask(site, "migrate", name, to=b)
    await site.until(
        lambda: site.decisions(name)[-1].attempts and site.decisions(name)[-1].placements[0].node == a, "back"
    )
    await running_on(site, name, a)
    assert sum(count for (node, _, _), count in site.nodes.starts.items() if node == a) == 1


async def test_a_singleton_ends_before_it_starts_elsewhere(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(onLoss={"singleton": True}, prefer=[{"name": "asc"}])
    await running_on(site, name, a)
    await ask(site, "migrate", name)
    await running_on(site, name, b)
    assert site.nodes.most_at_once[f"{name}-0"] == 1
    assert "migrating" in site.states(name)


async def test_every_wish_is_answered_however_many_come_at_once(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy(replicas=6)
    await running_on(site, name, *[a] * 6)
    await site.nodes.join(b)
    await site.found(2)
    await asyncio.gather(*(ask(site, "migrate", name, replica=replica, to=b) for replica in range(0, 6, 2)))
    await running_on(site, name, a, a, a, b, b, b)
    moved = {replica.replica for replica in site.last(name).replicas if replica.node == b}  # type: ignore[union-attr]
    assert moved == {0, 2, 4}
    assert max(site.nodes.starts.values()) == 1


async def test_wishes_of_an_earlier_life_move_nothing(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = site.name()
    await site.publish(name, "migrate", {"to": b})
    await site.deploy(prefer=[{"name": "asc"}])
    await running_on(site, name, a)
    await site.cancel(name)
    await site.until_state(name, "stopped")
    await site.publish(name, "migrate", {"to": b})
    await site.deploy(prefer=[{"name": "asc"}])
    await site.until_state(name, "running", generation=2)
    await running_on(site, name, a)
    assert len(site.decisions(name)) == 2
