"""The worker's service on a real broker: levels in, levels out, logs, kills and a broker that goes away."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from bus.permissions import inbox_prefix
from bus.port import Endpoint
from schemas.errors import MinicloudError, NotFound
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus
from tests.worker.conftest import carrying, leftovers

NODE = "pi-3"


@dataclass
class Site:
    """A broker, vim's side of the bus, and a worker in a process of its own."""

    bus: Bus
    data: Path
    environment: dict[str, str]
    seen: list[ObservedWorkload | WorkerStatus] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    position: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "services.vim.worker",
            "--node",
            NODE,
            "--data",
            str(self.data),
            *options,
        ]
        self.process = subprocess.Popen(command, env=self.environment)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    async def follow(self) -> None:
        kinds = {self.bus.subjects.observed(NODE): ObservedWorkload}
        status = {self.bus.subjects.worker(NODE): WorkerStatus}

        async def read(wanted: Any) -> None:
            async with self.bus.watch(wanted) as items:
                async for item in items:
                    if item.event is not None:
                        self.seen.append(item.event.data)
                        self.news.set()

        await asyncio.gather(read(kinds), read(status))

    async def until(self, wanted: Callable[[Any], bool], seconds: float = 15) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                while self.position < len(self.seen):
                    self.position += 1
                    if wanted(self.seen[self.position - 1]):
                        return self.seen[self.position - 1]
                self.news.clear()
                await self.news.wait()

    async def until_state(self, state: str, generation: int = 1) -> ObservedWorkload:
        found: ObservedWorkload = await self.until(
            lambda level: (
                isinstance(level, ObservedWorkload) and (level.state, level.generation) == (state, generation)
            )
        )
        return found

    async def desire(self, *command: str, **fields: Any) -> None:
        level = DesiredWorkload(
            **{
                "workload": "job-0", "deployment": "job", "generation": 1, "replica": 0, "node": NODE,
                "state": "running", "runtime": "process", "image": {"command": list(command)},
                "env": {"MARK": str(self.data)}, **fields,
            }
        )  # fmt: skip
        await self.bus.publish(self.bus.subjects.desired(NODE, level.workload), level)

    def running(self) -> list[int]:
        return carrying(f"MARK={self.data}")


@pytest.fixture
async def site(broker: Broker, credentials: Credentials, mc: str, tmp_path: Path) -> AsyncIterator[Site]:
    vim = credentials.add("service", "vim")
    mine = credentials.add("worker", NODE)
    bus = await Bus.connect(Endpoint(broker.url, vim.user, vim.password, inbox_prefix(vim.user)), mc, "vim")
    await bus.ensure_streams()
    environment = {
        **os.environ,
        "MINICLOUD_MINICLOUD": mc,
        "MINICLOUD_BROKER": broker.url,
        "MINICLOUD_USER": mine.user,
        "MINICLOUD_PASSWORD": mine.password,
        "MINICLOUD_LOG_FORMAT": "text",
    }
    made = Site(bus, tmp_path / "data", environment)
    following = asyncio.create_task(made.follow())
    yield made
    try:
        if made.process is None:
            made.start()
        await made.desire(state="stopped", generation=99)
        await made.until_state("stopped", 99)
    finally:
        made.kill(signal.SIGTERM)
        following.cancel()
        await bus.close()
    assert made.running() == []
    assert leftovers(made.data) == []


async def test_a_level_becomes_a_workload_and_its_end(site: Site) -> None:
    site.start()
    ready = await site.until(lambda level: isinstance(level, WorkerStatus))
    assert ready.state == "ready"
    assert "process" in ready.runtimes
    await site.desire("sh", "-c", "echo hello; exec sleep 1000")
    up = await site.until_state("running")
    assert up.node == NODE
    assert len(site.running()) == 1
    answer = await site.bus.request("worker", "logs", {"workload": "job-0"}, instance=NODE)
    assert answer.pop("position")
    assert answer == {"workload": "job-0", "lines": ["hello"], "truncated": False, "more": False}
    with pytest.raises(NotFound, match="job-7"):
        await site.bus.request("worker", "logs", {"workload": "job-7"}, instance=NODE)
    with pytest.raises(MinicloudError):
        await site.bus.request("worker", "logs", {"workload": "job-0", "tale": 3}, instance=NODE)
    await site.desire("sleep", "1000", generation=2)
    await site.until_state("running", 2)
    assert len(site.running()) == 1
    await site.desire(state="stopped", generation=3)
    stopped = await site.until_state("stopped", 3)
    assert stopped.exit is not None
    assert site.running() == []


