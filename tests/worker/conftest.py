"""An engine over a folder of its own, its events, and the proof that a test left nothing behind."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.shim import MARKER
from services.vim.worker.workload import Workload
from tests.parts.busybox import Busybox

Observed = dict[str, Any]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers and control groups")


@dataclass
class Room:
    """An engine and what it told."""

    engine: Engine
    data: Path
    seen: list[Observed] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, observed: Observed) -> None:
        self.seen.append(observed)
        self._news.set()

    async def until(self, wanted: Callable[[Observed], bool], seconds: float = 20) -> Observed:
        """The first observed change, from the last look on, that is wanted."""
        position = getattr(self, "_position", 0)
        async with asyncio.timeout(seconds):
            while True:
                for index in range(position, len(self.seen)):
                    if wanted(self.seen[index]):
                        self._position = index + 1
                        return self.seen[index]
                position = len(self.seen)
                self._news.clear()
                await self._news.wait()

    async def until_state(self, state: str, reason: str | None = None, seconds: float = 20) -> Observed:
        return await self.until(
            lambda observed: observed["state"] == state and reason in (None, observed["reason"]), seconds
        )

    async def run(self, workload: Workload, state: str = "running") -> Observed:
        self.engine.apply(workload)
        return await self.until_state(state)


@pytest.fixture
def settings() -> EngineSettings:
    return EngineSettings(stop_grace=3.0, backoff=0.02)


@pytest.fixture
async def room(tmp_path: Path, settings: EngineSettings) -> AsyncIterator[Room]:
    data = tmp_path / "data"
    engine = Engine(data, settings)
    made = Room(engine, data)
    engine.listen(made.hear)
    async with engine:
        yield made
        for observed in engine.observe():
            await engine.remove(observed["workload"])
    assert list((data / "workloads").iterdir()) == []
    assert leftovers(data) == []


def leftovers(data: Path) -> list[str]:
    """Mounts, groups and processes that name the data folder's engine."""
    name = Engine(data).name  # told from the folder alone
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(data) in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/minicloud-{name}")]
    found += [str(path) for path in Path(tempfile.gettempdir()).glob(f"minicloud-{name}")]
    found += [f"pid {pid}" for pid in carrying(f"{MARKER}={name}/", prefix=True)]
    return found


def carrying(variable: str, *, prefix: bool = False) -> list[int]:
    """The pids of live processes whose environment holds ``NAME=value``."""
    wanted = variable.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                items = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(item.startswith(wanted) if prefix else item == wanted for item in items):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="session")
def rootfs(busybox: Busybox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem of one program."""
    root = tmp_path_factory.mktemp("rootfs")
    root.chmod(0o755)
    (root / "bin").mkdir()
    (root / "etc").mkdir()
    shutil.copy(busybox.obtain(), root / "bin/busybox")
    for name in (
        "sh",
        "httpd",
        "id",
        "sleep",
        "cat",
        "ls",
        "env",
        "echo",
        "true",
        "touch",
        "kill",
        "grep",
        "ps",
        "hostname",
        "mount",
        "dd",
    ):
        (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel of one screen, built from ``guest.S``."""
    out = tmp_path_factory.mktemp("guest") / "guest.elf"
    command = [
        "gcc",
        "-m32",
        "-nostdlib",
        "-static",
        "-Wl,-Ttext=0x100000,--build-id=none,-N",
        "-o",
        str(out),
    ]
    built = subprocess.run(
        [*command, str(Path(__file__).with_name("guest.S"))], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip(f"gcc does not build for 32-bit x86: {built.stderr[:200]}")
    return out


def process(*command: str, **fields: Any) -> Workload:
    return workload("process", {"command": list(command)}, **fields)


def workload(runtime: str, image: dict[str, Any], **fields: Any) -> Workload:
    given = {"workload": "job-0", "deployment": "job", "generation": 1, "replica": 0, **fields}
    return Workload(runtime=runtime, image=image, **given)
