"""Freshness: every node has an age, a query may bound it, and silence turns stale, then lost, as set."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.event import event
from schemas.liveness import Thresholds
from services.rid.answer import Answers
from services.rid.columns import ColumnIndex
from services.rid.index import Index
from services.rid.ingest import Ingest
from services.rid.rows import RowIndex
from services.rid.settings import RidSettings
from tests.rid import nodes


class Site:
    """Answers from an index, both under a clock that the test sets."""

    def __init__(self, index: Index, thresholds: Thresholds) -> None:
        self.now = 1_000_000.0
        self.ingest = Ingest(index, thresholds, lambda node, urgent: None, lambda: self.now)
        self.answers = Answers(index, "home", lambda: self.ingest.heard, lambda: 0, lambda: self.now)

    def hear(self, node: str, *, interval: float = 1.0, load: float = 0.5) -> None:
        for data in (nodes.characterization(node), nodes.measurement(node, interval, load_1m=load)):
            self.ingest.take(event(data, "/home/test"), live=True)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ingest.tick()

    def ask(self, where: Any = "", **more: Any) -> dict[str, dict[str, Any]]:
        answer = self.answers.query({"where": where, **more})
        return {node["name"]: node for node in answer.nodes}


@pytest.fixture(params=[RowIndex, ColumnIndex])
def site(request: pytest.FixtureRequest) -> Site:
    site = Site(request.param(), Thresholds(stale_after=10, lost_after=40))
    site.hear("old")
    site.wait(4)
    site.hear("new")
    site.wait(3)
    return site


def test_every_node_carries_its_age_and_every_answer_that_of_its_minicloud(site: Site) -> None:
    assert {name: node["age"] for name, node in site.ask().items()} == {"old": 7, "new": 3}
    assert site.answers.node("old")["age"] == 7
    (own,) = site.answers.query({}).coverage
    assert (own.age, own.nodes) == (3, 2)
    assert list(site.ask(sort=[{"age": "asc"}])) == ["new", "old"]
    assert site.ask(fields=["age"])["new"] == {"name": "new", "age": 3}


@pytest.mark.parametrize(
    ("oldest", "found"), [("2s", []), ("3s", ["new"]), ("6999ms", ["new"]), (7, ["new", "old"])]
)
def test_max_age_leaves_out_who_was_heard_longer_ago(site: Site, oldest: Any, found: list[str]) -> None:
    assert list(site.ask(scope={"maxAge": oldest})) == found
    assert list(site.ask({"age": {"$lte": oldest}})) == found
    assert list(site.ask({"age": {"$not": {"$gt": oldest}}})) == found


def test_max_age_says_whom_it_left_out(site: Site) -> None:
    answer = site.answers.query({"scope": {"maxAge": "3s"}, "explain": True})
    assert [(group.attribute, group.had, group.nodes) for group in answer.rejected] == [
        ("age", "7s", ["old"])
    ]


def test_silence_turns_stale_then_lost_at_the_thresholds_that_are_set(site: Site) -> None:
    states = []
    for _ in range(6):
        site.wait(7)
        states.append({name: node["state"] for name, node in site.ask("state", fields=["state"]).items()})
    assert [state["old"] for state in states] == ["stale", "stale", "stale", "stale", "lost", "lost"]
    assert [state["new"] for state in states] == ["alive", "stale", "stale", "stale", "stale", "lost"]
    assert list(site.ask()) == [], "who is lost is left out"
    assert list(site.ask({"state": {"$in": ["alive", "stale", "lost"]}})) == ["new", "old"]
    site.hear("old")
    assert list(site.ask()) == ["old"]


def test_stale_nodes_are_answered_with_their_age_and_may_be_left_out(site: Site) -> None:
    site.wait(8)
    assert list(site.ask()) == ["new", "old"]
    assert list(site.ask("state=alive")) == []
    site.hear("new")
    assert list(site.ask("state=alive")) == ["new"]


def test_a_slow_agent_is_judged_by_its_own_pace(site: Site) -> None:
    site.hear("slow", interval=30)
    site.wait(89)
    assert site.ask()["slow"]["state"] == "alive"
    site.wait(2)
    assert site.ask()["slow"]["state"] == "stale"
    site.wait(270)
    assert list(site.ask()) == []


def test_the_thresholds_are_settings() -> None:
    settings = RidSettings.load({"MINICLOUD_STALE_AFTER": "3", "MINICLOUD_LOST_AFTER": "9"})
    assert (settings.stale_after, settings.lost_after) == (3, 9)


@pytest.mark.parametrize("index", [RowIndex(most=2), ColumnIndex(most=2)])
def test_a_node_with_more_labels_than_there_is_room_for_still_has_an_age(index: Index) -> None:
    site = Site(index, Thresholds())
    many = nodes.characterization("a", labels={f"l{at}": "x" for at in range(10)})
    site.ingest.take(event(many, "/home/test"), live=True)
    site.wait(3)
    assert site.ask("age<4")["a"]["age"] == 3
    assert index.refused


def test_an_answer_says_how_far_its_means_reach_back_until_they_are_whole() -> None:
    now = [1000.0]
    answers = Answers(RowIndex(), "home", lambda: None, lambda: 0, clock=lambda: now[0], began=1000.0)

    def reach(**document: Any) -> float | None:
        return answers.query(document).coverage[0].means

    now[0] += 120
    assert reach(where={"load.1m.mean.5m": {"$lt": 1}}) == 120
    assert reach(sort=[{"cpu.used.mean.15m": "asc"}]) == 120
    assert reach(fields=["load.1m.mean.10m"]) == 120
    assert reach(where={"load.1m": {"$lt": 1}}) is None, "it asks for none"
    now[0] += 780
    assert reach(where={"load.1m.mean.5m": {"$lt": 1}}) is None, "they are whole"
