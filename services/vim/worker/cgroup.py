"""CPU, memory and process limits that the kernel enforces, by control groups version 1 and 2.

Each workload gets one group; in come limits and the place to write a pid, out come usage, kills for
want of memory, and the members. Where groups cannot be made, :attr:`Cgroups.reason` says why.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from services.vim.worker.workload import CannotRun

_PERIOD: Final = 100_000  # microseconds; the kernel's own default
_LEAST_QUOTA: Final = 1_000  # the kernel refuses less than a millisecond
_NEEDED: Final = ("cpu", "memory")
_WANTED: Final = ("cpu", "cpuacct", "memory", "pids", "freezer")
_FROZEN_WITHIN: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group has used: CPU seconds, throttled periods, bytes, tasks, and kills for want of memory."""

    cpu: float
    throttled: int
    memory: int
    tasks: int
    oom_kills: int


class Group(Protocol):
    """One workload's control group."""

    def create(self, *, cpu: float | None, memory: int | None, pids: int) -> None:
        """Make the group with limits: ``cpu`` in cores, ``memory`` in bytes, ``pids`` in tasks."""

    def entries(self) -> list[Path]:
        """The files into which a process writes ``0`` to join."""

    def members(self) -> list[int]:
        """The pids in the group."""

    def usage(self) -> Usage:
        """What the group has used up to now; zeros where it does not exist."""

    def path(self) -> str:
        """The group's name as an OCI runtime wants it (``linux.cgroupsPath``)."""

    async def freeze(self) -> None:
        """Have every member stand still; returns once all do.

        Raises:
            CannotRun: ``CannotPause``, where the kernel offers it not or some member cannot be frozen.
        """

    async def thaw(self) -> None:
        """Have every member go on; not an error if none stands still."""

    async def kill(self) -> None:
        """Kill every member and wait until none is left."""

    async def remove(self) -> None:
        """Remove the group and those that others made below it; not an error if it is not there."""


class Cgroups:
    """What this machine and user can limit.

    Attributes:
        kind: ``cgroup-v1``, ``cgroup-v2`` or ``none``.
        reason: why not, for ``none``; else empty.
    """

    def __init__(self, parent: str = "minicloud") -> None:
        self._parent = parent
        self.kind: Literal["cgroup-v1", "cgroup-v2", "none"] = "none"
        self.reason = ""
        self._bases: dict[str, Path] = {}
        self._mounts: dict[str, Path] = {}
        self._detect()

    def _detect(self) -> None:
        mounts, unified = _mounts()
        try:
            own = _own_groups()
        except OSError as error:
            self.reason = f"/proc/self/cgroup cannot be read: {error.strerror}"
            return
        try:
            if all(name in mounts for name in _NEEDED):
                self._use_v1(mounts, own)
            elif unified is not None:
                self._use_v2(unified, own.get("", "/"))
            else:
                self.reason = "no control groups for cpu and memory are mounted in /sys/fs/cgroup"
        except OSError as error:
            self.kind = "none"
            self.reason = (
                f"control groups cannot be made at {error.filename} as uid {os.geteuid()}: {error.strerror}; "
                "run the worker as root or delegate a group to its user"
            )

    def _use_v1(self, mounts: dict[str, tuple[Path, str]], own: dict[str, str]) -> None:
        for name in _WANTED:
            if name in mounts:
                mount, root = mounts[name]
                base = _below(mount, root, own.get(name, "/"), self._parent)
                self._mounts[name] = mount
                self._bases[name] = base
                _probe(base)
        self.kind = "cgroup-v1"

    def _use_v2(self, mount: Path, own: str) -> None:
        # Root takes the top level, as container engines do: a service's own group holds processes and
        # may therefore not hand controllers to groups below it. A user has only what was delegated.
        start = mount if os.geteuid() == 0 else mount / own.lstrip("/")
        available = set((start / "cgroup.controllers").read_text().split())
        missing = [name for name in _NEEDED if name not in available]
        if missing:
            self.reason = f"the group {start} has no controller {', '.join(missing)} (it was not delegated)"
            return
        base = (mount if self._parent.startswith("/") else start) / self._parent.lstrip("/")
        controllers = " ".join(f"+{name}" for name in ("cpu", "memory", "pids") if name in available)
        try:
            _write(start / "cgroup.subtree_control", controllers)
        except OSError:
            _move_members(start, start / "worker")
            _write(start / "cgroup.subtree_control", controllers)
        _probe(base)
        self._bases = {"": base}
        self._mounts = {"": mount}
        self.kind = "cgroup-v2"

    def group(self, workload: str) -> Group | None:
        """The group of a workload, made or not; None where there are no control groups."""
        if self.kind == "cgroup-v1":
            return GroupV1({name: base / workload for name, base in self._bases.items()}, self._parent)
        if self.kind == "cgroup-v2":
            return GroupV2(self._bases[""] / workload, self._mounts[""])
        return None

    def close(self) -> None:
        """Remove the parent groups if nothing is left in them, also those that an OCI runtime made."""
        mounts, unified = _mounts()
        own = _own_groups()
        bases = {
            _below(mount, root, own.get(name, "/"), self._parent) for name, (mount, root) in mounts.items()
        }
        if unified is not None:
            bases.add(_below(unified, "/", own.get("", "/"), self._parent))
        for base in bases | set(self._bases.values()):
            with suppress(OSError):
                base.rmdir()


