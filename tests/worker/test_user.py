"""A worker that is an ordinary user: what it can do, and the reasons for what it cannot."""

import asyncio
import concurrent.futures.thread  # noqa: F401 - what is imported late would not be found by the other user
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import Workload
from tests.parts.qemu import Qemu
from tests.worker.conftest import Room, carrying, process, workload

NOBODY = 65534


def as_user(data: Path, made: Workload, wanted: str, settings: EngineSettings) -> dict[str, Any]:
    """Run one workload up to a state under an engine of an unprivileged process; what it observed."""
    data.mkdir()
    report = data / "report.json"

    def journey() -> None:
        if os.geteuid() == 0:
            os.chdir("/")
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

        async def live() -> None:
            engine = Engine(data / "engine", settings)
            room = Room(engine, data / "engine")
            engine.listen(room.hear)
            async with engine:
                seen = await room.run(made, wanted)
                logs = engine.logs("job-0")
                await engine.remove("job-0")
                left = [path.name for path in (data / "engine/workloads").iterdir()]
            report.write_text(json.dumps({**seen, "logs": logs, "left": left, "kind": engine.cgroups.kind,
                                          "why": engine.cgroups.reason}))  # fmt: skip

        asyncio.run(live())

    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
        # Its own rights, not ours, must suffice: every folder above is passed by name only.
        for folder in data.parents:
            if not folder.stat().st_mode & 0o001:
                pytest.skip(f"an ordinary user may not pass {folder}")
    child = multiprocessing.get_context("fork").Process(target=journey)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    told: dict[str, Any] = json.loads(report.read_text())
    assert told["left"] == []
    return told


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody can reach: pytest's own are closed to others."""
    made = Path(tempfile.mkdtemp(prefix="worker-user-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_process_runs_as_that_user_with_the_limit_of_last_resort(place: Path) -> None:
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    made = process("sh", "-c", "id -u; ulimit -v", memory=64 << 20, cpu=1.0, restart="never")
    seen = as_user(place / "data", made, "completed", EngineSettings())
    if seen["kind"] != "none":
        pytest.skip("control groups are delegated to this user")
    assert seen["logs"] == [str(uid), str(64 << 10)]
    assert f"uid {uid}" in seen["why"]
    assert seen["limits"]["memory"] == "address space (RLIMIT_AS)"
    assert seen["limits"]["cpu"].startswith("not enforced: control groups cannot be made")


def test_a_container_says_that_it_needs_root(place: Path) -> None:
    made = workload("container", {"rootfs": "/", "command": ["true"]})
    seen = as_user(place / "data", made, "failed", EngineSettings())
    assert seen["reason"] == "NeedsRoot"
    assert "another runtime" in seen["message"]


def test_root_is_not_to_be_had(place: Path) -> None:
    seen = as_user(place / "data", process("true", user="root"), "failed", EngineSettings(allow_root=True))
    assert seen["reason"] == "NeedsRoot"


def test_a_process_that_leaves_its_session_is_stopped_too(place: Path) -> None:
    made = process("sh", "-c", "setsid sleep 1000 & echo up; sleep 1000", env={"MARK": str(place)})
    as_user(place / "data", made, "running", EngineSettings())
    assert carrying(f"MARK={place}") == []


def test_a_unikernel_boots(place: Path, qemu: Qemu, guest: Path) -> None:
    kernel = place / "guest.elf"
    shutil.copy(guest, kernel)
    kernel.chmod(0o644)
    made = workload("unikernel", {"kernel": str(kernel), "arguments": ["clean"]}, restart="never")
    seen = as_user(place / "data", made, "completed", EngineSettings(qemu=str(qemu.obtain())))
    assert any("guest: " in line for line in seen["logs"])
