"""Every example of docs/rid.md runs, against a real rid on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.http import serve_http
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site, site

__all__ = ["site"]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "rid.md").read_text(), re.MULTILINE | re.DOTALL
)
QUERIES = [text for kind, text in BLOCKS if kind == "json"]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.strip()]
SCRIPTS = [text for kind, text in BLOCKS if kind == "python"]


class Documented:
    """The minicloud that the examples ask."""

    def __init__(self, site: Site, url: str) -> None:
        self.site = site
        self._url = url
        access = {name.upper(): text for name, text in {**site.access, "minicloud": site.mc}.items()}
        self._environment = {
            **os.environ,
            **{f"MINICLOUD_{name}": text for name, text in access.items()},
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    async def run(self, *command: str) -> str:
        """What a command prints; one that watches is ended once it is in step."""
        command = tuple(part.replace("http://127.0.0.1:8300", self._url) for part in command)
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        told = ""
        try:
            async with asyncio.timeout(30):
                while line := (await process.stdout.readline()).decode():
                    told += line
                    if "watch" in command[-1] and ("SYNC" in line or "in step" in line):
                        return told
                problem = (await process.stderr.read()).decode()
                assert await process.wait() == 0, problem
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.wait()
        return told


@pytest.fixture
async def documented(site: Site) -> AsyncIterator[Documented]:
    async with site.rid(http_port=0, mqtt=site.broker.mqtt_url) as (rid, frame):
        server = await serve_http(frame)
        await site.say(
            nodes.characterization("pi-1", site.mc),
            nodes.presence("pi-1"),
            nodes.measurement("pi-1", load_1m=0.5),
        )
        await until(lambda: rid.answers.query({"where": "load.1m<1"}).total == 1, "indexed")
        await until(lambda: rid.changes.revision >= 1, "logged")
        yield Documented(site, server.url)
        await server.stop()


def test_there_are_examples_of_each_kind() -> None:
    assert len(QUERIES) >= 3
    assert len(COMMANDS) >= 10
    assert SCRIPTS


async def test_every_query_document_finds_the_node(documented: Documented) -> None:
    for text in QUERIES:
        answer = await documented.site.bus.request("rid", "query", json.loads(text))
        assert [node["name"] for node in answer["nodes"]] == ["pi-1"], text


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_runs(documented: Documented, command: str) -> None:
    if command.startswith("curl") and not shutil.which("curl"):
        pytest.skip("no curl here")
    # The example speaks of a fleet that is older than this one.
    command = command.replace("--at=-10m", "--at=-0s")
    assert await documented.run("bash", "-c", command)


async def test_every_script_runs(documented: Documented, tmp_path: Path) -> None:
    for at, text in enumerate(SCRIPTS):
        script = tmp_path / f"watch-{at}.py"
        script.write_text(text)
        assert "SYNC" in await documented.run(sys.executable, str(script))
