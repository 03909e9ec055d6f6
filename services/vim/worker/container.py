"""Containers by ``runc``, with a bundle that is written here.

In comes an image from a folder, a layout or a registry, out comes a launch of ``runc run`` in the
foreground under the shim. Its root is read-only and shared by all containers of the image; it needs
root on the node, since only root may make namespaces everywhere that this runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.vim.worker.bundle import ContainerPlan, configuration
from services.vim.worker.image import ImageStore, RootFilesystem
from services.vim.worker.oci import invalid
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

_SCRATCH: Final = ("/tmp", "/run", "/var/tmp")  # noqa: S108 - inside the container
_NETWORK_FILES: Final = ("etc/resolv.conf", "etc/hosts")
_RUNC_FAILED: Final = 1


class ContainerRuntime:
    """Runs ``{rootfs}``, ``{layout}`` or ``{image}``, with an optional ``command``.

    Args:
        images: where root filesystems come from.
        state: the folder in which runc keeps its state.
        program: runc, if it is not in the path.
    """

    name = "container"

    def __init__(self, images: ImageStore, state: Path, program: str | None = None) -> None:
        self._images = images
        self._state = state
        self._runc = program or shutil.which("runc") or "/usr/sbin/runc"
        self.engine: str | None = _version(self._runc)

    def unavailable(self) -> str | None:
        """Needs root, and runc."""
        if os.geteuid() != 0:
            return f"containers need root and this worker runs as uid {os.geteuid()}"
        return "there is no runc on this node" if self.engine is None else None

    async def prepare(self, place: Place) -> Launch:
        """The bundle: configuration, root filesystem, the request's files.

        Raises:
            CannotRun: ``NeedsRoot``, ``RuntimeUnavailable``, ``ImageNotFound`` and what else is wrong.
        """
        if (why := self.unavailable()) is not None:
            raise CannotRun(
                "NeedsRoot" if os.geteuid() != 0 else "RuntimeUnavailable",
                why,
                lasting=True,
                expected="a worker that runs as root with runc 1.1 or newer, or another runtime",
            )
        identity = identity_of(place.workload, place.settings)
        found = await self._images.root_filesystem(place.workload.image)
        bundle = place.folder.bundle
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(mode=0o700)
        plan = _plan(place, found, identity)
        if place.workload.user == "root" or place.workload.files:
            plan = await asyncio.to_thread(_own_root, place, plan, identity)
        (bundle / "config.json").write_text(json.dumps(configuration(plan)))
        await self.clean(place)  # what a killed run may have left under this name
        return Launch(
            command=(
                self._runc,
                "--root",
                str(self._state),
                "run",
                "--keep",
                "--bundle",
                str(bundle),
                _id(place),
            ),
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            place=bundle,
        )

    def begun(self, place: Place) -> bool:
        """Once runc's own init has become the container's command."""
        first = self._first(place)
        try:
            return first is not None and not Path(f"/proc/{first}/comm").read_text().startswith("runc:[")
        except OSError:
            return False

    async def pause(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """The kernel freezes it."""
        await freeze(place)

    async def resume(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """The kernel lets it go on."""
        await thaw(place)

    async def ask_to_end(self, place: Place, child: Proc) -> None:
        """SIGTERM to the container's first process; runc in the foreground passes it on."""
        # The first process of a pid namespace gets only signals that it handles: a shell that does not
        # would sit out the grace. Such a one is killed at once.
        first = self._first(place)
        if first is not None and not _handles(first, signal.SIGTERM):
            await self.kill(place, child)
        else:
            child.signal(signal.SIGTERM)

    async def kill(self, place: Place, child: Proc) -> None:
        """SIGKILL to everything in the container."""
        await self._call("kill", "--all", _id(place), "KILL")
        if self._first(place) is None:
            child.signal(signal.SIGKILL)

    async def clean(self, place: Place) -> None:
        """Remove what runc keeps of the container."""
        if (self._state / _id(place)).exists():
            await self._call("delete", "--force", _id(place))

    def outcome(self, place: Place, code: int) -> Exit:
        """The container's exit code; runc's own failures are told apart by what it prints."""
        if code == _RUNC_FAILED and (said := _complaint(place.folder.log)):
            missing = "executable file not found" in said or "no such file or directory" in said
            return Exit(code=code, reason="CommandNotFound" if missing else "ContainerFailed", message=said)
        return plain_exit(code)

    def log(self, folder: Folder) -> Path:
        """The container's standard output and error."""
        return folder.log

    def _first(self, place: Place) -> int | None:
        """The container's first process, from what runc wrote; asking runc itself takes 20 ms."""
        try:
            document = json.loads((self._state / _id(place) / "state.json").read_bytes())
            found = Proc(int(document["init_process_pid"]), int(document["init_process_start"]))
        except (OSError, ValueError, KeyError):
            return None
        return found.pid if found.alive else None

    async def _call(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            self._runc, "--root", str(self._state), *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()


def _plan(place: Place, found: RootFilesystem, identity: Identity) -> ContainerPlan:
    workload, config = place.workload, found.config
    given = workload.image.get("command")
    command = [str(word) for word in given or [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]]
    if not command:
        raise CannotRun(
            "ImageInvalid",
            "neither the request nor the image names a command",
            lasting=True,
            expected="command: [...]",
        )
    image_env = dict(str(item).split("=", 1) for item in config.get("Env") or [] if "=" in str(item))
    directory = str(config.get("WorkingDir") or "/")
    env = {**image_env, **environment(place)}
    if "PATH" not in workload.env and "PATH" in image_env:
        env["PATH"] = image_env["PATH"]
    uid, gid = _user(found, identity)
    env.setdefault("HOME", "/root" if uid == 0 else "/tmp")  # noqa: S108 - inside the container
    volumes = tuple(str(path) for path in config.get("Volumes") or {} if str(path).startswith("/"))
    if any(".." in path.split("/") for path in volumes) or not directory.startswith("/"):
        raise invalid("a volume or the working directory of the image is no absolute path")
    return ContainerPlan(
        hostname=workload.workload,
        root=found.path,
        command=tuple(expand(command, env)),
        env=env,
        directory=directory,
        uid=uid,
        gid=gid,
        groups_path=place.group.path() if place.group else None,
        binds={f"/{name}": Path(f"/{name}") for name in _NETWORK_FILES if _bindable(found.path, name)},
        scratch=tuple(dict.fromkeys((*_SCRATCH, *volumes))),
    )


def _bindable(root: Path, name: str) -> bool:
    """Whether the node's file can be shown in place of the image's: it uses the node's network."""
    inside = root / name
    return (
        inside.is_file()
        and not inside.is_symlink()
        and not inside.parent.is_symlink()
        and Path(f"/{name}").is_file()
    )


def _user(found: RootFilesystem, identity: Identity) -> tuple[int, int]:
    """The image's own user where that is not root, else the node's for workloads; root if it was allowed."""
    if identity.uid is None or identity.gid is None:
        return 0, 0
    user, _, group = str(found.config.get("User") or "").partition(":")
    uid = _number_of(user, found.path / "etc/passwd")
    gid = _number_of(group, found.path / "etc/group")
    if not uid:
        return identity.uid, identity.gid
    return uid, gid or identity.gid


def _number_of(name: str, table: Path) -> int | None:
    if name.isdigit():
        return int(name) if int(name) < 2**31 else None
    if not name or table.is_symlink() or not table.is_file():
        return None
    lines = (line.split(":") for line in table.read_text(errors="replace").splitlines())
    return next(
        (int(line[2]) for line in lines if len(line) > 2 and line[0] == name and line[2].isdigit()), None
    )


def _own_root(place: Place, plan: ContainerPlan, identity: Identity) -> ContainerPlan:
    """The container's own copy of the root, for one that gets files or may write.

    Files that are not written are links to the shared ones where the file system allows; a container
    whose root is writable gets copies of all, since a link would let it change its neighbours.
    """
    root, writable = place.folder.bundle / "rootfs", place.workload.user == "root"
    how = _copy if writable else _link
    try:
        shutil.copytree(plan.root, root, symlinks=True, copy_function=how)
        _own_as(plan.root, root)
    except (OSError, shutil.Error) as error:
        raise CannotRun("CannotUnpack", f"the root filesystem cannot be copied: {error}") from error
    write_files(place.workload, root, Identity(plan.uid, plan.gid) if identity.uid is not None else identity)
    return replace(plan, root=root, writable=writable)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        _copy(source, target)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    info = os.lstat(source)
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)


def _own_as(source: Path, target: Path) -> None:
    """Give the folders of ``target`` the owners of those in ``source``; copytree keeps only modes."""
    for folder, _, _ in os.walk(source):
        info = os.lstat(folder)
        os.chown(target / Path(folder).relative_to(source), info.st_uid, info.st_gid, follow_symlinks=False)


def _id(place: Place) -> str:
    return f"minicloud-{place.workload.workload}"


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (SigCgt in proc_pid_status(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (number - 1) & 1)


def _complaint(log: Path) -> str | None:
    """What runc said, if the last line of the log is its own."""
    try:
        last = log.read_bytes()[-4096:].decode(errors="replace").splitlines()[-1:]
    except OSError:
        return None
    said = last[0] if last else ""
    if "level=error" in said and "msg=" in said:
        return said.partition("msg=")[2].strip('"').replace('\\"', "'")
    return None


def _version(runc: str) -> str | None:
    try:
        answer = subprocess.run([runc, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    words = answer.stdout.split()
    return f"runc {words[2]}" if len(words) > 2 else "runc"
