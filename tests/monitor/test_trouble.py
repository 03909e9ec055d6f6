"""Physical meets virtual: a node in trouble says which deployments suffer, once, and when it is over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import event
from schemas.liveness import Thresholds
from schemas.trouble import NodeTrouble
from services.monitor.fleet import Fleet
from services.monitor.trouble import Limits, Troubles
from services.monitor.windows import Windows
from tests.monitor.conftest import Site, observed
from tests.rid import nodes
from tests.rid.nodes import GIB


class Judged:
    """A fleet and its troubles, with a clock that the test sets; what is due is said at once."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now = 1_700_000_000.0
        windows = Windows()
        self.fleet = Fleet(Thresholds(15, 60), windows, clock=lambda: self.now)
        self.troubles = Troubles(self.fleet, windows, limits or Limits())
        self.fleet.take(event(nodes.characterization("a"), "/tests"), live=True)

    def hears(self, *data: Any) -> list[NodeTrouble]:
        """What is said after these, a second later."""
        self.now += 1
        for one in data:
            said = event(one, "/tests")
            said.time = nodes.at(self.now)
            self.fleet.take(said, live=True)
        for _ in self.fleet.judging():
            pass
        for _ in self.troubles.look(self.now):
            pass
        due = list(self.troubles.due())
        for one in due:
            self.troubles.recall(one)
        return due

    def measures(self, **values: float) -> list[NodeTrouble]:
        return self.hears(nodes.measurement("a", **values))


@pytest.mark.parametrize(
    ("what", "well", "ill", "edge"),
    [
        ("cpu", {"cpu_used": 50.0}, {"cpu_used": 100.0}, None),
        (
            "memory",
            {"memory_available": 4.0 * GIB},
            {"memory_available": 0.049 * 8 * GIB},
            {"memory_available": 0.054 * 8 * GIB},
        ),
        ("disk", {"disk_free": 32.0 * GIB}, {"disk_free": 6.0 * GIB}, {"disk_free": 6.9 * GIB}),
        ("hot", {"temperature": 50.0}, {"temperature": 86.0}, {"temperature": 84.0}),
    ],
)
def test_what_is_beyond_its_limit_is_trouble_until_it_is_well_within(
    what: str, well: dict[str, float], ill: dict[str, float], edge: dict[str, float] | None
) -> None:
    judged = Judged()
    assert judged.measures(**well) == []
    judged.now += 6 * 60  # out of the window of the mean
    (began,) = judged.measures(**ill)
    (trouble,) = began.troubles
    assert trouble.what == what
    assert trouble.limit == getattr(Limits(), what)
    assert began.over == []
    assert judged.measures(**ill) == []
    if edge:
        assert judged.measures(**edge) == []
    judged.now += 6 * 60
    (ended,) = judged.measures(**well)
    assert (ended.troubles, ended.over) == ([], [what])
    assert judged.measures(**well) == []


def test_a_lost_node_takes_its_deployments_with_it() -> None:
    judged = Judged()
    judged.hears(observed("a", "hello-0"), observed("a", "photos-1"), observed("b", "other-0"))
    (stale,) = _wait(judged, 16)
    assert [one.what for one in stale.troubles] == ["stale"]
    (lost,) = _wait(judged, 60)
    assert [one.what for one in lost.troubles] == ["lost"]
    assert lost.over == ["stale"]
    assert lost.deployments == ["hello", "photos"]
    assert [one.workload for one in lost.workloads] == ["hello-0", "photos-1"]
    (fewer,) = judged.hears(observed("a", "photos-1", "stopped"))
    assert fewer.deployments == ["hello"]
    (back,) = judged.measures(cpu_used=1)
    assert (back.troubles, back.over) == ([], ["lost"])


def test_who_was_moved_suffers_where_it_is() -> None:
    judged = Judged()
    moved = observed("b", "hello-0", moved_to="a")
    judged.hears(moved, observed("a", "photos-0"))
    (hot,) = judged.measures(temperature=90)
    assert hot.deployments == ["hello", "photos"]
    (fewer,) = judged.hears(moved.model_copy(update={"moved_to": None}))
    assert fewer.deployments == ["photos"]


def _wait(judged: Judged, seconds: float) -> list[NodeTrouble]:
    judged.now += seconds
    return judged.hears()


def test_a_node_that_went_in_order_is_in_no_trouble() -> None:
    judged = Judged()
    assert judged.hears(nodes.presence("a", online=False, reason="stopping")) == []
    assert judged.hears(nodes.presence("a", online=True, session="a2")) == []
    (lost,) = judged.hears(nodes.presence("a", online=False, reason="connection lost", session="a2"))
    assert "connection lost" in lost.troubles[0].message


