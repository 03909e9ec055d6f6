"""Plain processes: a program that the node already has, with limits but without a wall.

In comes a command, out comes a launch in a working directory of its own, as the node's user for
workloads; the request's files lie in that directory.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from services.vim.worker import shim
from services.vim.worker.runtime import Place, environment, expand, identity_of, plain_exit, write_files
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
            CannotRun: ``CommandNotFound``, ``DirectoryNotReadable``, ``RootNotAllowed``, ``NeedsRoot``.
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
        program = shutil.which(command[0], path=env["PATH"])
        if "/" in command[0]:
            program = str(Path(directory or work) / command[0])
        if program is None or ("/" in command[0] and directory is not None and not Path(program).is_file()):
            raise CannotRun(
                "CommandNotFound",
                f"there is no program {command[0]!r} on this node",
                expected="one that is in PATH",
            )
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


def _require_readable(directory: Path, identity: Identity) -> None:
    """Raise unless whoever runs the workload may enter the directory and read it."""
    who = f"uid {os.geteuid() if identity.uid is None else identity.uid}"
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
