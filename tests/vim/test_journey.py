"""One deployment's journey on a real bus, with a real rid and vim; nodes are fake where said."""

from __future__ import annotations

import asyncio

from tests.rid import nodes
from tests.vim.fake import DONE, UP, failing
from tests.vim.site import GIB, Site


async def test_from_request_to_running_every_step_is_told(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy()
    running = await site.until_state(name, "running")
    await site.in_order(name, "accepted", "scheduled", "running")
    assert (running.node, running.runtime, running.generation) == (a, "process", 1)
    assert site.statuses(name)[0].previous == "requested"
    assert site.statuses(name)[0].sequence == 1
    site.check_sequence(name)
    (decision,) = site.decisions(name)
    assert decision.outcome == "scheduled"
    assert [candidate.node for candidate in decision.candidates] == [a]
    assert {"runtimes", "images.process", "where", "replicas"} <= {one.field for one in decision.enforced}
    assert site.nodes.starts == {(a, f"{name}-0", 1): 1}


async def test_what_no_node_fits_waits_with_every_reason_until_one_joins(site: Site) -> None:
    small, wrong, far = site.node("small", "wrong", "far")
    await site.nodes.join(small, memory={"total": GIB // 4})
    await site.nodes.join(wrong, runtimes=["container"])
    await site.nodes.join(far, region={"city": "Pisa"})
    await site.found(3)
    where = {"label.group": site.group, "region.city": "Athens"}
    name = await site.deploy(resources={"memory": "1GiB"}, where=where)
    status = await site.until_state(name, "unschedulable", reason="NoNodeFits")
    decision = site.decisions(name)[-1]
    ours = {
        node: group.reason
        for group in decision.rejected
        for node in group.nodes
        if node in (small, wrong, far)
    }
    assert "Pisa" in ours[far]
    assert "runtimes" in ours[wrong]
    assert ours[small] == "memory 256MiB unreserved < 1GiB"
    assert "256MiB unreserved < 1GiB" in status.message
    (large,) = site.node("large")
    await site.nodes.join(large)
    running = await site.until_state(name, "running")
    assert running.node == large
    assert [one.outcome for one in site.decisions(name)] == ["unschedulable", "scheduled"]
    assert {one.generation for one in site.decisions(name)} == {1}
    site.check_sequence(name)


async def test_nothing_is_said_again_while_nothing_changes(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    running, waiting = await site.deploy("runs"), await site.deploy("waits", resources={"cpu": 100})
    await site.until_state(running, "running")
    await site.until_state(waiting, "unschedulable")
    told = len(site.heard)
    await site.looks(3)
    assert [one for one in site.heard[told:] if one.deployment in (running, waiting)] == []


async def test_an_update_replaces_in_place_and_the_same_content_changes_nothing(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(env={"WORD": "one"})
    first = await site.until_state(name, "running", generation=1)
    assert await site.deploy(env={"WORD": "one"}) == name
    await site.deploy(env={"WORD": "two"})
    second = await site.until_state(name, "running", generation=2)
    assert second.node == first.node, "nothing healthy is moved"
    assert [one.generation for one in site.decisions(name)] == [1, 2]
    assert site.decisions(name)[-1].placements[0].reason == "kept"
    assert sorted(site.nodes.starts.values()) == [1, 1]
    assert site.nodes.running[str(first.node), f"{name}-0"].env == {"WORD": "two"}
    site.check_sequence(name)


async def test_of_requests_in_quick_succession_the_last_one_runs(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    for round_ in range(5):
        for number in range(4):
            name = await site.deploy(f"r{round_}", env={"NUMBER": str(number)})
    for round_ in range(5):
        name = site.name(f"r{round_}")
        await site.until(
            lambda name=name: (
                (level := site.nodes.running.get((site.node("a")[0], f"{name}-0")))
                and level.env == {"NUMBER": "3"}
                and (last := site.last(name))
                and last.state == "running"
                and last.generation == level.generation
            ),
            f"{name} runs what was asked last",
        )
        site.check_sequence(name)


async def test_a_full_node_is_updated_in_place(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    # What runs has taken most of the memory, as a metric tells.
    await site.bus.publish(site.bus.subjects.metrics(a), nodes.measurement(a, memory_available=GIB), about=a)
    await site.found(1)
    name = await site.deploy(resources={"memory": "1GiB"}, env={"A": "1"})
    await site.until_state(name, "running", generation=1)
    await site.bus.publish(
        site.bus.subjects.metrics(a), nodes.measurement(a, memory_available=GIB // 8), about=a
    )
    where = {"label.group": site.group, "memory.available": {"$lt": "512MiB"}}
    async with asyncio.timeout(10):
        while not (await site.bus.request("rid", "query", {"where": where}))["total"]:
            await asyncio.sleep(0.02)
    await site.deploy(resources={"memory": "1GiB"}, env={"A": "2"})
    await site.until_state(name, "running", generation=2)


async def test_an_invalid_update_leaves_what_runs_and_says_so(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy()
    await site.until_state(name, "running")
    await site.deploy(data=[{"bucket": "photos"}])
    refused = await site.until_state(name, "running", reason="UpdateRejected")
    assert (refused.generation, refused.problems[0]["field"]) == (1, "data")
    assert len(refused.replicas) == 1
    await site.publish(name, "request", b"noise")
    await site.until(
        lambda: len([s for s in site.statuses(name) if s.reason == "UpdateRejected"]) == 2, "both"
    )
    assert len(site.decisions(name)) == 1
    await site.deploy(env={"NOW": "good"})
    await site.until_state(name, "running", generation=2)
    assert len(site.nodes.running) == 1
    site.check_sequence(name)


async def test_an_update_that_fits_nowhere_lets_the_old_run_and_keeps_its_room(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a, cpu={"arch": "x86_64", "bits": 64, "cores": 2})
    await site.found(1)
    name = await site.deploy(resources={"cpu": 1})
    await site.until_state(name, "running")
    await site.deploy(resources={"cpu": 64})
    told = await site.until_state(name, "unschedulable", generation=2)
    assert "generation 1 runs on" in told.message
    assert list(site.nodes.running) == [(a, f"{name}-0")]
    other = await site.deploy("other", resources={"cpu": 2})
    await site.until_state(other, "unschedulable")
    await site.deploy(resources={"cpu": "500m"})
    await site.until_state(name, "running", generation=3)
    assert sorted(site.nodes.starts) == [(a, f"{name}-0", 1), (a, f"{name}-0", 3)]
    await site.cancel(name)
    await site.until_state(other, "running")


async def test_cancelled_then_requested_again(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy()
    await site.until_state(name, "running")
    await site.cancel(name, "enough")
    stopped = await site.until_state(name, "stopped")
    assert stopped.message == "enough"
    assert site.nodes.running == {}
    await site.in_order(name, "running", "stopping", "stopped")
    await site.deploy()
    await site.until_state(name, "running", generation=2)
    assert sorted(site.nodes.starts.values()) == [1, 1]
    site.check_sequence(name)


async def test_a_cancelled_deployment_does_not_rise_again_by_a_bad_request(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy()
    await site.until_state(name, "running")
    await site.cancel(name)
    await site.until_state(name, "stopped")
    await site.publish(name, "request", {"runtimes": ["proces"]})
    await site.until_state(name, "rejected")
    other = await site.deploy("other")
    await site.until_state(other, "running")
    assert list(site.nodes.running) == [(site.node("a")[0], f"{other}-0")]


async def test_a_cancellation_of_nothing_is_answered(site: Site) -> None:
    await site.cancel(site.name("never"))
    assert (await site.until_state(site.name("never"), "stopped")).reason == "NotRequested"


async def test_replicas_up_and_down_to_none(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(replicas=1)
    await site.until_state(name, "running")
    await site.deploy(replicas=4)
    up = await site.until_state(name, "running", generation=2)
    assert sorted(replica.node for replica in up.replicas) == [a, a, b, b], "spread over the nodes"
    await site.deploy(replicas=2)
    await site.until_state(name, "running", generation=3)
    await site.until(
        lambda: sorted(w for _, w in site.nodes.running) == [f"{name}-0", f"{name}-1"], "two left"
    )
    await site.deploy(replicas=0)
    await site.until_state(name, "stopped", reason="ScaledToZero")
    assert site.nodes.running == {}
    await site.deploy(replicas=1)
    await site.until_state(name, "running", generation=5)
    site.check_sequence(name)


async def test_a_job_completes_and_is_not_run_again_when_its_node_is_lost(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    site.nodes.behave = lambda _: DONE
    name = await site.deploy(restart="never", onLoss={"replaceAfter": "1s"})
    done = await site.until_state(name, "completed")
    await site.nodes.lose(str(done.node))
    site.nodes.behave = lambda _: UP
    other = await site.deploy("other", onLoss={"replaceAfter": "1s"})
    there = await site.until_state(other, "running")
    await site.nodes.lose(str(there.node))
    await site.nodes.come_back(str(done.node))
    await site.until(
        lambda: (s := site.last(other)) and s.state == "running" and s.node == done.node, "moved"
    )
    assert site.last(name) == done
    assert sum(count for (_, workload, _), count in site.nodes.starts.items() if workload == f"{name}-0") == 1


async def test_a_finished_job_leaves_its_room(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    site.nodes.behave = lambda level: DONE if level.restart == "never" else UP
    name = await site.deploy(restart="never", resources={"cpu": 4})
    await site.until_state(name, "completed")
    other = await site.deploy("other", resources={"cpu": 4})
    await site.until_state(other, "running")


async def test_what_cannot_start_is_tried_in_the_next_runtime_and_on_the_next_node(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b, runtimes=["process", "container"])
    await site.found(2)
    site.nodes.behave = lambda level: (
        failing("CommandNotFound") if level.runtime == "process" or level.node == a else UP
    )
    images = {"process": {"command": ["/bin/none"]}, "container": {"image": "registry.local/x:1"}}
    name = await site.deploy(runtimes=["process", "container"], images=images)
    running = await site.until_state(name, "running")
    assert (running.node, running.runtime) == (b, "container")
    decision = site.decisions(name)[-1]
    assert {(one.node, one.runtime) for one in decision.attempts} >= {(a, "process"), (b, "process")}
    assert all(one.reason == "CommandNotFound" for one in decision.attempts)
    told = {group.reason for group in decision.rejected if group.runtime == "process"}
    assert told == {"was tried there: CommandNotFound"}
    assert sum(site.nodes.starts.values()) == 4, "each runtime once on each node"
    assert list(site.nodes.running) == [(b, f"{name}-0")]


async def test_what_can_start_nowhere_fails_and_is_not_tried_for_ever(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    site.nodes.behave = lambda _: failing("ImageNotFound")
    name = await site.deploy()
    failed = await site.until_state(name, "failed")
    assert failed.reason == "ImageNotFound"
    assert a in failed.message
    assert b in failed.message
    assert sum(site.nodes.starts.values()) == 2
    told = len(site.heard)
    await site.looks(2)
    assert site.heard[told:] == []
    assert sum(site.nodes.starts.values()) == 2
    site.nodes.behave = lambda _: UP
    (c,) = site.node("c")
    await site.nodes.join(c)
    assert (await site.until_state(name, "running")).node == c
    assert site.decisions(name)[-1].generation == 1


async def test_every_replica_of_a_node_that_cannot_start_it_moves(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a)
    await site.found(1)
    site.nodes.behave = lambda level: failing("ImageNotFound") if level.node == a else UP
    name = await site.deploy(replicas=3)
    await site.until_state(name, "failed")
    await site.nodes.join(b)
    running = await site.until_state(name, "running")
    assert [replica.node for replica in running.replicas] == [b, b, b]


async def test_a_lost_node_is_replaced_and_doubles_nothing_when_it_returns(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    name = await site.deploy(onLoss={"replaceAfter": "1s"})
    first = await site.until_state(name, "running")
    lost, left = str(first.node), ({a, b} - {str(first.node)}).pop()
    await site.nodes.lose(lost)
    told = await site.until_state(name, "lost", reason="NodeLost")
    assert lost in told.message
    await site.until(lambda: (s := site.last(name)) and s.state == "running" and s.node == left, "replaced")
    await site.until(
        lambda: site.nodes.levels[lost, f"{name}-0"].state == "stopped", "the old one is to stop"
    )
    await site.nodes.come_back(lost)
    await site.until(lambda: list(site.nodes.running) == [(left, f"{name}-0")], "only one runs")
    assert site.decisions(name)[-1].attempts[0].reason == "NodeLost"
    assert {one.generation for one in site.decisions(name)} == {1}
    site.check_sequence(name)


async def test_a_lost_node_without_another_keeps_its_replicas(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy(replicas=2, onLoss={"replaceAfter": "1s"})
    await site.until_state(name, "running")
    await site.nodes.lose(a)
    await site.until_state(name, "lost")
    await site.looks(2)
    assert len(site.decisions(name)) == 1
    await site.nodes.come_back(a)
    back = await site.until_state(name, "running")
    assert [replica.node for replica in back.replicas] == [a, a]
    assert max(site.nodes.starts.values()) == 1, "what ran on was not started again"
    site.check_sequence(name)


async def test_of_two_lost_replicas_one_is_placed_where_only_one_fits(site: Site) -> None:
    a, b, c = site.node("a", "b", "c")
    one_core = {"arch": "x86_64", "bits": 64, "cores": 1}
    await site.nodes.join(a, b, cpu=one_core)
    await site.found(2)
    name = await site.deploy(replicas=2, resources={"cpu": 1}, onLoss={"replaceAfter": "1s"})
    await site.until_state(name, "running")
    await site.nodes.lose(a, b)
    await site.until_state(name, "lost")
    await site.nodes.join(c, cpu=one_core)
    await site.until(
        lambda: (c, f"{name}-0") in site.nodes.running or (c, f"{name}-1") in site.nodes.running, "one"
    )
    status = await site.until(
        lambda: (s := site.last(name)) and {r.state for r in s.replicas} == {"lost", "running"} and s, "told"
    )
    assert status.state == "lost"
    await site.nodes.come_back(a, b)
    await site.until_state(name, "running")
    await site.until(lambda: len({workload for _, workload in site.nodes.running}) == 2 == len(site.nodes.running),
                     "nothing is doubled")  # fmt: skip


async def test_a_singleton_is_never_replaced_and_moves_only_after_its_end(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b, labels={"site": "one"})
    await site.found(2)
    only = {"singleton": True, "replaceAfter": "1s"}
    name = await site.deploy(onLoss=only)
    first = await site.until_state(name, "running")
    lost, left = str(first.node), ({a, b} - {str(first.node)}).pop()
    await site.nodes.lose(lost)
    await site.until_state(name, "lost")
    await site.looks(2)
    assert len(site.decisions(name)) == 1
    await site.nodes.come_back(lost)
    await site.until_state(name, "running")
    await site.deploy(onLoss=only, where={"name": left})
    moved = await site.until_state(name, "running", generation=2)
    assert moved.node == left
    assert site.nodes.most_at_once[f"{name}-0"] == 1
    assert list(site.nodes.running) == [(left, f"{name}-0")]


async def test_the_last_gigabyte_goes_to_one_and_never_to_two(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a, memory={"total": 3 * GIB})
    await site.found(1)
    names = [site.name(f"r{number}") for number in range(30)]
    wanted = site.request(resources={"memory": "1GiB"})
    await asyncio.gather(*(site.publish(name, "request", wanted) for name in names))
    await site.until(
        lambda: all((s := site.last(name)) and s.state in ("running", "unschedulable") for name in names),
        "settled",
    )
    for _ in range(3):
        runs = [name for name in names if site.states(name)[-1] == "running"]
        assert len(runs) == 3
        assert len(site.nodes.running) == 3
        await site.cancel(runs[0])
        await site.until_state(runs[0], "stopped")
        names.remove(runs[0])
        await site.until(lambda: sum(site.states(name)[-1] == "running" for name in names) == 3, "the next")
    for name in names:
        site.check_sequence(name)


async def test_room_goes_to_the_first_in_priority_of_those_that_wait(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    await site.found(1)
    first = await site.deploy("first", resources={"cpu": 4})
    await site.until_state(first, "running")
    waiting = {p: await site.deploy(f"p{p + 10}", priority=p, resources={"cpu": 4}) for p in (0, 5, -3, 7, 2)}
    for name in waiting.values():
        await site.until_state(name, "unschedulable")
    order = []
    last = first
    for _ in waiting:
        await site.cancel(last)
        await site.until(
            lambda: [n for n in waiting.values() if site.states(n)[-1] == "running" and n not in order],
            "next",
        )
        (last,) = [n for n in waiting.values() if site.states(n)[-1] == "running" and n not in order]
        order.append(last)
    assert order == [waiting[p] for p in (7, 5, 2, 0, -3)]


async def test_a_pinned_port_is_given_once_a_node(site: Site) -> None:
    a, b = site.node("a", "b")
    await site.nodes.join(a, b)
    await site.found(2)
    ports = [{"name": "http", "port": 80, "hostPort": 8080}]
    pair = await site.deploy("pair", replicas=2, ports=ports)
    running = await site.until_state(pair, "running")
    assert sorted(replica.node for replica in running.replicas) == [a, b]
    other = await site.deploy("other", ports=ports)
    told = await site.until_state(other, "unschedulable")
    assert f"host port 8080 is taken by deployment {pair}" in told.message
    three = await site.deploy("three", replicas=3, ports=[{"name": "x", "port": 81, "hostPort": 8081}])
    assert "taken by another replica" in (await site.until_state(three, "unschedulable")).message
    await site.cancel(pair)
    await site.until_state(other, "running")