class GroupV1:
    """A group in each of version 1's hierarchies."""

    def __init__(self, folders: dict[str, Path], parent: str) -> None:
        self._folders = folders
        self._parent = parent

    def create(self, *, cpu: float | None, memory: int | None, pids: int) -> None:
        """Make the group with its limits (see :class:`Group`)."""
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        _write(self._folders["cpu"] / "cpu.cfs_period_us", str(_PERIOD))
        _write(self._folders["cpu"] / "cpu.cfs_quota_us", str(_quota(cpu) if cpu else -1))
        limit = str(memory) if memory else "-1"
        swap = self._folders["memory"] / "memory.memsw.limit_in_bytes"
        with suppress(OSError):  # memory plus swap may not be below memory: lift it first
            _write(swap, "-1")
        _write(self._folders["memory"] / "memory.limit_in_bytes", limit)
        with suppress(OSError):  # kernels without swap accounting have no such file
            _write(swap, limit)
        if "pids" in self._folders:
            _write(self._folders["pids"] / "pids.max", str(pids))

    def entries(self) -> list[Path]:
        """The files into which a process writes ``0`` to join."""
        return [folder / "cgroup.procs" for folder in self._folders.values()]

    def members(self) -> list[int]:
        """The pids in the group, in whichever hierarchy they are."""
        return sorted({pid for folder in self._folders.values() for pid in _pids(folder)})

    def usage(self) -> Usage:
        """What the group has used up to now."""
        cpu, memory = self._folders["cpu"], self._folders["memory"]
        used = _number(self._folders["cpuacct"] / "cpuacct.usage") if "cpuacct" in self._folders else 0
        return Usage(
            cpu=used / 1e9,
            throttled=_field(cpu / "cpu.stat", "nr_throttled"),
            memory=_number(memory / "memory.usage_in_bytes"),
            tasks=len(self.members()),
            oom_kills=_field(memory / "memory.oom_control", "oom_kill"),
        )

    def path(self) -> str:
        """Relative to the caller's group in each hierarchy, which may differ between them."""
        return f"{self._parent}/{self._folders['cpu'].name}"

    async def freeze(self) -> None:
        """Have every member stand still."""
        if "freezer" not in self._folders:
            raise CannotRun("CannotPause", "the kernel offers no control group that freezes", lasting=True)
        state = self._folders["freezer"] / "freezer.state"

        def frozen() -> bool:
            # What was on its way into the kernel may need to be told again.
            _write(state, "FROZEN")
            return state.read_text().strip() == "FROZEN"

        await _until_frozen(frozen)

    async def thaw(self) -> None:
        """Have every member go on."""
        if "freezer" in self._folders:
            with suppress(FileNotFoundError):
                _write(self._folders["freezer"] / "freezer.state", "THAWED")

    async def kill(self) -> None:
        """Kill every member and wait until none is left."""
        await self.thaw()  # what stands still does not even die
        await _kill_until_gone(self.members)

    async def remove(self) -> None:
        """Remove the group in every hierarchy."""
        for folder in self._folders.values():
            await _remove(folder)


