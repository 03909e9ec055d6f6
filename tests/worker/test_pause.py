"""Standing still for real: frozen by the kernel or stopped by QEMU, over kills, and going on as the same run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import Health, Port, Workload
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc
from tests.worker.conftest import Room, carrying, leftovers, needs_root, process, workload
from tests.worker.test_recovery import Worker

COUNT = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done"


def later(made: Workload, *, paused: bool) -> Workload:
    """The next generation of the same."""
    return dataclasses.replace(made, generation=made.generation + 1, paused=paused)


def counted(room: Room, name: str) -> int:
    said = room.engine.logs(name)
    return int(said[-1]) if said else 0


async def steps(room: Room, name: str, more: int) -> None:
    """Until a workload that counts has counted so much further."""
    goal = counted(room, name) + more
    async with asyncio.timeout(20):
        while counted(room, name) < goal:
            await asyncio.sleep(0.005)


async def stands_still(room: Room, name: str, beside: str) -> None:
    """While another that does the same goes on, this one does not."""
    before = counted(room, name)
    await steps(room, beside, 30)
    assert counted(room, name) == before


async def until_of(room: Room, made: Workload, state: str) -> dict[str, Any]:
    return await room.until(
        lambda seen: (
            (seen["workload"], seen["generation"], seen["state"]) == (made.workload, made.generation, state)
        )
    )


async def pause_and_go_on(room: Room, made: Workload, beside: Workload) -> None:
    room.engine.apply(beside)
    room.engine.apply(made)
    up = await until_of(room, made, "running")
    await steps(room, made.workload, 1)
    await steps(room, beside.workload, 1)
    still = later(made, paused=True)
    room.engine.apply(still)
    told = await until_of(room, still, "paused")
    assert (told["reason"], told["endpoints"]) == ("Paused", [])
    await stands_still(room, made.workload, beside.workload)
    on = later(still, paused=False)
    room.engine.apply(on)
    back = await until_of(room, on, "running")
    assert (back["reference"], back["started_at"], back["restarts"]) == (up["reference"], up["started_at"], 0)
    before = counted(room, made.workload)
    await steps(room, made.workload, 5)
    assert before > 0, "it went on from where it was"


async def test_a_process_is_frozen_and_goes_on_as_the_same_run(room: Room) -> None:
    made = process("sh", "-c", COUNT, restart="never")
    await pause_and_go_on(room, made, dataclasses.replace(made, workload="beside-0"))


async def test_where_there_are_no_control_groups_signals_do_it(room: Room, monkeypatch: Any) -> None:
    monkeypatch.setattr(room.engine.cgroups, "kind", "none")
    made = process("sh", "-c", COUNT, restart="never")
    await pause_and_go_on(room, made, dataclasses.replace(made, workload="beside-0"))


@needs_root
class TestContainers:
    """What needs root."""

    @pytest.fixture
    def settings(self, runc: Runc) -> EngineSettings:
        return EngineSettings(stop_grace=3.0, backoff=0.02, runc=str(runc.obtain()))

    async def test_a_container_is_frozen_and_goes_on_as_the_same_run(self, room: Room, rootfs: Path) -> None:
        made = workload("container", {"rootfs": str(rootfs), "command": ["sh", "-c", COUNT]}, restart="never")
        await pause_and_go_on(room, made, dataclasses.replace(made, workload="beside-0"))


class TestMachines:
    """Under a real QEMU."""

    @pytest.fixture
    def settings(self, qemu: Qemu) -> EngineSettings:
        return EngineSettings(stop_grace=3.0, backoff=0.02, qemu=str(qemu.obtain()))

    async def test_a_machine_is_stopped_by_qemu_and_goes_on(self, room: Room, guest: Path) -> None:
        image = {"kernel": str(guest), "arguments": ["stay"]}
        made = workload("unikernel", image, memory=32 << 20, health=Health(console="stay"))
        up = await room.run(made)
        assert await status_of(room) == "running"
        still = later(made, paused=True)
        room.engine.apply(still)
        await until_of(room, still, "paused")
        assert await status_of(room) == "paused"
        on = later(still, paused=False)
        room.engine.apply(on)
        back = await until_of(room, on, "running")
        assert await status_of(room) == "running"
        assert (back["reference"], back["started_at"]) == (up["reference"], up["started_at"])
        room.engine.apply(later(on, paused=True))
        await until_of(room, later(on, paused=True), "paused")
        await room.engine.remove("job-0")
        assert not (room.data / "workloads/job-0").exists()


async def status_of(room: Room) -> str:
    """What QEMU says of its machine."""
    handle = os.open(room.data / "workloads/job-0/machine", os.O_PATH | os.O_DIRECTORY)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/qmp.sock")
        for command in ("qmp_capabilities", "query-status"):
            writer.write(json.dumps({"execute": command}).encode() + b"\n")
        async with asyncio.timeout(10):
            while True:
                answer = json.loads(await reader.readline())
                if answer.get("return", {}).get("status"):
                    writer.close()
                    return str(answer["return"]["status"])
    finally:
        os.close(handle)


async def test_what_was_asked_meanwhile_is_answered_when_it_goes_on(room: Room) -> None:
    made = process(
        "sh",
        "-c",
        "exec python3 -m http.server $PORT --bind $HOST",
        ports=(Port("http", 80),),
        health=Health(http="/"),
    )
    up = await room.run(made)
    still = later(made, paused=True)
    room.engine.apply(still)
    await until_of(room, still, "paused")
    async with httpx.AsyncClient(timeout=20) as client:
        answer = asyncio.create_task(client.get(up["endpoints"][0]["url"]))
        on = later(still, paused=False)
        # The kernel takes the connection for it; what serves stands still.
        with socket.create_connection((up["endpoints"][0]["address"], up["endpoints"][0]["port"]), timeout=5):
            assert not answer.done()
            room.engine.apply(on)
            assert (await answer).status_code == 200
    back = await until_of(room, on, "running")
    assert (back["reference"], back["restarts"]) == (up["reference"], 0), "no probe had it restarted"


async def test_what_begins_paused_stands_still_once_its_own_code_runs(room: Room) -> None:
    made = process("sh", "-c", COUNT, restart="never")
    beside = dataclasses.replace(made, workload="beside-0")
    room.engine.apply(beside)
    still = dataclasses.replace(made, paused=True)
    room.engine.apply(still)
    await until_of(room, still, "paused")
    await stands_still(room, "job-0", "beside-0")
    on = later(still, paused=False)
    room.engine.apply(on)
    await until_of(room, on, "running")
    await steps(room, "job-0", 3)


async def test_what_stands_still_can_be_replaced_stopped_and_die(room: Room) -> None:
    made = process("sh", "-c", COUNT, env={"MARK": str(room.data)})
    still = dataclasses.replace(made, paused=True)
    room.engine.apply(still)
    first = await until_of(room, still, "paused")
    for pid in carrying(f"MARK={room.data}"):
        os.kill(pid, signal.SIGKILL)
    if room.engine.cgroups.kind == "cgroup-v1":  # there, what is frozen dies when it is let go on
        on = later(still, paused=False)
        room.engine.apply(on)
        await room.until(lambda seen: seen["restarts"] == 1)
        still = later(on, paused=True)
        room.engine.apply(still)
    again = await until_of(room, still, "paused")
    assert again["reference"] != first["reference"]
    other = dataclasses.replace(later(still, paused=False), env={"MARK": f"{room.data}/other"})
    room.engine.apply(other)
    await until_of(room, other, "running")
    assert carrying(f"MARK={room.data}") == []
    room.engine.apply(later(other, paused=True))
    await until_of(room, later(other, paused=True), "paused")
    await room.engine.remove("job-0")
    assert carrying(f"MARK={room.data}/other") == []


async def test_another_generation_of_the_same_runs_on(room: Room) -> None:
    made = process("sleep", "1000", env={"MARK": str(room.data)})
    up = await room.run(made)
    (pid,) = carrying(f"MARK={room.data}")
    same = dataclasses.replace(made, generation=7)
    room.engine.apply(same)
    told = await until_of(room, same, "running")
    assert told["reference"] == up["reference"]
    assert carrying(f"MARK={room.data}") == [pid]
    room.engine.apply(dataclasses.replace(made, generation=8, env={"MARK": str(room.data), "A": "b"}))
    await room.until(lambda seen: seen["generation"] == 8 and seen["state"] == "running")
    assert carrying(f"MARK={room.data}") != [pid]


async def test_another_generation_of_a_job_that_ended_does_not_run_it_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = process("sh", "-c", "echo once; exit 3", restart="never")
    for generation in (1, 2, 3):
        engine = Engine(data)
        room = Room(engine, data)
        engine.listen(room.hear)
        async with engine:
            same = dataclasses.replace(made, generation=generation)
            engine.apply(same)
            await until_of(room, same, "failed")
            assert engine.logs("job-0") == ["once"]
            if generation == 3:
                await engine.remove("job-0")
    assert leftovers(data) == []


@pytest.mark.parametrize("line", [1, 20, 40, 60, 80, 100, 120, 140, 160, 190, 220, 260, 300])
def test_killed_while_it_pauses_or_goes_on_it_ends_as_was_wished(tmp_path: Path, line: int) -> None:
    mark = {"MARK": str(tmp_path)}
    made = process("sh", "-c", COUNT, env=mark)
    data = tmp_path / "data"
    Worker(data, made).run()
    child = (data / "workloads/job-0/run-1/child").read_text()
    still = later(made, paused=True)
    Worker(data, still).run("--die-at-line", str(line))
    code, told = Worker(data, still).run()
    assert (code, told[-2]["state"], told[-2]["generation"]) == (0, "paused", 2)
    on = later(still, paused=False)
    Worker(data, on).run("--die-at-line", str(line))
    code, told = Worker(data, on).run()
    assert (code, told[-2]["state"], told[-2]["generation"]) == (0, "running", 3)
    assert (data / "workloads/job-0/run-1/child").read_text() == child, "it was never started again"
    log = data / "workloads/job-0/output.log"
    size = log.stat().st_size
    asyncio.run(_grows(log, size))
    Worker(data, on).run("--remove")
    assert leftovers(data) == []


async def _grows(log: Path, size: int) -> None:
    async with asyncio.timeout(10):
        while log.stat().st_size == size:
            await asyncio.sleep(0.005)
