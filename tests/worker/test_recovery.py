"""kill -9 of the worker at any line: the next one finds what runs, and exactly one runs."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import Workload
from tests.parts.runc import Runc
from tests.worker.conftest import (
    Room,
    carrying,
    leftovers,
    needs_root,
    process,
    workload,
)

DRIVER = Path(__file__).with_name("driver.py")
#: Lines of its own code that a worker runs from its start to a running process; a container takes some more.
LINES = 850


class Worker:
    """A worker in a process of its own."""

    def __init__(self, data: Path, made: Workload, **settings: Any) -> None:
        self.data = data
        self.settings = {"backoff": 0.02, "stop_grace": 3, **settings}
        self.spec = data.with_suffix(".json")
        self.spec.write_text(json.dumps(made.document()))

    def run(self, *options: str, seconds: float = 60) -> tuple[int, list[dict[str, Any]]]:
        """Run it to its end: the exit code and the lines that it printed."""
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(self.data), str(self.spec),
             "--settings", json.dumps(self.settings), *options],
            capture_output=True, text=True, timeout=seconds, check=False,
            env={**os.environ, "PYTHONPATH": "."},
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def one(data: Path, mark: str) -> int:
    """The pid of the only live process that carries the mark and is the workload itself."""
    deadline = time.monotonic() + 5
    while True:
        # What `sh` and `sleep` become is one process each; shells on the way to it carry no mark.
        pids = [pid for pid in carrying(f"MARK={mark}") if _command(pid).startswith("sleep")]
        if len(pids) == 1 or time.monotonic() > deadline:
            assert len(pids) == 1, f"{pids} run after a restart of {data}"
            return pids[0]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def killed_at(tmp_path: Path, made: Workload, line: int, **settings: Any) -> None:
    mark = made.env["MARK"]
    worker = Worker(tmp_path / f"data-{line}", made, **settings)
    code, _ = worker.run("--die-at-line", str(line))
    survivors = carrying(f"MARK={mark}")
    code, told = worker.run()
    assert code == 0
    assert told[-1] == {"ready": True}
    pid = one(worker.data, mark)
    if survivors:
        assert pid in survivors, "what survived the kill is the one that runs on"
    assert told[-2]["state"] == "running"
    # And a stop that is killed on its way is finished by the next.
    worker.run("--remove", "--die-at-line", str(line))
    worker.run("--remove")
    assert carrying(f"MARK={mark}") == []
    assert list((worker.data / "workloads").iterdir()) == []
    assert leftovers(worker.data) == []


def points(count: int) -> list[int]:
    """Lines spread over the whole journey; another choice for each seed."""
    chooser = random.Random(os.environ.get("KILL_SEED", "minicloud"))
    width = LINES // count
    return [index * width + chooser.randrange(1, width + 1) for index in range(count)]


@pytest.mark.parametrize("line", points(6))
def test_killed_at_any_line_exactly_one_runs(tmp_path: Path, line: int) -> None:
    killed_at(tmp_path, process("sleep", "1000", env={"MARK": str(tmp_path)}), line)


@pytest.mark.slow
@pytest.mark.parametrize("line", points(60))
def test_killed_at_many_lines_exactly_one_runs(tmp_path: Path, line: int) -> None:
    killed_at(tmp_path, process("sleep", "1000", env={"MARK": str(tmp_path)}), line)


@needs_root
@pytest.mark.parametrize("line", points(4))
def test_killed_at_any_line_exactly_one_container_runs(
    tmp_path: Path, rootfs: Path, runc: Runc, line: int
) -> None:
    image = {"rootfs": str(rootfs), "command": ["sleep", "1000"]}
    made = workload("container", image, env={"MARK": str(tmp_path)})
    killed_at(tmp_path, made, line, runc=str(runc.obtain()))


async def test_an_end_that_nobody_saw_is_told_on_return(tmp_path: Path) -> None:
    made = process("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.01; done", restart="never",
                   env={"MARK": str(tmp_path)})  # fmt: skip
    data = tmp_path / "data"
    async with Engine(data) as engine:
        first = Room(engine, data)
        engine.listen(first.hear)
        up = await first.run(made)
    run = data / "workloads" / "job-0" / "run-1"
    os.kill(int((run / "child").read_text().split()[0]), signal.SIGTERM)
    async with asyncio.timeout(10):
        while not (run / "exit").exists():
            await asyncio.sleep(0.01)
    engine = Engine(data)
    second = Room(engine, data)
    engine.listen(second.hear)
    async with engine:
        end = await second.until_state("failed")
        assert end["exit"]["code"] == 5
        assert end["started_at"] == up["started_at"]
        await engine.remove("job-0")
    assert leftovers(data) == []


async def test_one_whose_shim_was_killed_is_cleaned_up_and_started_again(room: Room) -> None:
    await room.run(process("sleep", "1000", env={"MARK": str(room.data)}))
    orphan = one(room.data, str(room.data))
    shim = int((room.data / "workloads/job-0/run-1/shim").read_text().split()[0])
    os.kill(shim, signal.SIGKILL)
    lost = await room.until(lambda seen: seen["restarts"] == 1)
    assert lost["reason"] == "Lost"
    await room.until_state("running")
    assert one(room.data, str(room.data)) != orphan


async def test_a_second_worker_over_the_same_folder_is_refused(room: Room) -> None:
    from services.vim.worker.workload import CannotRun

    with pytest.raises(CannotRun, match="another worker") as refused:
        await Engine(room.data, EngineSettings()).__aenter__()
    assert refused.value.reason == "DataInUse"


async def test_leaving_lets_workloads_run_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = process("sleep", "1000", env={"MARK": str(data)})
    pids = []
    for _ in range(2):
        engine = Engine(data)
        room = Room(engine, data)
        engine.listen(room.hear)
        async with engine:
            engine.apply(made)
            await room.until_state("running")
            pids.append(one(data, str(data)))
    assert pids[0] == pids[1]
    async with Engine(data) as engine:
        await engine.remove("job-0")
    assert leftovers(data) == []
