"""What the four runtimes share: one small port, and what they are given to work in.

A runtime turns a workload into something the shim can start, asks it to end, and says what its exit
code means. Starting, adopting after a restart and watching are the same for all and live elsewhere.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from services.vim.worker import shim
from services.vim.worker.cgroup import Group
from services.vim.worker.settings import EngineSettings
from services.vim.worker.shim import MARKER, Identity, Launch, Proc
from services.vim.worker.state import Folder
from services.vim.worker.workload import MIB, CannotRun, Exit, Workload

_REFERENCE: Final = re.compile(r"\$(\$\([A-Za-z_][A-Za-z0-9_]*\)|\(([A-Za-z_][A-Za-z0-9_]*)\))")
#: QEMU's own memory beside the guest's: 59 MB at 16 MiB, 91 MB at 256 MiB; emulating Linux, 80 MB at 128 MiB.
MACHINE_OVERHEAD: Final = {"unikernel": 64 * MIB, "vm": 96 * MIB}
_SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a workload happens: its files, ports, limits and the node's settings."""

    workload: Workload
    folder: Folder
    node: str
    run: Path
    number: int
    ports: dict[str, int]
    group: Group | None
    settings: EngineSettings
    acceleration: str | None = None
    log_start: int = 0  # bytes of output that earlier runs left

    @property
    def instance(self) -> str:
        """This run, unlike any other on this machine, also under another worker."""
        return f"{self.node}/{self.workload.workload}/{self.workload.generation}/{self.number}"


class Runtime(Protocol):
    """One way to run a workload."""

    name: str
    engine: str | None

    def unavailable(self) -> str | None:
        """Why this node cannot offer it; None if it can."""

    async def prepare(self, place: Place) -> Launch:
        """Everything up to the start: image, files, configuration.

        Raises:
            CannotRun: with the reason that will be published.
        """

    def begun(self, place: Place) -> bool:
        """Whether the workload's own code runs, and not still what prepares it."""

    async def pause(self, place: Place, child: Proc) -> None:
        """Have it stand still, with its memory; returns once it does. Done twice, it does no harm.

        Raises:
            CannotRun: ``CannotPause``.
        """

    async def resume(self, place: Place, child: Proc) -> None:
        """Have it go on. Done twice, it does no harm."""

    async def ask_to_end(self, place: Place, child: Proc) -> None:
        """Ask the workload to end by itself; the caller waits, then kills."""

    async def kill(self, place: Place, child: Proc) -> None:
        """End it now."""

    async def clean(self, place: Place) -> None:
        """Remove what the runtime keeps outside of the workload's folder. Done twice, it does no harm."""

    def outcome(self, place: Place, code: int) -> Exit:
        """What the shim's exit code says of the workload."""

    def log(self, folder: Folder) -> Path:
        """The file with what the workload printed."""


async def freeze(place: Place) -> None:
    """Have every process of a run stand still: by the kernel, or by a signal that none can refuse.

    Raises:
        CannotRun: ``CannotPause``.
    """
    if place.group is not None:
        await place.group.freeze()
    else:
        shim.signal_marked(place.instance, signal.SIGSTOP)


async def thaw(place: Place) -> None:
    """Have every process of a run go on."""
    if place.group is not None:
        await place.group.thaw()
    else:
        shim.signal_marked(place.instance, signal.SIGCONT)


def limit_of(workload: Workload) -> int | None:
    """The kernel's memory limit in bytes: what was asked for and what the runtime takes on top of it."""
    if workload.memory is None:
        return None
    return workload.memory + (workload.memory_overhead or MACHINE_OVERHEAD.get(workload.runtime, 0))


def identity_of(workload: Workload, settings: EngineSettings) -> Identity:
    """Who a workload runs as: the worker's own user, or the node's if the worker is root.

    Root only if both the request and the node allow it.

    Raises:
        CannotRun: ``RootNotAllowed`` or ``NeedsRoot``.
    """
    if workload.user == "root":
        if not settings.allow_root:
            raise CannotRun(
                "RootNotAllowed",
                "the request asks for user root and this node's settings do not allow it",
                lasting=True,
                expected="no user, or allow_root on the node",
            )
        if os.geteuid() != 0:
            raise CannotRun(
                "NeedsRoot",
                f"user root is asked for and this worker runs as uid {os.geteuid()}",
                lasting=True,
            )
        return Identity()
    if workload.user is not None:
        raise CannotRun(
            "UnknownUser", f"user {workload.user!r} is not known", lasting=True, expected="root or none"
        )
    return Identity(settings.uid, settings.gid) if os.geteuid() == 0 else Identity()


def environment(place: Place) -> dict[str, str]:
    """What a process or container finds in its environment.

    ``HOST`` and ``PORT`` (the first port) or ``PORT_<NAME>`` say where to listen; the request's own
    variables win over ``PATH``, ``HOME`` and ``LANG``.
    """
    workload = place.workload
    ports = {f"PORT_{name.upper().replace('-', '_')}": str(number) for name, number in place.ports.items()}
    first = {"PORT": str(place.ports[workload.ports[0].name])} if workload.ports else {}
    return {
        "PATH": _SEARCH,
        "LANG": "C.UTF-8",
        **workload.env,
        "HOST": place.settings.bind,
        **ports,
        **first,
        "MINICLOUD_WORKLOAD": workload.workload,
        "MINICLOUD_DEPLOYMENT": workload.deployment,
        "MINICLOUD_REPLICA": str(workload.replica),
        MARKER: place.instance,
    }


def expand(words: list[str], env: dict[str, str]) -> list[str]:
    """``$(NAME)`` becomes the variable's value, ``$$(NAME)`` stays ``$(NAME)``; as in Kubernetes."""

    def value(match: re.Match[str]) -> str:
        if match[1].startswith("$"):
            return match[1]
        return env.get(match[2], match[0])

    return [_REFERENCE.sub(value, word) for word in words]


def write_files(workload: Workload, root: Path, identity: Identity) -> None:
    """Write the request's files below ``root``, owned by whoever runs the workload.

    A workload owns ``root`` and may have put links into it during an earlier run: each step is taken
    without following them.
    """
    for file in workload.files:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            *parents, name = file.relative.split("/")
            for parent in parents:
                folder = _descend(folder, parent, identity)
            _write_at(folder, name, file.content, file.mode, identity)
        except OSError as error:
            raise CannotRun("InvalidFile", f"file {file.path} cannot be written: {error.strerror}") from error
        finally:
            os.close(folder)


def _descend(folder: int, name: str, identity: Identity) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
        made = True
    except FileExistsError:
        made = False
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    if made and identity.uid is not None and identity.gid is not None:
        os.fchown(below, identity.uid, identity.gid)
    os.close(folder)
    return below


def _write_at(folder: int, name: str, content: str, mode: int, identity: Identity) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with os.fdopen(handle, "w") as output:
        output.write(content)
        if identity.uid is not None and identity.gid is not None:
            os.fchown(handle, identity.uid, identity.gid)
        os.fchmod(handle, mode)


def plain_exit(code: int) -> Exit:
    """A shell's exit code: above 128 a signal ended it."""
    return Exit(code=code, signal=code - 128) if 128 < code < 128 + 65 else Exit(code=code)
