"""What each command prints and returns, against a real stack."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.minicloud.conftest import NODE, Running, Stack, environment, job, server

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_nodes_are_listed_as_table_json_and_yaml(stack: Stack) -> None:
    table = stack("nodes")
    assert table.rows[0][:3] == ["NAME", "STATE", "CPU.ARCH"]
    assert [row[:2] for row in table.rows[1:]] == [
        [NODE, "alive"],
        *([f"sim-{index:05d}", "alive"] for index in range(3)),
    ]
    assert not [line for line in table.out.splitlines() if line != line.rstrip()]
    as_json, as_yaml = stack.ask("nodes", "-o", "json").json, stack.ask("nodes", "-o", "yaml").yaml
    assert isinstance(as_json, list)
    assert [node["name"] for node in as_json] == [node["name"] for node in as_yaml]
    assert as_json[0]["cpu.cores"] >= 1
    assert len(stack.ask("nodes", "--wide").rows[0]) > len(table.rows[0])


def test_a_query_tells_by_its_exit_code_whether_any_node_matches(stack: Stack) -> None:
    found = stack("query", f"name={NODE}", "-o", "json")
    assert (found.code, [node["name"] for node in found.json["nodes"]]) == (0, [NODE])
    none = stack.ask("query", "cpu.cores>=100000")
    assert (none.code, none.out) == (1, "no node matches\n")


def test_a_query_is_kept_until_it_is_forgotten(stack: Stack) -> None:
    kept = stack.ask("query", f"name={NODE}", "--keep", "mine")
    assert (kept.code, "kept; devices read it from mc/" in kept.err) == (0, True)
    mixed = stack.ask("query", "gpu", "--forget", "mine")
    assert (mixed.code, "--forget NAME stands alone" in mixed.err) == (2, True)
    forgotten = stack.ask("query", "--forget", "mine")
    assert (forgotten.code, forgotten.out, "no answer of mine" in forgotten.err) == (0, "", True)
    again = stack.ask("query", "--forget", "mine")
    assert (again.code, "no query is kept as mine" in again.err) == (4, True)


def test_a_deployment_from_request_to_cancel(stack: Stack) -> None:
    told = stack("deploy", "-", stdin=server("web"))
    assert told.code == 0
    states = [line.split()[1] for line in told.out.splitlines() if line[2] == ":"]
    assert states[:3] == ["accepted", "decided", "scheduled"]
    assert states[-1] == "running"
    assert f"replica 0 on {NODE} as process" in told.out
    assert "worker is not known" in told.out

    again = stack("deploy", "-", stdin=server("web"))
    assert (again.code, again.out.splitlines()[-1].strip()) == (
        0,
        "nothing changes: the same request was published before",
    )

    (row,) = [row for row in stack("deployments").rows if row[0] == "web"]
    assert row[1] == "running"
    assert row[2].endswith("s")
    assert NODE in row
    (listed,) = [each for each in stack.ask("deployments", "-o", "json").json if each["deployment"] == "web"]
    assert listed["replicas"][0]["node"] == NODE
    assert stack.ask("deployments", "-o", "yaml").yaml

    why = stack("why", "web")
    assert "enforced by" in why.out
    assert stack.ask("why", "web", "-o", "json").json["decision"]["outcome"] == "scheduled"
    assert stack.ask("why", "web", "-o", "yaml").yaml["status"]["to"] == "running"

    completed = stack(_MINICLOUD_COMPLETE="bash_complete", COMP_WORDS="minicloud why we", COMP_CWORD="2")
    assert (completed.out, completed.err) == ("plain,web\n", "")

    assert stack("logs", "web").out == "it is up\n"
    assert stack.ask("logs", "web", "-o", "json").json == [{"workload": "web-0", "lines": ["it is up"]}]

    ended = stack("cancel", "web", "-o", "json")
    assert (ended.code, ended.json) == (0, {"deployment": "web", "state": "stopped"})
    assert stack.ask("cancel", "web").out == "web was stopped already\n"

    back = stack.ask("deploy", "-", "-o", "json", stdin=server("web"))
    assert (back.code, back.json["to"], back.json["generation"]) == (0, "running", 2)
    assert stack.ask("cancel", "web", "-o", "yaml").yaml == {"deployment": "web", "state": "stopped"}


def test_a_job_is_awaited_to_its_end_and_its_exit_code_decides(stack: Stack) -> None:
    done = stack("deploy", str(EXAMPLES / "job.yaml"), "--until", "ends", "-o", "yaml")
    assert (done.code, done.yaml["to"]) == (0, "completed")
    assert stack.ask("logs", "job").out == "the sum of 1 to 1000 is 500500\n"
    failed = stack("deploy", "-", "--until", "ends", stdin=job("fails", "exit 3"))
    assert (failed.code, "it exited with 3" in failed.out) == (1, True)


def test_not_waiting_returns_at_once(stack: Stack) -> None:
    said = stack("deploy", "-", "--no-wait", "-o", "json", stdin=job("later", "true"))
    assert (said.code, said.json) == (0, {"deployment": "later", "state": "requested"})


def test_what_fits_nowhere_is_told_and_is_a_failure(stack: Stack) -> None:
    request = job("nowhere", "true", where={"cpu.cores": {"$gte": 100000}})
    said = stack("deploy", "-", stdin=request)
    assert said.code == 1
    assert "unschedulable" in said.out
    assert stack.ask("cancel", "nowhere").code == 0


def test_logs_are_followed_to_the_end_without_losing_or_doubling_a_line(stack: Stack) -> None:
    # Equal lines, so that only a position can tell which are new.
    script = "for n in 1 2 3 4 5 6; do echo tick; sleep 0.3; done; printf 'the end'"
    assert stack.ask("deploy", "-", stdin=job("ticks", script)).code == 0
    said = stack("logs", "ticks", "--follow", "-o", "json")
    assert said.code == 0
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["line"] for line in lines] == ["tick"] * 6 + ["the end"]
    assert {line["workload"] for line in lines} == {"ticks-0"}


def test_nodes_are_watched_line_by_line_where_nobody_can_draw(stack: Stack, tmp_path: Path) -> None:
    with Running(tmp_path, "nodes", "--watch", "-o", "json", MINICLOUD_DATA=str(stack.data)) as watching:
        watching.until(lambda: len(watching.out.splitlines()) >= 4)
        assert stack.ask("deploy", "-", stdin=server("seen")).code == 0
        watching.until(lambda: "seen/0 running" in watching.out)
        assert stack.ask("cancel", "seen").code == 0
        nodes = [json.loads(line) for line in watching.out.splitlines()]
        assert {"name", "state", "workloads", "load.1m", "memory.total"} <= set(nodes[-1])
        assert watching.end(signal.SIGINT) == 130
        assert watching.err == ""


def test_ctrl_c_and_sigterm_are_quiet(stack: Stack, tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with Running(tmp_path / str(code), "watch", MINICLOUD_DATA=str(stack.data)) as watching:
            watching.until(lambda w=watching: "in step" in w.out)
            assert watching.end(number) == code
            assert watching.err == ""


@pytest.mark.parametrize(
    "command", [["nodes", "-o", "json"], ["nodes", "--watch", "-o", "json"]], ids=" ".join
)
def test_a_reader_that_goes_away_is_no_error(stack: Stack, command: list[str]) -> None:
    talker = subprocess.Popen(
        [sys.executable, "-m", "minicloud", *command],
        env=environment(MINICLOUD_DATA=str(stack.data)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert talker.stdout is not None
    assert talker.stderr is not None
    try:
        assert talker.stdout.readline()
        talker.stdout.close()
        if "--watch" in command:  # there is something new to say
            assert stack.ask("deploy", "-", stdin=server("unheard")).code == 0
            assert stack.ask("cancel", "unheard").code == 0
        assert talker.wait(40) == 0
        assert talker.stderr.read() == b""
    finally:
        talker.kill()
        talker.wait()
        talker.stderr.close()
