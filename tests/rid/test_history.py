"""Time travel: what was asked about a past moment is answered from the change log of a real broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.errors import InvalidQuery, TooOld
from schemas.moment import parse_moment
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site, site

__all__ = ["site"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01T11:00:00Z", NOW - timedelta(hours=1)),
        ("2026-03-01T13:00:00+02:00", NOW - timedelta(hours=1)),
        ("2026-03-01T11:00:00", NOW - timedelta(hours=1)),
        ("-10m", NOW - timedelta(minutes=10)),
        ("-1.5h", NOW - timedelta(minutes=90)),
        (1042, 1042),
        ("1042", 1042),
        (0, 0),
    ],
)
def test_moments_as_people_write_them(text: Any, moment: Any) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "-", "-5x", "10m", "2026-03-01T12:00:01Z", -1, True, 1.5, None, [], "9" * 30, "-9e99d"],
)
def test_what_is_no_past_moment_is_refused(text: Any) -> None:
    with pytest.raises(InvalidQuery) as caught:
        parse_moment(text, NOW)
    assert caught.value.field == "at"
    assert caught.value.expected


async def _time(site: Site, revision: int) -> str:
    stored = await site.bus.jetstream.api(f"STREAM.MSG.GET.{site.mc}_resources", {"seq": revision})
    return str(stored["message"]["time"])


@pytest.mark.parametrize("engine", ["rows", "columns"])
async def test_the_index_as_it_was(site: Site, engine: str) -> None:
    async with site.rid(engine=engine) as (rid, _):
        revisions = []
        for data in (
            nodes.characterization("a", site.mc, rack="r1"),
            nodes.characterization("b", site.mc, rack="r1"),
            nodes.characterization("a", site.mc, rack="r2"),
            nodes.presence("b", online=False, reason="connection lost"),
        ):
            await site.say(data)
            before = revisions[-1] if revisions else 0
            await until(lambda before=before: rid.changes.revision > before, "logged")
            revisions.append(rid.changes.revision)
        assert revisions == [1, 2, 3, 4]

        async def racks(at: Any, where: str = "") -> dict[str, str]:
            answer = await site.ask(where, at=at, fields=["rack"])
            assert answer["revision"] <= 4
            return {node["name"]: node["rack"] for node in answer["nodes"]}

        assert await racks(1) == {"a": "r1"}
        assert await racks("2") == {"a": "r1", "b": "r1"}
        assert await racks(3) == {"a": "r2", "b": "r1"}
        assert await racks(4) == {"a": "r2"}, "lost nodes are left out, then as now"
        assert await racks(4, "state=lost") == {"b": "r1"}
        for revision, expected in ((1, {"a": "r1"}), (2, {"a": "r1", "b": "r1"}), (4, {"a": "r2"})):
            assert await racks(await _time(site, revision)) == expected
        answer = await site.ask("rack=r1", at=2, limit=1, sort=[{"name": "desc"}], explain=True)
        assert (answer["total"], answer["nodes"][0]["name"], answer["revision"]) == (2, "b", 2)
        assert answer["as_of"] is not None
        assert answer["coverage"][0]["nodes"] == 2
        assert (await site.ask("rack=r2"))["as_of"] is None
        assert len(rid.history._kept) == 2, "only the last two moments are kept ready"


async def test_what_is_no_longer_kept_is_told_with_what_can_be_had(site: Site) -> None:
    async with site.rid() as (rid, _):
        with pytest.raises(TooOld):
            await site.ask("", at="-1s")
        for at in range(4):
            await site.say(nodes.characterization(f"n{at}", site.mc))
            await until(lambda at=at: rid.changes.revision > at, "logged")
        with pytest.raises(TooOld) as caught:
            await site.ask("", at="-30d")
        oldest = str(caught.value.expected).removesuffix(" or later")
        assert (await site.ask("", at=oldest))["total"] == 1
        await site.bus.jetstream.api(f"STREAM.PURGE.{site.mc}_resources", {"seq": 3})
        with pytest.raises(TooOld, match="2") as caught:
            await site.ask("", at=2)
        assert caught.value.expected == "3 or later"
        for wrong in (99, "2999-01-01T00:00:00Z", "soon", [1]):
            with pytest.raises(InvalidQuery) as refused:
                await site.ask("", at=wrong)
            assert str(refused.value.field).startswith("at")
        with pytest.raises(InvalidQuery) as refused:
            await site.ask("rak=r1", at=4)
        assert refused.value.expected == "rack"


async def test_a_node_whose_events_were_dropped_is_still_there_or_counted_as_missing(site: Site) -> None:
    async with site.rid() as (rid, _):

        async def say(node: str, rack: str) -> None:
            before = rid.changes.revision
            await site.say(nodes.characterization(node, site.mc, rack=rack))
            await until(lambda: rid.changes.revision > before, "logged")

        async def racks(at: int) -> dict[str, str]:
            answer = await site.ask("", at=at, fields=["rack"])
            return {node["name"]: node["rack"] for node in answer["nodes"]}

        async def coverage(at: int) -> tuple[bool, int]:
            (part,) = (await site.ask("", at=at))["coverage"]
            return part["horizon"] is not None, part["missing"]

        for node in ("a", "b", "c"):
            await say(node, "r1")
        assert await coverage(3) == (False, 0), "the log is whole"
        await site.bus.jetstream.api(f"STREAM.PURGE.{site.mc}_resources", {"seq": 3})
        rid.history._kept.clear()
        assert await racks(3) == {"a": "r1", "b": "r1", "c": "r1"}
        assert await coverage(3) == (True, 0), "nothing was said of a and b since, so that is how they were"
        await say("a", "r2")
        await say("d", "r2")
        rid.history._kept.clear()
        assert await racks(3) == {"b": "r1", "c": "r1"}
        assert await coverage(3) == (True, 1), "a is missing; d joined later"
        assert await racks(4) == {"a": "r2", "b": "r1", "c": "r1"}
        assert await coverage(4) == (True, 0)