class GroupV2:
    """A group in version 2's one hierarchy."""

    def __init__(self, folder: Path, mount: Path) -> None:
        self._folder = folder
        self._mount = mount

    def create(self, *, cpu: float | None, memory: int | None, pids: int) -> None:
        """Make the group with its limits (see :class:`Group`)."""
        base = self._folder.parent
        base.mkdir(parents=True, exist_ok=True)
        available = set((base / "cgroup.controllers").read_text().split())
        wanted = [f"+{name}" for name in ("cpu", "memory", "pids") if name in available]
        if wanted:
            _write(base / "cgroup.subtree_control", " ".join(wanted))
        self._folder.mkdir(exist_ok=True)
        for name, value in {
            "cpu.max": f"{_quota(cpu) if cpu else 'max'} {_PERIOD}",
            "memory.max": str(memory) if memory else "max",
            "memory.swap.max": "0" if memory else "max",
            "memory.oom.group": "1",  # half a workload is of no use to anybody
            "pids.max": str(pids),
        }.items():
            if (self._folder / name).exists():
                _write(self._folder / name, value)

    def entries(self) -> list[Path]:
        """The file into which a process writes ``0`` to join."""
        return [self._folder / "cgroup.procs"]

    def members(self) -> list[int]:
        """The pids in the group."""
        return _pids(self._folder)

    def usage(self) -> Usage:
        """What the group has used up to now."""
        return Usage(
            cpu=_field(self._folder / "cpu.stat", "usage_usec") / 1e6,
            throttled=_field(self._folder / "cpu.stat", "nr_throttled"),
            memory=_number(self._folder / "memory.current"),
            tasks=len(self.members()),
            oom_kills=_field(self._folder / "memory.events", "oom_kill"),
        )

    def path(self) -> str:
        """Absolute, from the top of the hierarchy."""
        return f"/{self._folder.relative_to(self._mount)}"

    async def freeze(self) -> None:
        """Have every member stand still."""
        if not (self._folder / "cgroup.freeze").exists():
            raise CannotRun("CannotPause", "the kernel offers no control group that freezes", lasting=True)
        _write(self._folder / "cgroup.freeze", "1")
        await _until_frozen(lambda: _field(self._folder / "cgroup.events", "frozen") == 1)

    async def thaw(self) -> None:
        """Have every member go on."""
        with suppress(FileNotFoundError):
            _write(self._folder / "cgroup.freeze", "0")

    async def kill(self) -> None:
        """Kill every member at once where the kernel can, and wait until none is left."""
        with suppress(OSError):
            _write(self._folder / "cgroup.kill", "1")
        await _kill_until_gone(self.members)

    async def remove(self) -> None:
        """Remove the group."""
        await _remove(self._folder)


def _mounts() -> tuple[dict[str, tuple[Path, str]], Path | None]:
    """Version 1's ``{controller: (mount point, root)}`` and version 2's mount point."""
    controllers: dict[str, tuple[Path, str]] = {}
    unified: Path | None = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = [*after.split(), "", "", ""][:3]
        if kind == "cgroup2":
            unified = unified or Path(mount)
        elif kind == "cgroup":
            for name in options.split(","):
                controllers.setdefault(name, (Path(mount), root))
    return controllers, unified


def _own_groups() -> dict[str, str]:
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _below(mount: Path, root: str, own: str, parent: str) -> Path:
    if parent.startswith("/"):
        return mount / parent.lstrip("/")
    inside = own[len(root) :] if root != "/" and own.startswith(root) else own
    return mount / inside.lstrip("/") / parent


def _probe(base: Path) -> None:
    """Whether groups can be made below ``base``: by making one. Raises OSError with the file's name."""
    base.mkdir(parents=True, exist_ok=True)
    trial = base / f"probe-{os.getpid()}"
    trial.mkdir(exist_ok=True)
    trial.rmdir()
    with suppress(OSError):  # workloads of an earlier worker may be in it
        base.rmdir()


def _move_members(group: Path, leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)
    for pid in _pids(group):
        with suppress(ProcessLookupError):
            _write(leaf / "cgroup.procs", str(pid))


def _quota(cores: float) -> int:
    return max(_LEAST_QUOTA, round(cores * _PERIOD))


def _write(file: Path, text: str) -> None:
    # One write(2): control files take a whole command at a time and answer with errno.
    handle = os.open(file, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        os.close(handle)


def _pids(folder: Path) -> list[int]:
    found: list[int] = []
    for group in [folder, *_groups_below(folder)]:
        with suppress(OSError):
            found += [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return found


def _groups_below(folder: Path) -> list[Path]:
    return [Path(root) / name for root, names, _ in os.walk(folder, topdown=False) for name in names]


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _field(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


async def _until_frozen(frozen: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + _FROZEN_WITHIN
    while not frozen():
        if asyncio.get_running_loop().time() > deadline:
            raise CannotRun("CannotPause", "the kernel does not freeze it (a process is stuck in the kernel)")
        await asyncio.sleep(0.002)


async def _kill_until_gone(members: Callable[[], list[int]], seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while pids := members():
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if asyncio.get_running_loop().time() > deadline:
            raise CannotRun("CannotKill", f"processes {pids} outlive SIGKILL (stuck in the kernel)")
        await asyncio.sleep(0.002)


async def _remove(folder: Path) -> None:
    for _ in range(500):  # a dead member may be accounted for some milliseconds more
        try:
            for group in _groups_below(folder):
                group.rmdir()
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            await asyncio.sleep(0.005)
        else:
            return
