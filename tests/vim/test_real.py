"""A real worker with processes that really run: counted by what they write, not by what is told."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.workload import DesiredWorkload
from tests.parts.process import PartProcess
from tests.rid import nodes
from tests.vim.conftest import serving
from tests.vim.site import Site
from tests.worker.conftest import leftovers


class Machine:
    """A node whose worker is real; its agent is a fake that only describes it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        (self.name,) = site.node("real")
        self.data = folder / "worker"
        self.credential = site.stack.credentials.add("worker", self.name)
        self.worker: PartProcess | None = None

    async def join(self) -> None:
        s, bus = self.site.bus.subjects, self.site.bus
        described = nodes.characterization(self.name, self.site.mc, labels={"group": self.site.group})
        await bus.publish(s.characterization(self.name), described, about=self.name)
        await bus.publish(s.presence(self.name), nodes.presence(self.name), about=self.name)
        self.start()
        await self.site.found(1)

    def start(self) -> None:
        self.worker = self.site.stack.start(
            "services.vim.worker", "--node", self.name, "--data", str(self.data), credential=self.credential
        )

    def kill(self) -> None:
        if self.worker:
            self.worker.kill()


@pytest.fixture
def ledger() -> Iterator[Path]:
    """A folder where whoever runs as nobody may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
async def machine(site: Site, tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(site, tmp_path)
    await made.join()
    yield made
    await clean(made)


async def clean(machine: Machine) -> None:
    ours = {one.deployment for one in machine.site.heard if one.deployment.endswith(machine.site.group)}
    for deployment in ours:
        last = machine.site.last(deployment)
        if last and last.state not in ("stopped", "rejected"):
            await machine.site.cancel(deployment)
            await machine.site.until_state(deployment, "stopped")
            # What had ended before is told as stopped at once; its worker still tidies up.
            await until_observed(machine.site, machine.name, deployment, "stopped")
    gone = nodes.presence(machine.name, online=False, reason="stopping")
    await machine.site.bus.publish(machine.site.bus.subjects.presence(machine.name), gone, about=machine.name)
    if machine.worker:
        machine.worker.stop()
    assert leftovers(machine.data) == []


async def until_observed(site: Site, node: str, deployment: str, state: str) -> None:
    """What the worker says on the bus of replica 0."""
    subject = site.bus.subjects.observed(node, f"{deployment}-0")
    async with asyncio.timeout(20):
        while True:
            stored = await site.bus.jetstream.last(f"{site.mc}_workloads", subject)
            if stored and f'"state":"{state}"'.encode() in stored[1]:
                return
            await asyncio.sleep(0.02)


def counting(ledger: Path, word: str, then: str = "exec sleep 1000") -> dict[str, Any]:
    return {"process": {"command": ["/bin/sh", "-c", f"echo $WORD >> {ledger / word}; {then}"]}}


def begun(ledger: Path, word: str) -> list[str]:
    path = ledger / word
    return path.read_text().split() if path.exists() else []


async def test_a_process_from_request_to_end(machine: Machine, ledger: Path) -> None:
    site = machine.site
    name = await site.deploy(images=counting(ledger, "x"), env={"WORD": "one"})
    running = await site.until_state(name, "running")
    # A status tells what is: a start that is quicker than vim looks goes by without a word.
    await site.in_order(name, "accepted", "scheduled", "creating", "running")
    assert running.replicas[0].reference
    await site.deploy(images=counting(ledger, "x"), env={"WORD": "two"})
    await site.until_state(name, "running", generation=2)
    await site.cancel(name)
    await site.until_state(name, "stopped")
    assert begun(ledger, "x") == ["one", "two"]
    site.check_sequence(name)


async def test_a_job_ends_with_its_exit(machine: Machine, ledger: Path) -> None:
    site = machine.site
    good = await site.deploy(
        "good", images=counting(ledger, "good", "exit 0"), env={"WORD": "w"}, restart="never"
    )
    bad = await site.deploy(
        "bad", images=counting(ledger, "bad", "exit 3"), env={"WORD": "w"}, restart="never"
    )
    await site.until_state(good, "completed")
    failed = await site.until_state(bad, "failed")
    assert "3" in failed.message
    await site.looks(2)
    assert begun(ledger, "good") == begun(ledger, "bad") == ["w"]
    assert (site.states(good)[-1], site.states(bad)[-1]) == ("completed", "failed")


async def test_the_next_runtime_is_tried_on_the_same_node(machine: Machine, ledger: Path) -> None:
    """In the same generation: a worker must not take the second try for the first."""
    site = machine.site
    images = {"container": {"rootfs": "/nowhere/rootfs"}, **counting(ledger, "x")}
    name = await site.deploy(runtimes=["container", "process"], images=images, env={"WORD": "w"})
    last = await site.until(
        lambda: (s := site.last(name)) and s.state in ("running", "unknown", "unschedulable") and s, "settled"
    )
    assert (last.state, last.runtime) == ("running", "process")
    assert begun(ledger, "x") == ["w"]


async def test_what_its_only_node_cannot_start_fails_with_the_reason(machine: Machine) -> None:
    site = machine.site
    name = await site.deploy(images={"process": {"command": ["no-such-program-here"]}})
    failed = await site.until_state(name, "failed")
    assert failed.reason == "CommandNotFound"
    assert machine.name in failed.message
    await site.deploy()
    await site.until_state(name, "running", generation=2)


async def test_what_no_request_is_kept_of_runs_on_until_it_is_cancelled(
    machine: Machine, ledger: Path
) -> None:
    """The log may have dropped its beginning: nothing that runs is stopped for that."""
    site = machine.site
    image = counting(ledger, "x")["process"]
    level = DesiredWorkload(
        workload=f"{site.name()}-0", deployment=site.name(), generation=7, replica=0, node=machine.name,
        state="running", runtime="process", image=image, env={"WORD": "old"},
    )  # fmt: skip
    await site.bus.publish(site.bus.subjects.desired(machine.name, level.workload), level)
    await site.until_state(site.name(), "unknown", reason="DecisionLost")
    await until_observed(site, machine.name, site.name(), "running")
    await site.deploy(images={"process": image}, env={"WORD": "new"})
    await site.until_state(site.name(), "running", generation=8)
    assert begun(ledger, "x") == ["old", "new"]
    stray = level.model_copy(update={"workload": f"{site.name('s')}-0", "deployment": site.name("s")})
    await site.bus.publish(site.bus.subjects.desired(machine.name, stray.workload), stray)
    await site.until_state(site.name("s"), "unknown")
    await site.cancel(site.name("s"))
    await site.until_state(site.name("s"), "stopped")
    await until_observed(site, machine.name, site.name("s"), "stopped")


@pytest.mark.slow
async def test_vim_and_worker_killed_at_every_step_run_it_once(
    own: Site, tmp_path: Path, ledger: Path
) -> None:
    own.stack.rid()
    await serving(own.bus, "rid", "attributes")
    machine = Machine(own, tmp_path)
    await machine.join()
    vim = own.stack.vim()
    try:
        for number, state in enumerate(["accepted", "scheduled", "creating", "starting", "running"]):
            name = await own.deploy(f"d{number}", images=counting(ledger, str(number)), env={"WORD": "w"})
            reached = {state, "running"}  # `starting` may go by unseen
            await own.until(
                lambda name=name, reached=reached: reached & set(own.states(name)), f"{name} {state}"
            )
            vim.kill()
            machine.kill()
            machine.start()
            vim = own.stack.vim()
            await own.until_state(name, "running")
            own.check_facts(name)
        await serving(own.bus, "vim", "list")
        for number in range(5):
            assert begun(ledger, str(number)) == ["w"], number
    finally:
        await clean(machine)


async def test_a_silent_worker_is_told(own: Site, tmp_path: Path) -> None:
    """Its agent is there and its worker was ready once, but does not answer now."""
    own.stack.rid()
    await serving(own.bus, "rid", "attributes")
    machine = Machine(own, tmp_path)
    await machine.join()
    machine.kill()
    own.stack.vim()
    name = await own.deploy()
    told = await own.until_state(name, "creating")
    assert f"{machine.name} is told to run it" in told.message
    await own.cancel(name)
    waiting = await own.until_state(name, "stopping")
    assert waiting.message == f"waiting for {machine.name}"
    machine.start()
    await own.until_state(name, "stopped")
    await clean(machine)


async def test_scaled_paused_and_resumed_over_a_killed_worker_nothing_is_begun_twice(
    machine: Machine, ledger: Path
) -> None:
    site = machine.site
    name = await site.deploy(images=counting(ledger, "x"), env={"WORD": "w"})
    await site.until_state(name, "running")
    await site.bus.request("vim", "scale", {"deployment": name, "replicas": 2})
    await site.until(lambda: (s := site.last(name)) and s.state == "running" and len(s.replicas) == 2, "two")
    await site.bus.request("vim", "pause", {"deployment": name})
    await site.until_state(name, "paused", generation=3)
    machine.kill()
    machine.start()
    await site.bus.request("vim", "resume", {"deployment": name})
    running = await site.until_state(name, "running", generation=4)
    assert [replica.restarts for replica in running.replicas] == [0, 0]
    assert begun(ledger, "x") == ["w", "w"], "each once"