def test_since_is_when_it_began() -> None:
    judged = Judged()
    (began,) = judged.measures(temperature=90)
    (more,) = judged.measures(temperature=91, disk_free=0)
    assert {one.what for one in more.troubles} == {"hot", "disk"}
    since = {one.what: one.since for one in more.troubles}
    assert since["hot"] == began.troubles[0].since < since["disk"]
    assert judged.troubles.troubled() == ["a"]


@given(st.lists(st.floats(0, 120), max_size=60))
def test_what_was_said_last_is_what_is_so(heats: list[float]) -> None:
    judged = Judged()
    last: list[str] = []
    for heat in heats:
        for said in judged.measures(temperature=heat):
            now = [one.what for one in said.troubles]
            assert now != last
            assert set(said.over) == set(last) - set(now)
            last = list(now)
        assert (last == ["hot"]) == bool(judged.troubles.of("a"))
        if heat > 85:
            assert last == ["hot"]
        if heat <= 85 * 0.9:
            assert last == []


async def _said(site: Site, count: int) -> list[NodeTrouble]:
    """The first so many events about troubles."""
    found: list[NodeTrouble] = []
    async with (
        asyncio.timeout(20),
        site.bus.watch({site.bus.subjects.trouble(): NodeTrouble}, since=0) as items,
    ):
        async for item in items:
            if item.event:
                found.append(item.event.data)
            if len(found) == count:
                break
    return found


async def test_an_event_and_an_endpoint_say_who_suffers(site: Site) -> None:
    async with site.monitor(hot=80) as (_, http):
        await site.say(
            nodes.characterization("a", site.mc),
            observed("a", "hello-0"),
            nodes.measurement("a", temperature=90),
        )
        (began,) = await _said(site, 1)
        assert (began.node, began.deployments) == ("a", ["hello"])
        (impact,) = (await http.get("/v1/impacts")).json()["impacts"]
        assert impact == (await http.get("/v1/nodes/a/impact")).json()
        assert (impact["state"], impact["deployments"]) == ("alive", ["hello"])
        assert impact["troubles"][0]["what"] == "hot"
        # The other way round: what is the node of a slow deployment doing?
        told = (await http.get("/v1/deployments/hello")).json()
        (replica,) = told["replicas"]
        assert replica["workload"]["node"] == "a"
        assert replica["troubles"][0]["value"] == 90
        assert replica["metrics"]["temperature"] == {"value": 90.0, "unit": "C"}
        assert [window["window"] for window in replica["windows"]] == ["5m", "10m", "15m"]
        assert replica["windows"][0]["metrics"]["temperature"]["mean"] == 90
        page = (await http.get("/metrics")).text
        assert "minicloud_workload_state{" in page
        await site.say(nodes.measurement("a", temperature=40))
        assert (await _said(site, 2))[1].over == ["hot"]
        assert (await http.get("/v1/impacts")).json()["impacts"] == []


async def test_a_restart_repeats_nothing_and_says_what_ended_meanwhile(site: Site) -> None:
    async with site.monitor(hot=80):
        await site.say(
            nodes.characterization("a", site.mc), nodes.characterization("b", site.mc),
            nodes.measurement("a", temperature=90), nodes.measurement("b", temperature=90),
        )  # fmt: skip
        first = await _said(site, 2)
        assert {one.node for one in first} == {"a", "b"}
    await site.say(nodes.measurement("b", temperature=40))
    async with site.monitor(hot=80):
        third = (await _said(site, 3))[2]
        assert (third.node, third.over) == ("b", ["hot"])
    async with site.monitor(hot=80) as (_, http):
        (impact,) = (await http.get("/v1/impacts")).json()["impacts"]
        assert impact["node"] == "a"
        state = (await site.bus.jetstream.api(f"STREAM.INFO.{site.mc}_troubles"))["state"]
        assert state["messages"] == 3


async def test_of_two_monitors_one_says_it(site: Site) -> None:
    async with (
        site.monitor(hot=80, instance="one") as (one, _),
        site.monitor(hot=80, instance="two") as (two, _),
    ):
        await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", temperature=90))
        await _said(site, 1)
        await site.say(nodes.measurement("a", temperature=40))
        second = (await _said(site, 2))[1]
        assert second.troubles == []
        assert one.troubles.of("a") == two.troubles.of("a") == []
        state = (await site.bus.jetstream.api(f"STREAM.INFO.{site.mc}_troubles"))["state"]
        assert state["messages"] == 2
