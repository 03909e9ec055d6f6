"""The engine room of a node: makes its workloads so, and tells what does run.

In come workloads to apply or remove, out comes each change of their observed state. It knows no bus:
the service above it does. Everything that it must remember is in its data folder; several engines
over one folder would fight, so the second is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import NotFound
from services.vim.worker.cgroup import Cgroups
from services.vim.worker.container import ContainerRuntime
from services.vim.worker.image import ImageStore
from services.vim.worker.logs import Read, last_lines, lines_after
from services.vim.worker.observed import Observed
from services.vim.worker.ports import Ports
from services.vim.worker.process import ProcessRuntime, reachable
from services.vim.worker.qemu import QemuRuntime
from services.vim.worker.runtime import Runtime
from services.vim.worker.settings import EngineSettings
from services.vim.worker.shim import Identity
from services.vim.worker.state import Folder
from services.vim.worker.supervisor import Node, Supervisor
from services.vim.worker.workload import CannotRun, Workload


class Engine:
    """All workloads of a node.

    Use it as an async context manager: on entry it takes over what runs, on exit it lets it run on.

    Args:
        data_dir: where workloads, images and their state are kept.
        settings: what the node's owner decided.
        changed: called in the event loop with each change of an observed workload.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: EngineSettings | None = None,
        changed: Callable[[Observed], None] | None = None,
    ) -> None:
        self._data = data_dir.resolve()
        self._settings = settings or EngineSettings()
        self._listeners: list[Callable[[Observed], None]] = [changed] if changed else []
        # Several workers may share a machine, in tests at least: each has groups of its own.
        self.name = hashlib.sha256(str(self._data).encode()).hexdigest()[:12]
        self.cgroups = Cgroups(f"{self._settings.cgroup_parent}-{self.name}")
        self.runtimes: dict[str, Runtime] = _runtimes(self._data, self._settings)
        ports = Ports(self._settings.bind)
        self._node = Node(self._settings, self.runtimes, self.cgroups, ports, self.name, self._tell)
        self._supervisors: dict[str, Supervisor] = {}
        self._lock: int | None = None
        self._work_root: Path | None = None

    async def __aenter__(self) -> Self:
        """Take over what an earlier engine started here.

        Raises:
            CannotRun: ``DataInUse`` if another engine works in the data folder.
        """
        self._data.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = os.open(self._data / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise CannotRun(
                "DataInUse", f"another worker runs in {self._data}", expected="a folder of its own"
            ) from None
        self._lock = lock
        self._workloads.mkdir(mode=0o711, exist_ok=True)
        self._work_root = _work_root(self.name, self._workloads, self._settings)
        for path in sorted(self._workloads.iterdir()):
            folder = Folder(path, self._work_root)
            if folder.desired() is None and folder.record().running is None:
                folder.remove()  # killed between making the folder and writing into it: nothing ever ran
            else:
                self._supervisors[path.name] = Supervisor(self._node, folder)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching; workloads run on."""
        await asyncio.gather(*(supervisor.leave() for supervisor in self._supervisors.values()))
        self.cgroups.close()
        if self._work_root is not None:
            with suppress(OSError):  # something lives in it
                self._work_root.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _workloads(self) -> Path:
        return self._data / "workloads"

    def apply(self, workload: Workload) -> None:
        """Make ``workload`` so; the same again changes nothing, another generation replaces it.

        Returns as soon as the wish is on disk; what becomes of it is told by ``changed``.
        """
        supervisor = self._supervisors.get(workload.workload)
        if supervisor is not None and not supervisor.done:
            supervisor.desire(workload)
            return
        folder = Folder(self._workloads / workload.workload, self._work_root)
        folder.desire(workload)
        self._supervisors[workload.workload] = Supervisor(self._node, folder)

    def withdraw(self, workload: str) -> bool:
        """Have ``workload`` stopped and forgotten; False if it is not here.

        Returns as soon as the wish is on disk; ``changed`` tells when it is stopped.
        """
        supervisor = self._supervisors.get(workload)
        if supervisor is None or supervisor.done:
            return False
        supervisor.withdraw()
        return True

    async def remove(self, workload: str) -> None:
        """Withdraw ``workload``; returns when nothing of it is left, or it is applied again."""
        if self.withdraw(workload):
            await self._supervisors[workload].settled()

    async def stop(self) -> None:
        """Stop what runs, to be started again by whoever desires it; what ended for good stays so."""
        living = [name for name, found in self._supervisors.items() if not found.done and not found.ended]
        await asyncio.gather(*(self.remove(name) for name in living))
        for supervisor in self._supervisors.values():
            supervisor.forget_work()

    def available(self) -> dict[str, str | None]:
        """Each runtime with the reason why this node cannot offer it, or None."""
        return {name: runtime.unavailable() for name, runtime in self.runtimes.items()}

    def observe(self) -> list[Observed]:
        """What does run: one document a workload (contract: observed)."""
        found = [supervisor.observed() for supervisor in self._supervisors.values() if not supervisor.done]
        return [observed for observed in found if observed is not None]

    def listen(self, changed: Callable[[Observed], None]) -> None:
        """Call ``changed`` with each change of an observed workload, in the event loop."""
        self._listeners.append(changed)

    def logs(self, workload: str, tail: int = 100) -> list[str]:
        """The last ``tail`` lines that ``workload`` printed, over its restarts.

        Raises:
            NotFound: if this node has no such workload.
        """
        return self.read_logs(workload, tail).lines

    def read_logs(self, workload: str, tail: int, after: str | None = None) -> Read:
        """The same with the position where it ends; ``after`` a position, what was printed since.

        Raises:
            NotFound: if this node has no such workload.
        """
        supervisor = self._supervisors.get(workload)
        if supervisor is None or supervisor.done:
            known = ", ".join(name for name, found in sorted(self._supervisors.items()) if not found.done)
            raise NotFound(f"this node runs no workload {workload[:80]!r}", expected=known or None)
        if after is None:
            return last_lines(supervisor.logs(), tail)
        observed = supervisor.observed()
        ended = observed is not None and observed["state"] in ("completed", "failed", "stopped")
        return lines_after(supervisor.logs(), after, ended=ended)

    def _tell(self, observed: Observed) -> None:
        for listener in self._listeners:
            listener(observed)


def _runtimes(data: Path, settings: EngineSettings) -> dict[str, Runtime]:
    images = ImageStore(data / "images", settings.plain_registries)
    found: list[Runtime] = [
        ProcessRuntime(),
        ContainerRuntime(images, data / "runc", settings.runc),
        QemuRuntime("unikernel", images, settings),
        QemuRuntime("vm", images, settings),
    ]
    return {runtime.name: runtime for runtime in found}


def _work_root(name: str, workloads: Path, settings: EngineSettings) -> Path | None:
    """Where working directories go if the user of workloads cannot reach the data folder; else None.

    A program that asks for the full name of its directory would fail below, say, ``/root``.
    """
    if os.geteuid() != 0 or reachable(workloads, Identity(settings.uid, settings.gid)):
        return None
    root = Path(tempfile.gettempdir()) / f"minicloud-{name}"
    root.mkdir(mode=0o711, exist_ok=True)
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise CannotRun(
            "DataInUse", f"{root} belongs to somebody else", expected="a data folder that others may pass"
        )
    root.chmod(0o711)
    return root
