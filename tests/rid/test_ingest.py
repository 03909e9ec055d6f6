"""Events in, attributes out: levels, liveness, and what counts as a change."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.attributes import MEANS
from schemas.event import EventData, event
from schemas.flatten import attributes_of
from schemas.liveness import Thresholds
from services.rid.columns import ColumnIndex
from services.rid.fresh import lasting
from services.rid.ingest import Ingest
from services.rid.watch import ChangeLog
from tests.rid import nodes
from tests.rid.nodes import GIB


class Site:
    """An index under a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.index = ColumnIndex()
        self.noted: list[tuple[str, bool]] = []
        self.log = ChangeLog(self.look, metrics_every=30, material=0.1, clock=lambda: self.now)
        self.ingest = Ingest(self.index, Thresholds(), self.note, clock=lambda: self.now)
        self.revision = 0

    def note(self, node: str, urgent: bool) -> None:
        self.noted.append((node, urgent))
        self.log.note(node, urgent)

    def look(self, node: str) -> Any:
        found = self.index.get(node)
        return (lasting(found), self.ingest.left(node)) if found else None

    def take(self, *data: EventData, live: bool = True) -> None:
        for one in data:
            whole = event(one, "/home/test")
            whole.time = nodes.at(self.now)
            self.ingest.take(whole, live=live)

    def changes(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What is due now, as if it were published at once."""
        due = self.log.due()
        for one in due:
            self.revision += 1
            self.log.seen(one.change, self.revision)
        return [(one.change.node, one.change.kind, one.change.changed) for one in due]

    def of(self, node: str = "a") -> dict[str, Any]:
        return self.index.get(node) or {}


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_characterization_becomes_flat_attributes() -> None:
    assert attributes_of(nodes.characterization("a")) == {
        "id": "id-of-a",
        "name": "a",
        "minicloud": "home",
        "addresses": ["192.168.1.4"],
        "agent.version": "0.1.0",
        "cpu.arch": "x86_64",
        "cpu.bits": 64,
        "cpu.cores": 4,
        "cpu.model": "A CPU",
        "memory.total": 8 * GIB,
        "disk.total": 64 * GIB,
        "disk.kind": ["network", "ssd"],
        "gpu": False,
        "gpu.name": [],
        "battery": False,
        "os.name": "debian",
        "os.version": "12",
        "kernel": "6.1.0-18",
        "runtimes": ["container", "process", "unikernel"],
        "acceleration": "tcg",
        "storage.worker": False,
        "region.country": "GR",
        "region.city": "Athens",
        "label.zone": "kitchen",
        "software.python3": "3.11.7",
    }


def test_absurd_values_and_names_are_left_out() -> None:
    odd = nodes.characterization("a", memory={"total": 10**400}, labels={"a b": "x", "ok": "y"})
    assert "memory.total" not in attributes_of(odd)
    assert "label.a b" not in attributes_of(odd)
    assert attributes_of(odd)["label.ok"] == "y"


def test_nothing_is_indexed_before_the_characterization_and_nothing_is_lost(site: Site) -> None:
    site.take(nodes.measurement("a", load_1m=0.5), nodes.worker("a", "process"), nodes.desired("a"))
    assert "a" not in site.index
    site.take(nodes.characterization("a"))
    assert site.of()["load.1m"] == 0.5
    assert site.of()["runtimes"] == ["process"]
    assert site.of()["allocatable.cpu"] == 3
    assert site.of()["allocatable.memory"] == 7 * GIB


def test_a_stopped_workload_gives_back_what_it_held(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.desired("a", memory_overhead=GIB))
    assert site.of()["allocatable.memory"] == 6 * GIB
    site.take(nodes.desired("a", state="stopped"))
    assert site.of()["allocatable.memory"] == 8 * GIB


def test_a_new_characterization_takes_away_what_is_gone_and_keeps_the_metrics(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.measurement("a", load_1m=0.5, my_metric=7))
    site.take(nodes.characterization("a", labels={}, software={}))
    assert "label.zone" not in site.of()
    assert site.of()["my.metric"] == 7
    site.take(nodes.measurement("a", load_1m=0.6))
    assert "my.metric" not in site.of()


def test_a_sample_cannot_speak_for_what_others_say(site: Site) -> None:
    site.take(nodes.characterization("a"))
    site.take(nodes.measurement("a", gpu=1, allocatable_cpu=99, label_x=3, age=0))
    assert site.of()["gpu"] is False
    assert site.of()["allocatable.cpu"] == 4
    assert "label.x" not in site.of()


def test_a_spooled_sample_does_not_overtake_a_newer_one(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.measurement("a", load_1m=2))
    old = event(nodes.measurement("a", load_1m=1), "/home/a")
    old.time = nodes.at(site.now - 60)
    site.ingest.take(old, live=True)
    assert site.of()["load.1m"] == 2


def test_silence_makes_stale_then_lost_and_a_sample_brings_it_back(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.presence("a"), nodes.measurement("a"))
    assert [kind for _, kind, _ in site.changes()] == ["joined"]
    site.now += 16
    site.ingest.tick()
    assert site.changes() == [("a", "stale", {"state": "stale"})]
    site.now += 50
    site.ingest.tick()
    assert site.changes() == [("a", "lost", {"state": "lost"})]
    site.take(nodes.measurement("a"))
    assert site.changes() == [("a", "returned", {"state": "alive"})]


def test_a_slow_agent_is_not_stale_between_its_samples(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.measurement("a", interval=60))
    site.now += 170
    site.ingest.tick()
    assert site.of()["state"] == "alive"


@pytest.mark.parametrize(("reason", "kind"), [("connection lost", "lost"), ("stopping", "left")])
def test_a_farewell_makes_lost_at_once(site: Site, reason: str, kind: str) -> None:
    site.take(nodes.characterization("a"), nodes.presence("a"))
    site.changes()
    site.take(nodes.presence("a", online=False, reason=reason))
    assert [change for _, change, _ in site.changes()] == [kind]
    site.take(nodes.presence("a", session="b2"))
    assert [change for _, change, _ in site.changes()] == ["returned"]


def test_the_will_of_a_former_run_is_too_late(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.presence("a", session="b2"))
    site.take(nodes.presence("a", online=False, reason="connection lost", session="a1"))
    assert site.of()["state"] == "alive"


def test_a_replayed_will_counts_though_the_greeting_of_its_run_was_missed(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.presence("a", session="a1"))
    site.take(nodes.presence("a", online=False, reason="connection lost", session="b2"), live=False)
    assert site.of()["state"] == "lost"


def test_samples_that_go_on_after_a_farewell_prove_it_wrong(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.presence("a", online=False, reason="connection lost"))
    site.take(nodes.measurement("a"))
    assert site.of()["state"] == "lost"
    site.now += 11
    site.take(nodes.measurement("a"))
    assert site.of()["state"] == "alive"


def test_a_replayed_silent_node_is_stale_not_alive_and_lost_only_after_listening(site: Site) -> None:
    heard = event(nodes.characterization("a"), "/home/a")
    heard.time = nodes.at(site.now - 3600)
    site.ingest.take(heard, live=False)
    assert site.of()["state"] == "stale"
    site.now += 61
    site.ingest.tick()
    assert site.of()["state"] == "lost"


def test_a_restart_does_not_bring_back_who_was_lost(site: Site) -> None:
    site.ingest.recall("a", "lost")
    heard = event(nodes.characterization("a"), "/home/a")
    heard.time = nodes.at(site.now - 3600)
    site.ingest.take(heard, live=False)
    assert site.of()["state"] == "lost"


def test_metrics_are_published_seldom_and_only_when_they_moved(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.measurement("a", load_1m=1))
    site.changes()
    for _ in range(10):
        site.now += 2
        site.take(nodes.measurement("a", load_1m=2))
        assert site.changes() == []
    site.now += 11
    site.take(nodes.measurement("a", load_1m=2))
    assert site.changes() == [("a", "changed", {"load.1m": 2})]
    site.now += 31
    site.take(nodes.measurement("a", load_1m=2.05))
    assert site.changes() == []


def test_a_repeat_changes_nothing(site: Site) -> None:
    same = nodes.characterization("a")
    site.take(same, nodes.presence("a"), nodes.worker("a", "process"), nodes.desired("a"))
    site.changes()
    site.noted.clear()
    site.take(same, nodes.presence("a"), nodes.worker("a", "process"), nodes.desired("a"))
    assert site.noted == []
    assert site.changes() == []


def test_after_a_restart_only_what_changed_meanwhile_is_published(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.characterization("b"))
    due = site.log.due()
    fresh = Site()
    for revision, one in enumerate(due, 1):
        fresh.log.seen(one.change, revision)
    fresh.take(nodes.characterization("a"), nodes.characterization("b", rack="r1"))
    assert fresh.changes() == [("b", "changed", {"rack": "r1"})]


def test_the_change_log_stands_in_for_a_characterization_that_is_gone_and_gives_way_to_the_next(
    site: Site,
) -> None:
    site.take(nodes.characterization("a"), nodes.worker("a", "process"), nodes.measurement("a", load_1m=1))
    said = lasting(site.of())
    fresh = Site()
    fresh.ingest.recall("a", "alive")
    fresh.ingest.adopt("a", said, fresh.now - 5)
    assert fresh.of()["load.1m"] == 1
    assert fresh.of()["runtimes"] == ["process"]
    assert "worker" not in fresh.of(), "the worker speaks for itself"
    fresh.take(nodes.characterization("a", rack="r1"))
    assert fresh.of()["rack"] == "r1"
    assert fresh.of()["runtimes"] == ["container", "process", "unikernel"]
    fresh.ingest.adopt("a", said, fresh.now)
    assert fresh.of()["rack"] == "r1"


def test_a_recalled_state_is_that_of_a_node_that_was_read_back_before(site: Site) -> None:
    site.take(nodes.characterization("a"), nodes.measurement("a"))
    known = site.ingest.known("a")
    assert known is not None
    fresh = Site()
    fresh.now += 30
    fresh.ingest.restore("a", known)
    assert fresh.of()["state"] == "stale"
    fresh.ingest.recall("a", "lost")
    assert fresh.of()["state"] == "lost"
    assert fresh.ingest.heard == site.now


def test_means_are_of_those_that_are_alive_and_no_sample_speaks_for_them(site: Site) -> None:
    for name in ("a", "b"):
        site.take(nodes.characterization(name), nodes.measurement(name, load_1m=1, cpu_used_mean_5m=99))
    for _ in range(6):
        list(site.index.sampling(site.now))
        site.now += 10
        site.take(nodes.measurement("a", load_1m=3))
        site.ingest.tick()
    assert site.of("a")["load.1m.mean.5m"] == pytest.approx((1 + 5 * 3) / 6)
    assert site.of("b")["load.1m.mean.5m"] == 1
    assert "cpu.used.mean.5m" not in site.of("a")
    assert site.of("b")["state"] == "stale"
    site.now += 16 * 60
    list(site.index.sampling(site.now))
    assert "load.1m.mean.15m" not in site.of("b")
    assert lasting(site.of("a")).keys().isdisjoint(MEANS)
