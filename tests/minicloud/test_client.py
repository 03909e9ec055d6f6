"""``import minicloud``: the client as a user's program has it, over a real stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import minicloud
from schemas.decision import Decision, DeploymentStatus
from schemas.errors import InvalidDocument, InvalidQuery, NotFound, RequestTimeout, Unavailable
from tests.minicloud.conftest import NODE, Stack, environment, job, server

EXAMPLE = Path(__file__).parents[2] / "examples" / "client.py"


def test_the_example_does_what_it_says(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=environment(MINICLOUD_DATA=str(stack.data)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"greeter completed on {NODE}"
    assert lines[1] == "{'greeter-0': ['hello from the edge']}"
    assert lines[2].startswith("4 nodes match, such as ") or "nodes match" in lines[2]
    assert {line.split()[2] for line in lines[3:-1]} == {NODE, *(f"sim-{index:05d}" for index in range(3))}
    assert lines[-1].startswith("SYNC")


def test_its_body_is_ten_lines() -> None:
    text = EXAMPLE.read_text()
    body = text[text.index("async def main") :].splitlines()[1:]
    assert len([line for line in body[: body.index("")] if line.strip()]) <= 10


async def test_a_story_tells_each_decision_before_its_outcome(stack: Stack) -> None:
    told: list[DeploymentStatus | Decision] = []
    async with minicloud.connect(stack.data) as cloud:
        status = await cloud.deploy(json.loads(job("story", "true")), until="ends", on_event=told.append)
        assert status.state == "completed"
        kinds = [event.state if isinstance(event, DeploymentStatus) else "decided" for event in told]
        assert kinds.index("accepted") < kinds.index("decided") < kinds.index("scheduled")
        assert kinds[-1] == "completed"

        # The same again changes nothing; other content is the next generation.
        again = await cloud.deploy(json.loads(job("story", "true")), timeout=5)
        assert again.sequence == status.sequence
        other = await cloud.deploy(json.loads(job("story", "exit 4")), until="ends")
        assert (other.state, other.generation) == ("failed", 2)
        back = await cloud.deploy(json.loads(job("story", "true")), until="ends")
        assert (back.state, back.generation) == ("completed", 3)


async def test_errors_are_those_of_the_tree(stack: Stack, tmp_path: Path) -> None:
    async with minicloud.connect(stack.data) as cloud:
        with pytest.raises(InvalidDocument, match="Field required") as refused:
            await cloud.request({"name": "x"})
        assert {problem["field"] for problem in refused.value.problems} == {"runtimes", "images"}
        with pytest.raises(InvalidDocument, match="a deployment needs a name"):
            await cloud.request({**json.loads(job("x", "true")), "name": None})
        with pytest.raises(InvalidQuery, match="expected gpu"):
            await cloud.query("gup")
        with pytest.raises(NotFound):
            await cloud.logs("never-heard-of")
        with pytest.raises(RequestTimeout, match="has not settled within"):
            await cloud.deploy(json.loads(job("long", "exec sleep 1000")), until="ends", timeout=0.3)
        await cloud.cancel("long")
        async for event in cloud.events("long"):
            if isinstance(event, DeploymentStatus) and event.state == "stopped":
                break
    with pytest.raises(Unavailable, match="no minicloud runs from"):
        async with minicloud.connect(tmp_path):
            pass


async def test_a_watch_resumes_where_an_answer_ended(stack: Stack) -> None:
    async with minicloud.connect(stack.data) as cloud:
        answer = await cloud.query(f"name={NODE}")
        status = await cloud.deploy(json.loads(server("changes", resources={"memory": "16MiB"})))
        assert status.state == "running"
        async for change in cloud.watch(since=answer.revision):
            if change.change and change.change.node == NODE:
                # Its memory is reserved for the workload: that is news.
                assert change.revision > answer.revision
                break
        await cloud.cancel("changes")


def test_whoever_forgets_that_it_is_asynchronous_is_told(stack: Stack) -> None:
    with (
        pytest.raises(TypeError, match=r"write `async with minicloud\.connect"),
        minicloud.connect(stack.data),
    ):
        pass
    with pytest.raises(AttributeError, match="no 'query': the client is asynchronous"):
        minicloud.connect(stack.data).query("gpu")
