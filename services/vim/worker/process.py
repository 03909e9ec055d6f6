"""Plain processes: a program that the node already has, with limits but without a wall.

In comes a command, out comes a launch in a working directory of its own, as the node's user for
workloads; the request's files lie in that directory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from services.vim.worker import shim
from services.vim.worker.runtime import (
    Place,
    environment,
    expand,
    freeze,
    identity_of,
    plain_exit,
    thaw,
    write_files,
)
from services.vim.worker.shim import Identity, Launch, Proc
from services.vim.worker.state import Folder
from services.vim.worker.workload import CannotRun, Exit


class ProcessRuntime:
    """Runs ``{command: [...], directory?}``."""

    name = "process"
    engine: str | None = None

    def unavailable(self) -> str | None:
        """Every node runs processes."""
        return None

    async def prepare(self, place: Place) -> Launch:
        """A working directory with the request's files, and the command if it can be found and read.

        Raises:
            CannotRun: ``CommandNotFound``, ``CommandNotExecutable``, ``DirectoryNotReadable``,
                ``RootNotAllowed``, ``NeedsRoot``.
        """
        workload, image = place.workload, place.workload.image
        identity = identity_of(workload, place.settings)
        command = [str(word) for word in image.get("command") or []]
        if not command:
            raise CannotRun(
                "ImageInvalid", "a process needs a command", lasting=True, expected="{command: [...]}"
            )
        env = environment(place)
        directory = image.get("directory")
        work = place.folder.work
        env.setdefault("HOME", directory or str(work))
        if directory is not None:
            _require_readable(Path(directory), identity)
        command = expand(command, env)
        if "/" not in command[0]:
            _require_program(command[0], env["PATH"], identity)
        elif directory is not None and not (Path(directory) / command[0]).is_file():
            raise _not_found(command[0])
        work.mkdir(mode=0o700, exist_ok=True)
        if identity.uid is not None and identity.gid is not None:
            os.chown(work, identity.uid, identity.gid)
        write_files(workload, work, identity)
        return Launch(
            command=tuple(command),
            env=env,
            place=work,
            directory=directory,
            identity=identity,
            groups=tuple(place.group.entries()) if place.group else (),
            address_space=workload.memory if place.group is None else None,
        )

    def begun(self, place: Place) -> bool:
        """Once the shell that drops its rights has become the program."""
        child = shim.child_of(place.run)
        return child is not None and shim.is_marked(child, place.instance)

    async def pause(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """The kernel freezes it."""
        await freeze(place)

    async def resume(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """The kernel lets it go on."""
        await thaw(place)

    async def ask_to_end(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """SIGTERM to its session."""
        child.signal_group(15)

    async def kill(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """SIGKILL to its session; what left it is found by the caller."""
        child.signal_group(9)

    async def clean(self, place: Place) -> None:
        """A process keeps nothing elsewhere."""

    def outcome(self, place: Place, code: int) -> Exit:  # noqa: ARG002
        """The shell's convention."""
        return plain_exit(code)

    def log(self, folder: Folder) -> Path:
        """Its standard output and error."""
        return folder.log


def _require_program(name: str, path: str, identity: Identity) -> None:
    """Raise unless whoever runs the workload may run some program of this name: root finds more than others."""
    found = [Path(folder) / name for folder in path.split(os.pathsep)]
    found = [program for program in found if program.is_file()]
    if not found:
        raise _not_found(name)
    for program in found:
        if reachable(program.resolve().parent, identity) and _allows(program.stat(), identity, 0o1):
            return
    raise CannotRun(
        "CommandNotExecutable",
        f"{found[0]} may not be run by {_who(identity)}, who runs the workload",
        lasting=True,
        expected="a program that this user may run",
    )


def _not_found(name: str) -> CannotRun:
    return CannotRun(
        "CommandNotFound", f"there is no program {name!r} on this node", expected="one that is in PATH"
    )


def _who(identity: Identity) -> str:
    return f"uid {os.geteuid() if identity.uid is None else identity.uid}"


def _require_readable(directory: Path, identity: Identity) -> None:
    """Raise unless whoever runs the workload may enter the directory and read it."""
    who = _who(identity)
    if not directory.is_dir():
        raise CannotRun("DirectoryNotFound", f"there is no directory {directory} on this node", lasting=True)
    for folder in [*reversed(directory.resolve().parents), directory]:
        needed = 0o5 if folder == directory else 0o1
        if not _allows(folder.stat(), identity, needed):
            raise CannotRun(
                "DirectoryNotReadable",
                f"{folder} may not be {'read' if needed & 4 else 'entered'} by {who}, who runs the workload",
                lasting=True,
                expected="a directory that this user may read",
            )


def reachable(folder: Path, identity: Identity) -> bool:
    """Whether whoever runs workloads may pass through every folder down to ``folder``."""
    return all(_allows(step.stat(), identity, 0o1) for step in [*folder.resolve().parents, folder])


def _allows(info: os.stat_result, identity: Identity, needed: int) -> bool:
    uid = os.geteuid() if identity.uid is None else identity.uid
    if uid == 0:
        return True
    groups = {identity.gid} if identity.gid is not None else {os.getegid(), *os.getgroups()}
    mode = stat.S_IMODE(info.st_mode)
    if info.st_uid == uid:
        return (mode >> 6) & needed == needed
    if info.st_gid in groups:
        return (mode >> 3) & needed == needed
    return mode & needed == needed