async def test_a_worker_that_is_killed_finds_its_workload_again(site: Site) -> None:
    site.start()
    await site.desire("sleep", "1000")
    up = await site.until_state("running")
    (pid,) = site.running()
    site.kill()
    assert site.running() == [pid]
    site.start()
    again = await site.until_state("running")
    assert again.started_at == up.started_at
    assert site.running() == [pid]


async def test_what_nobody_desires_any_more_is_stopped_on_return(site: Site) -> None:
    site.start()
    await site.desire("sleep", "1000")
    await site.until_state("running")
    site.kill()
    await site.desire(state="stopped", generation=2)
    site.start()
    await site.until_state("stopped", 2)
    assert site.running() == []


async def test_a_stop_lets_workloads_run_on_unless_told_otherwise(site: Site) -> None:
    site.start()
    await site.desire("sleep", "1000")
    await site.until_state("running")
    (pid,) = site.running()
    site.kill(signal.SIGTERM)
    await site.until(lambda level: isinstance(level, WorkerStatus) and level.state == "stopped")
    assert site.running() == [pid]
    site.start("--stop-workloads")
    await site.until_state("running")
    site.kill(signal.SIGTERM)
    await site.until_state("stopped")
    assert site.running() == []
    site.start()
    await site.until_state("running")
    assert len(site.running()) == 1, "it is still desired"


async def test_a_level_that_says_what_cannot_be_is_answered(site: Site) -> None:
    site.start()
    await site.desire("true", env={"BAD NAME": "x"})
    failed = await site.until_state("failed")
    assert failed.reason == "InvalidEnvironment"
    await site.desire("no-such-program-here", generation=2)
    failed = await site.until_state("failed", 2)
    assert failed.reason == "CommandNotFound"


async def test_noise_among_the_levels_changes_nothing(site: Site) -> None:
    site.start()
    await site.desire("sleep", "1000")
    await site.until_state("running")
    (pid,) = site.running()
    await site.bus.wire.publish(site.bus.subjects.desired(NODE, "job-0"), b"\xff" * 1000)
    await site.desire("sleep", "1000", workload="other-0", deployment="other")
    await site.until(lambda level: isinstance(level, ObservedWorkload) and level.workload == "other-0"
                     and level.state == "running")  # fmt: skip
    assert pid in site.running()
    await site.desire(state="stopped", workload="other-0", deployment="other", generation=2)
    await site.until(lambda level: isinstance(level, ObservedWorkload) and level.workload == "other-0"
                     and level.state == "stopped")  # fmt: skip


@pytest.mark.parametrize("script", ["exit 0", "exit 3"])
async def test_a_job_that_ended_is_not_run_again(site: Site, script: str) -> None:
    site.start("--stop-workloads")
    await site.desire("sh", "-c", script, restart="never")
    ended = await site.until_state("completed" if script == "exit 0" else "failed")
    site.kill(signal.SIGTERM)
    for lost in (False, True):  # at last with the folder of another disk
        if lost:
            shutil.rmtree(site.data)
        begin = len(site.seen)
        site.start("--stop-workloads")
        await site.desire("sleep", "1000", workload="other-0", deployment="other")
        await site.until(lambda level: isinstance(level, ObservedWorkload) and level.workload == "other-0"
                         and level.state == "running")  # fmt: skip
        told = [level for level in site.seen[begin:] if getattr(level, "workload", "") == "job-0"]
        assert {level.state for level in told} <= {ended.state}
        site.kill(signal.SIGTERM)
        await site.until(lambda level: isinstance(level, WorkerStatus) and level.state == "stopped")
    site.start()
    await site.desire(state="stopped", workload="other-0", deployment="other", generation=2)
    await site.until(lambda level: isinstance(level, ObservedWorkload) and level.workload == "other-0"
                     and level.generation == 2)  # fmt: skip
