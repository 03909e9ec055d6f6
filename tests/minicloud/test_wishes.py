"""``scale``, ``migrate``, ``pause``, ``resume``, ``whatif`` and ``events``, as a user's shell runs them."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.minicloud.conftest import NODE, Running, Stack, job, server


def states(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if line[2:3] == ":"]


def test_a_deployment_is_scaled_paused_and_goes_on_as_the_same(stack: Stack) -> None:
    assert stack("deploy", "-", stdin=server("scaled")).code == 0
    scaled = stack("scale", "scaled", "2")
    assert (scaled.code, states(scaled.out)[-1]) == (0, "running"), scaled.err
    assert "2 of 2 replicas running" in scaled.out
    again = stack.ask("scale", "scaled", "2")
    assert (again.code, again.out) == (0, "scaled is wished so already; nothing changes\n")

    paused = stack.ask("pause", "scaled", "-o", "json")
    assert (paused.code, paused.json["to"]) == (0, "paused")
    assert {replica["state"] for replica in paused.json["replicas"]} == {"paused"}
    stack.until(lambda: ["scaled", "paused"] in [row[:2] for row in stack.ask("deployments").rows])
    unwaited = stack.ask("pause", "scaled", "--no-wait", "-o", "yaml").yaml
    assert (unwaited["deployment"], unwaited["changed"]) == ("scaled", False)

    resumed = stack("resume", "scaled")
    assert (resumed.code, states(resumed.out)[-1]) == (0, "running")
    known = stack.ask("why", "scaled", "-o", "json").json
    assert [replica["restarts"] for replica in known["status"]["replicas"]] == [0, 0]
    assert stack.ask("logs", "scaled", "-o", "json").json == [
        {"workload": f"scaled-{replica}", "lines": ["it is up"]} for replica in (0, 1)
    ], "nothing was started again"

    none = stack.ask("scale", "scaled", "0", "-o", "json")
    assert (none.code, none.json["to"], none.json["reason"]) == (0, "stopped", "ScaledToZero")
    assert stack.ask("cancel", "scaled").code == 0
    late = stack.ask("scale", "scaled", "1")
    assert (late.code, late.out) == (1, "")
    assert "was cancelled" in late.err


def test_a_migration_that_finds_no_place_says_why_and_fails(stack: Stack) -> None:
    assert stack("deploy", "-", stdin=server("stays")).code == 0
    refused = stack("migrate", "stays", "--to", "sim-00000")
    assert refused.code == 1
    assert f"it stays on {NODE}: sim-00000: worker is not known" in refused.out
    assert states(refused.out)[-1] == "running"
    assert (
        stack.ask("migrate", "stays", "--from", "sim-00001", "-o", "json").json["replicas"][0]["node"] == NODE
    )
    there = stack.ask("migrate", "stays", "--replica", "0", "--to", NODE)
    assert (there.code, there.out) == (0, "stays is wished so already; nothing changes\n")
    unknown = stack.ask("migrate", "stays", "--to", f"{NODE}x")
    assert unknown.code == 4
    assert NODE in unknown.err
    missing = stack.ask("migrate", "stays", "--replica", "7")
    assert (missing.code, "expected 0 to 0" in missing.err) == (4, True)
    stack.ask("cancel", "stays", "--no-wait")


def test_a_mistyped_id_is_told_the_nearest(stack: Stack) -> None:
    assert stack("deploy", "-", stdin=server("nearest")).code == 0
    for line in (["scale", "nearet", "2"], ["pause", "nearet"], ["resume", "nearet"], ["migrate", "nearet"],
                 ["events", "nearet"]):  # fmt: skip
        told = stack.ask(*line)
        assert (told.code, told.out) == (4, "")
        assert "nearest" in told.err
    assert stack.ask("scale", "nearest", "-1").code == 2
    assert stack.ask("scale", "nearest", "many").code == 2
    completed = stack(_MINICLOUD_COMPLETE="bash_complete", COMP_WORDS="minicloud pause neare", COMP_CWORD="2")
    assert completed.out == "plain,nearest\n"
    words = f"minicloud migrate nearest --to {NODE[:2]}"
    completed = stack(_MINICLOUD_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="4")
    assert completed.out == f"plain,{NODE}\n"
    stack.ask("cancel", "nearest", "--no-wait")


def test_whatif_tells_the_decision_and_does_nothing(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(server("maybe", resources={"memory": "16MiB"}))
    told = stack("whatif", str(file))
    assert told.code == 0
    assert f"replica 0 on {NODE} as process" in told.out
    assert f"candidate {NODE} (process)" in told.out
    assert "worker is not known" in told.out
    assert "resources.memory: enforced by" in told.out
    assert stack.ask("why", "maybe").code == 4, "nothing was requested"
    document = stack.ask("whatif", str(file), "-o", "json").json
    assert document["outcome"] == "scheduled"
    assert {"candidates", "rejected", "query", "coverage"} <= set(document)

    large = stack.ask("whatif", "-", stdin=server("large", resources={"memory": "1000GiB"}))
    assert large.code == 1
    assert "unschedulable" in large.out
    assert "unreserved < 1000GiB" in large.out
    refused = stack.ask("whatif", "-", stdin=server("x", data=[{"bucket": "photos"}], where={"lod.5m": 1}))
    assert (refused.code, refused.out) == (1, "")
    assert "data: no storage service" in refused.err
    assert "load.5m" in refused.err


def test_the_life_of_a_deployment_is_told_from_its_beginning(stack: Stack, tmp_path: Path) -> None:
    assert stack("deploy", "-", "--until", "ends", stdin=job("life", "true")).code == 0
    told = stack("events", "life")
    assert told.code == 0
    assert states(told.out)[:3] == ["accepted", "decided", "scheduled"]
    assert states(told.out)[-1] == "completed"
    documents = [json.loads(line) for line in stack.ask("events", "life", "-o", "json").out.splitlines()]
    assert [one["kind"] for one in documents].count("decision") == 1
    assert [one["revision"] for one in documents] == sorted({one["revision"] for one in documents})
    later = stack.ask("events", "life", "--since", str(documents[-2]["revision"]), "-o", "yaml").yaml
    assert later["data"]["to"] == "completed"
    with Running(
        tmp_path / "events", "events", "life", "-f", "-o", "json", MINICLOUD_DATA=str(stack.data)
    ) as run:
        run.until(lambda: '"to": "completed"' in run.out)
        stack.ask("cancel", "life")
        run.until(lambda: '"to": "stopped"' in run.out)


def test_up_says_where_vim_answers_over_http(stack: Stack) -> None:
    with httpx.Client(base_url=stack.site["http"]["vim"], timeout=20) as http:
        made = http.post("/v1/deployments", json=json.loads(server("over-http")))
        assert made.status_code == 202
        with http.stream("GET", "/v1/deployments/over-http/events", params={"format": "ndjson"}) as stream:
            for line in stream.iter_lines():
                if json.loads(line)["data"].get("to") == "running":
                    break
        lines = http.get("/v1/deployments/over-http/logs", params={"tail": 5}).json()
        assert lines == [{"workload": "over-http-0", "lines": ["it is up"]}]
        with http.stream("GET", "/v1/deployments/over-http/logs", params={"follow": "true"}) as stream:
            assert json.loads(next(stream.iter_lines())) == {"workload": "over-http-0", "line": "it is up"}
        missing = http.get("/v1/deployments/over-http/logs", params={"replica": 3, "follow": "true"})
        assert (missing.status_code, missing.json()["expected"]) == (404, "one of 0")
        sse = {"Accept": "text/event-stream"}
        with http.stream("GET", "/v1/deployments/over-http/logs?follow=true", headers=sse) as stream:
            assert next(stream.iter_lines()) == "event: line"
        assert http.delete("/v1/deployments/over-http").status_code == 202
