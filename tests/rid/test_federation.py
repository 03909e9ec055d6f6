"""Queries over several miniclouds on loopback: real brokers, linked; a rid each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.bus import Bus
from bus.credentials import Credentials
from bus.http import serve_http
from schemas.errors import InvalidQuery
from schemas.federation import Heartbeat
from schemas.predicate import matches
from schemas.query import Answer, Coverage, Query, parse_query
from services.rid.answer import Answers
from services.rid.columns import ColumnIndex
from services.rid.index import Index
from services.rid.rows import RowIndex
from services.rid.settings import RidSettings
from services.rid.topology import Part, QueryMapper
from services.rid.topology_journal import Journal
from services.rid.topology_merge import merged
from tests.bus.links import sites
from tests.rid import nodes
from tests.rid.fleets import SEEN, attributes, names_of_nodes, orders, wheres
from tests.rid.miniclouds import (
    BEAT,
    QUERIES,
    Minicloud,
    all_copied,
    all_heard,
    coverage,
    minicloud,
    miniclouds,
    one_index,
    without_age,
)
from tests.rid.nodes import until

NAMES = ("athens", "pisa", "graz")


@pytest.fixture
async def joined(tmp_path: Path) -> Any:
    """Three miniclouds with nodes of the same names; Athens is the hub."""
    with sites(tmp_path, *NAMES) as brokers:
        async with miniclouds(brokers) as running:
            for seed, one in enumerate(running.values()):
                await one.populate(12 + seed, seed)
            await all_copied(running)
            yield running


def everything(joined: dict[str, Minicloud]) -> list[dict[str, Any]]:
    return [node for one in joined.values() for node in one.documents()]


@pytest.mark.parametrize("mode", ["auto", "replicate", "scatter"])
async def test_every_minicloud_answers_as_one_index_over_all_would(
    joined: dict[str, Minicloud], mode: str
) -> None:
    documents = everything(joined)
    for query in QUERIES:
        expected, total = one_index(documents, query)
        for one in joined.values():
            answer = await one.ask(**query, scope={"mode": mode, "deadline": "10s"})
            assert without_age(answer["nodes"]) == expected, (one.name, query)
            assert answer["total"] == total
            assert answer["complete"]
            ways = {name: part["via"] for name, part in coverage(answer).items() if name != one.name}
            wanted = "link" if mode == "scatter" else "copy"
            assert ways == dict.fromkeys(set(ways), wanted)
            assert coverage(answer)[one.name]["via"] == "index" if one.name in coverage(answer) else True


async def test_only_those_that_are_named_are_asked_and_an_unknown_one_is_told(
    joined: dict[str, Minicloud],
) -> None:
    athens = joined["athens"]
    one = await athens.ask(scope={"miniclouds": ["pisa"], "deadline": "10s"}, fields=["id"])
    assert {node["minicloud"] for node in one["nodes"]} == {"pisa"}
    assert list(coverage(one)) == ["pisa"]
    assert one["complete"]
    own = await athens.ask(scope={"miniclouds": ["athens"]}, fields=["id"])
    assert (own["total"], list(coverage(own))) == (12, ["athens"])
    assert {node["minicloud"] for node in own["nodes"]} == {"athens"}
    local = await athens.ask(scope={"mode": "local"})
    assert (local["total"], list(coverage(local)), local["complete"]) == (12, ["athens"], True)
    unknown = await athens.ask(scope={"miniclouds": ["pisa", "pizza"], "deadline": "10s"})
    assert unknown["total"] == 13
    assert not unknown["complete"]
    told = coverage(unknown)["pizza"]
    assert (told["asked"], told["answered"]) == (False, False)
    assert "only athens, graz, pisa" in told["reason"]
    nobody = await athens.ask(where="minicloud=pizza")
    assert (nobody["total"], nobody["complete"]) == (0, False)


async def test_the_names_of_metrics_that_only_others_have_may_be_asked_for(
    joined: dict[str, Minicloud],
) -> None:
    pisa, graz = joined["pisa"], joined["graz"]
    with pytest.raises(InvalidQuery):
        await graz.ask(where="bees.per.hour>3")
    await pisa.site.say(nodes.measurement("n1", interval=3600, bees_per_hour=4))
    await until(lambda: "bees.per.hour" in graz.rid.federation.peers.names, "graz hears of bees")
    await all_copied(joined)
    for mode in ("scatter", "replicate", "auto"):
        answer = await graz.ask(where="bees.per.hour>3", scope={"mode": mode, "deadline": "10s"})
        assert [(node["name"], node["minicloud"]) for node in answer["nodes"]] == [("n1", "pisa")]
        assert answer["complete"]
    with pytest.raises(InvalidQuery, match="sort"):
        await graz.ask(where="bees.per.hour>3", sort=[{"wasps": "asc"}])


async def test_a_copy_follows_metrics_that_come_and_go_and_nodes_that_change(
    joined: dict[str, Minicloud],
) -> None:
    athens, pisa = joined["athens"], joined["pisa"]
    scope = {"miniclouds": ["pisa"], "mode": "replicate"}

    async def becomes(where: Any, expected: list[str]) -> None:
        def own() -> list[str]:
            return [node["name"] for node in pisa.rid.answers.query({"where": where}).nodes]

        await until(lambda: own() == expected, f"pisa itself: {where}")
        await until(lambda: athens.copied(pisa), "the copy follows")
        answer = await athens.ask(where=where, scope=scope)
        assert [node["name"] for node in answer["nodes"]] == expected, where

    await pisa.site.say(nodes.measurement("n3", interval=3600, load_5m=77, temperature=50))
    await becomes("load.5m=77,temperature=50", ["n3"])
    await pisa.site.say(nodes.measurement("n3", interval=3600, load_5m=78))
    await becomes("load.5m=78", ["n3"])
    await becomes("temperature=50", [])
    await pisa.site.say(
        nodes.characterization("n3", "pisa", rack="r9"), nodes.characterization("new", "pisa")
    )
    await becomes("rack=r9,load.5m=78", ["n3"])
    await becomes("name=new", ["new"])
    await pisa.site.say(nodes.presence("n3", online=False, reason="stopping"))
    await becomes("rack=r9", [])


async def test_auto_reads_the_copy_while_it_is_fresh_enough_and_else_asks(
    joined: dict[str, Minicloud],
) -> None:
    athens = joined["athens"]
    fresh = await athens.ask(scope={"deadline": "10s"})
    assert {coverage(fresh)[name]["via"] for name in ("pisa", "graz")} == {"copy"}
    assert all(0 <= coverage(fresh)[name]["behind"] < 5 for name in ("pisa", "graz"))
    strict = await athens.ask(scope={"maxAge": 1e-9, "deadline": "10s"})
    assert {coverage(strict)[name]["via"] for name in ("pisa", "graz")} == {"link"}
    assert strict["complete"]


async def test_the_reasons_of_all_miniclouds_say_whose_nodes_they_are(joined: dict[str, Minicloud]) -> None:
    answer = await joined["graz"].ask(where="cpu.cores>=5", explain=True, scope={"deadline": "10s"})
    assert answer["total"] == 0
    assert {group["minicloud"]: group["count"] for group in answer["rejected"]} == {
        "athens": 12,
        "pisa": 13,
        "graz": 14,
    }


async def test_a_rid_that_stopped_is_missing_within_the_deadline_and_then_not_waited_for(
    tmp_path: Path,
) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with minicloud("athens", brokers["athens"], copies=False) as athens:
            async with minicloud("pisa", brokers["pisa"]) as pisa:
                await all_heard({"athens": athens, "pisa": pisa})
                await pisa.populate(3, 1)
                assert (await athens.ask(scope={"deadline": "10s"}))["total"] == 3
            # Its broker is there, its rid is not.
            begun = time.monotonic()
            answer = await athens.ask(scope={"deadline": "5s"})
            assert time.monotonic() - begun < 5
            told = coverage(answer)["pisa"]
            assert (answer["total"], answer["complete"], told["answered"]) == (0, False, False)
            await until(lambda: athens.rid.federation.peers.silent("pisa"), "silence is noticed", 10)
            told = coverage(await athens.ask())["pisa"]
            assert (told["asked"], told["answered"]) == (False, False)
            assert "nothing was heard" in told["reason"]
            async with minicloud("pisa", brokers["pisa"]) as again:
                await all_heard({"athens": athens, "pisa": again})
                answer = await athens.ask(scope={"deadline": "10s"})
                assert (answer["total"], answer["complete"]) == (3, True)


async def test_a_peer_that_does_not_answer_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with minicloud("athens", brokers["athens"], copies=False) as athens:
            await athens.populate(2, 1)
            link = Credentials(brokers["pisa"].data).ensure("minicloud", "pisa")
            settings = RidSettings.load(
                {}, broker=brokers["pisa"].url, minicloud="pisa", link_password=link.password
            )
            async with await Bus.connect(settings.link, "pisa", "deaf", discoverable=False) as deaf:

                async def silence(_: Any) -> None:
                    pass

                await deaf.wire.subscribe(deaf.subjects.service("rid", "query"), silence)
                beat = {
                    "minicloud": "pisa",
                    "epoch": "e",
                    "sequence": 0,
                    "nodes": 1,
                    "revision": 0,
                    "every": 60,
                }
                await until(lambda: brokers["pisa"].monitor("leafz")["leafnodes"], "linked")
                for _ in range(200):
                    await deaf.emit(deaf.subjects.heartbeat(), Heartbeat(**beat))
                    await deaf.flush()
                    if "pisa" in athens.rid.federation.peers:
                        break
                    await asyncio.sleep(0.02)
                begun = time.monotonic()
                answer = await athens.ask(scope={"deadline": "300ms"})
                took = time.monotonic() - begun
                assert 0.3 <= took < 2
                assert coverage(answer)["pisa"]["reason"] == "no answer within 0.3 s"
                assert [node["minicloud"] for node in answer["nodes"]] == ["athens", "athens"]


async def test_the_hub_restarts_and_all_is_complete_again_with_nothing_doubled(tmp_path: Path) -> None:
    with sites(tmp_path, *NAMES) as brokers:
        async with miniclouds(brokers) as joined:
            for seed, one in enumerate(joined.values()):
                await one.populate(5, seed)
            await all_copied(joined)
            brokers["athens"].kill()
            pisa = joined["pisa"]
            answer = await pisa.ask(scope={"mode": "scatter", "deadline": "1s"})
            assert {name: part["answered"] for name, part in coverage(answer).items()} == {
                "pisa": True,
                "athens": False,
                "graz": False,
            }
            assert (answer["total"], answer["complete"]) == (5, False)
            await pisa.site.say(nodes.characterization("meanwhile", "pisa"))
            await until(lambda: "meanwhile" in pisa.rid.index, "pisa itself has it")
            await asyncio.to_thread(brokers["athens"].start)
            await all_heard(joined)
            await all_copied(joined)
            expected, total = one_index(everything(joined), {})
            assert total == 16
            for one in joined.values():
                for mode in ("scatter", "replicate"):
                    answer = await one.ask(scope={"mode": mode, "deadline": "10s"})
                    assert without_age(answer["nodes"]) == expected
                    assert answer["complete"]


async def test_a_rid_that_starts_again_is_copied_anew_and_the_old_copy_answers_meanwhile(
    tmp_path: Path,
) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with minicloud("athens", brokers["athens"]) as athens:
            async with minicloud("pisa", brokers["pisa"]) as pisa:
                await pisa.populate(7, 1)
                await all_heard({"athens": athens, "pisa": pisa})
                await until(lambda: athens.copied(pisa), "copied")
                before = athens.rid.federation.replicate.copies["pisa"]
            scope = {"miniclouds": ["pisa"], "mode": "replicate"}
            assert (await athens.ask(scope=scope))["total"] == 7
            async with minicloud("pisa", brokers["pisa"]) as again:
                await again.site.say(nodes.characterization("late", "pisa"))
                await until(lambda: "late" in again.rid.index, "pisa itself has it")
                await until(lambda: athens.copied(again), "copied anew")
                assert athens.rid.federation.replicate.copies["pisa"] is not before
                assert (await athens.ask(scope=scope))["total"] == 8


async def test_of_two_rids_of_a_minicloud_one_speaks_and_either_answers(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with (
            minicloud("athens", brokers["athens"]) as athens,
            minicloud("pisa", brokers["pisa"]) as pisa,
        ):
            link = Credentials(brokers["pisa"].data).ensure("minicloud", "pisa")
            more = {"link_password": link.password, "heartbeat_every": BEAT, "stale_after": 3600}
            async with pisa.site.rid(instance="second", **more) as (second, _):
                await pisa.populate(4, 1)
                await until(lambda: len(second.index) == 4, "both index")
                await until(lambda: athens.copied(pisa), "copied")
                for _ in range(10):
                    answer = await athens.ask(scope={"mode": "scatter", "deadline": "10s"})
                    assert (answer["total"], answer["complete"]) == (4, True)
                epoch = athens.rid.federation.replicate.copies["pisa"].epoch
                speaker = pisa.rid if pisa.rid.publishing else second
                assert epoch == speaker.federation._serving.journal.epoch


async def test_nodes_too_many_for_one_message_are_copied_in_parts(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with (
            minicloud("athens", brokers["athens"]) as athens,
            minicloud("pisa", brokers["pisa"]) as pisa,
        ):
            for at in range(80):
                labels = {"long": "x" * 30_000}
                await pisa.site.say(nodes.characterization(f"n{at}", "pisa", labels=labels))
            await until(lambda: athens.copied(pisa), "copied", 30)
            assert athens.rid.federation.replicate.pulled >= 3
            scope = {"mode": "replicate"}
            assert (await athens.ask(fields=["cpu.arch"], scope=scope))["total"] == 80
            refused = await athens.ask(where="minicloud=pisa", scope={"mode": "scatter", "deadline": "10s"})
            assert "lower limit" in coverage(refused)["pisa"]["reason"]


async def test_over_http_too(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa") as brokers:
        async with (
            minicloud("athens", brokers["athens"], http_port=0) as athens,
            minicloud("pisa", brokers["pisa"]) as pisa,
        ):
            await pisa.populate(3, 1)
            await all_heard({"athens": athens, "pisa": pisa})
            await until(lambda: athens.copied(pisa), "copied")
            server = await serve_http(athens.rid._frame)
            try:
                async with httpx.AsyncClient(base_url=server.url) as http:
                    answer = (await http.post("/v1/query", json={"scope": {"deadline": "10s"}})).json()
                    assert [node["minicloud"] for node in answer["nodes"]] == ["pisa"] * 3
                    assert answer["complete"]
                    listed = (await http.get("/v1/nodes", params={"where": "minicloud=pisa"})).json()
                    assert len(listed["nodes"]) == 3
            finally:
                await server.stop()


# -- without a broker: the parts by themselves, on random fleets -------------------------------------


def one_by_one(seed: int) -> Index:
    return RowIndex() if seed % 2 else ColumnIndex()


@given(
    st.lists(st.dictionaries(names_of_nodes, attributes, max_size=8), min_size=1, max_size=3),
    st.one_of(st.just({}), wheres),
    orders,
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_merged_answers_equal_those_of_one_index(
    fleets: list[dict[str, Any]], where: dict[str, Any], order: list[tuple[str, bool]], limit: int | None
) -> None:
    document: dict[str, Any] = {
        "where": where,
        "sort": [{name: "desc" if descending else "asc"} for name, descending in order if name != "never"],
        "limit": limit,
        "fields": ["gpu"],
    }
    query = parse_query(document, SEEN)
    mapped = QueryMapper().map(query, document)
    parts, documents = [], []
    for at, fleet in enumerate(fleets):
        index, whose = one_by_one(at), f"m{at}"
        for name, values in fleet.items():
            index.put(name, {**values, "state": "alive"})
            documents.append({**(index.get(name) or {}), "minicloud": whose})
        answer = Answers(index, whose, lambda: None, lambda: 0).query(mapped.document, SEEN)
        parts.append(Part(Coverage(minicloud=whose), answer))
    said = merged(query, parts[::-1], revision=0, took=0)
    expected, total = one_index_seen(documents, query)
    assert said.nodes == expected
    assert said.total == total


def one_index_seen(documents: list[dict[str, Any]], query: Query) -> tuple[list[dict[str, Any]], int]:
    """One engine over all nodes, under names that put ties in the order of (name, minicloud)."""
    index = RowIndex()
    for node in documents:
        if matches(query.predicate, node):
            index.put(f"{node['name']:\0<8}{node['minicloud']}", node)
    everything = index.select(parse_query({}).predicate, order=query.order, limit=query.limit)
    found = [{**node, "name": node["name"][:8].rstrip("\0")} for node in everything.nodes]
    wanted = {"name", "minicloud", *(query.fields or ())}
    return [{key: value for key, value in node.items() if key in wanted} for node in found], everything.total


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 5),
)
def test_a_reader_that_asks_now_and_then_has_all_in_the_end(
    steps: list[tuple[str, bool, bool, bool]], most: int
) -> None:
    journal = Journal()
    mine: dict[str, dict[str, int]] = {}
    copy: dict[str, dict[str, int]] = {}
    at = 0

    def read() -> int:
        found, reached = journal.since(at, most)
        assert reached >= at
        for name, whole in found.items():
            if whole:
                copy[name] = dict(mine[name])
            else:
                copy[name]["load"] = mine[name]["load"]
        return reached

    for number, (name, whole, close, ask) in enumerate(steps):
        all_of_it = whole or name not in mine
        mine.setdefault(name, {})["load"] = number
        if all_of_it:
            mine[name]["rack"] = number
        journal.note(name, all_of_it)
        if close:
            journal.close()
        if ask:
            at = read()
    journal.close()
    while at < journal.sequence:
        at = read()
    assert copy == mine
    assert journal.since(at) == ({}, at)


def test_an_answer_with_foolish_values_is_merged_all_the_same() -> None:
    query = parse_query({"sort": [{"load.5m": "asc"}]})
    parts = [
        Part(
            Coverage(minicloud=name),
            Answer(nodes=[{"name": "a", "load.5m": load}], total=1, revision=0, coverage=[], took=0),
        )
        for name, load in (("x", "heavy"), ("y", 1.5), ("z", None))
    ]
    said = merged(query, parts, revision=0, took=0)
    assert [node["minicloud"] for node in said.nodes] == ["y", "x", "z"]
