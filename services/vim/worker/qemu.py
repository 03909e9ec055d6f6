"""Unikernels and virtual machines by QEMU, with or without the processor's help.

In comes a kernel, out comes a launch of QEMU with a console file, a control socket, forwarded ports
and a debug port through which a guest says how it ended. The words for QEMU are in ``machine``, those
for the kernel in ``kernel``, what an end means in ``ending``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.vim.worker import kernel as kernels
from services.vim.worker.cpio import archive
from services.vim.worker.ending import Left, ending
from services.vim.worker.image import ImageStore, Kernel
from services.vim.worker.machine import PROGRAMS, TRACE, Share, hardware, network, processor, shares
from services.vim.worker.process import reachable
from services.vim.worker.runtime import Place, expand, identity_of
from services.vim.worker.settings import EngineSettings
from services.vim.worker.shim import Identity, Launch, Proc
from services.vim.worker.state import Folder
from services.vim.worker.workload import MIB, CannotRun, Exit

_DEFAULT_MEMORY: Final = {"unikernel": 64, "vm": 256}
_CONTROL_TIMEOUT: Final = 2.0
_CONSOLE_READ: Final = 256 * 1024
_SPEAKS: Final = re.compile(r"[^ :]*qemu(-system-\w+)?: ")
_MOUNT: Final = re.compile(r"(?:/[A-Za-z0-9._-]+)+")


class QemuRuntime:
    """Runs ``{kernel, initrd?}``, ``{layout}`` or ``{image}``, with ``arguments``.

    A unikernel may mount ``folders`` of the node, a VM may have a ``disk``.

    Args:
        name: ``unikernel`` or ``vm``.
        images: where kernels come from.
        settings: what the node's owner decided.
    """

    def __init__(self, name: str, images: ImageStore, settings: EngineSettings) -> None:
        self.name = name
        self._images = images
        self._programs = _programs(settings)
        self.engine: str | None = _version(self._programs.get(platform.machine()))

    def unavailable(self) -> str | None:
        """Needs QEMU for the node's own machine."""
        return f"there is no QEMU for {platform.machine()} on this node" if self.engine is None else None

    async def prepare(self, place: Place) -> Launch:
        """The machine's folder: kernel and initial RAM disk under safe names, readable by its user only.

        Raises:
            CannotRun: ``RuntimeUnavailable``, ``ImageNotFound``, ``KernelNotBootable`` and others.
        """
        if self.engine is None:
            raise CannotRun(
                "RuntimeUnavailable",
                self.unavailable() or "",
                lasting=True,
                expected=PROGRAMS.get(platform.machine(), "a machine that QEMU boots"),
            )
        identity = identity_of(place.workload, place.settings)
        found = await self._images.kernel(place.workload.image, tuple(self._programs))
        machine = await asyncio.to_thread(kernels.machine_of, found.path, tuple(self._programs))
        folders = [
            _share(folder, place.settings, identity) for folder in place.workload.image.get("folders") or ()
        ]
        has_initrd = await asyncio.to_thread(self._fill, place, found, identity)
        accelerated = place.acceleration == "kvm" and machine == platform.machine()
        command = [self._programs[machine], *_board(place, machine), *TRACE]
        command += [
            *processor(machine, accelerated=accelerated),
            *_console_and_control(place),
            *_network(place),
        ]
        command += ["-kernel", "kernel", *(["-initrd", "initrd"] if has_initrd else [])]
        command += [*_disk(place, identity), *shares(folders), "-append"]
        command.append(self._line(place, found, machine, folders))
        return Launch(
            command=tuple(command),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "MINICLOUD_INSTANCE": place.instance},
            place=place.folder.machine,
            identity=_with_kvm(identity, place.acceleration),
            groups=tuple(place.group.entries()) if place.group else (),
        )

    def _fill(self, place: Place, found: Kernel, identity: Identity) -> bool:
        folder, workload = place.folder.machine, place.workload
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("kernel", "initrd", "qmp.sock", "qemu.log"):
            (folder / name).unlink(missing_ok=True)
        # What QEMU complained about in earlier runs says nothing of this one.
        _complained(place).write_text(
            str(place.folder.log.stat().st_size if place.folder.log.exists() else 0)
        )
        shutil.copyfile(found.path, folder / "kernel")
        initrd = found.initrd.read_bytes() if found.initrd else b""
        if workload.files:
            if initrd and self.name == "unikernel":
                raise CannotRun(
                    "ImageInvalid",
                    "files and an initrd exclude each other in a unikernel",
                    lasting=True,
                    expected="the files inside of the initrd",
                )
            initrd += archive(workload.files)  # Linux unpacks archives one after the other
        if initrd:
            (folder / "initrd").write_bytes(initrd)
        place.folder.console.touch()
        for path in (folder, *folder.iterdir()):
            if identity.uid is not None and identity.gid is not None:
                os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
        return bool(initrd)

    def _line(self, place: Place, found: Kernel, machine: str, folders: list[Share]) -> str:
        workload = place.workload
        ports = {"PORT": str(workload.ports[0].port)} if workload.ports else {}
        words = [str(word) for word in workload.image.get("arguments") or found.arguments]
        arguments = expand(words, {**workload.env, **ports})
        env = {**found.env, **workload.env}
        if self.name == "vm":
            return kernels.linux_line(env, arguments, machine)
        unpack = bool(workload.files) or (found.initrd is not None and not found.mounts_initrd)
        return kernels.unikernel_line(
            workload.workload, env, arguments, unpack_initrd=unpack, folders=folders
        )

    def begun(self, place: Place) -> bool:
        """Once QEMU has opened its control socket, its machine runs."""
        return (place.folder.machine / "qmp.sock").exists()

    async def pause(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """QEMU stops its machine: the guest's processors, and its clock with them.

        Raises:
            CannotRun: ``CannotPause``.
        """
        try:
            await _control(place.folder.machine, "stop")
        except (OSError, TimeoutError, ValueError) as error:
            raise CannotRun("CannotPause", f"QEMU does not stop its machine: {error!r}") from error

    async def resume(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """QEMU lets its machine go on."""
        try:
            await _control(place.folder.machine, "cont")
        except (OSError, TimeoutError, ValueError) as error:
            raise CannotRun("CannotResume", f"QEMU does not let its machine go on: {error!r}") from error

    async def ask_to_end(self, place: Place, child: Proc) -> None:
        """A VM gets the power button; a unikernel, which has no such thing, is switched off."""
        try:
            await _control(place.folder.machine, "system_powerdown" if self.name == "vm" else "quit")
        except (OSError, TimeoutError, ValueError):
            child.signal(15)

    async def kill(self, place: Place, child: Proc) -> None:  # noqa: ARG002
        """SIGKILL to QEMU."""
        child.signal(9)

    async def clean(self, place: Place) -> None:
        """QEMU keeps nothing elsewhere."""

    def outcome(self, place: Place, code: int) -> Exit:
        """What the debug port, the console and QEMU's complaints say of the end."""
        left = Left(code, _printed(place), _complaint(place), _own_log(place))
        return ending(left, unikernel=self.name == "unikernel", accelerated=place.acceleration == "kvm")

    def log(self, folder: Folder) -> Path:
        """The guest's console."""
        return folder.console


def _programs(settings: EngineSettings) -> dict[str, str]:
    """QEMU by the machine that it makes: this one first, others only where the settings want them."""
    own = PROGRAMS.get(platform.machine(), "qemu-system")
    found = {platform.machine(): settings.qemu or shutil.which(own)}
    if settings.foreign_machines:
        beside = [str(Path(settings.qemu).parent)] if settings.qemu else []
        path = os.pathsep.join([*beside, os.environ.get("PATH", os.defpath)])
        found |= {machine: shutil.which(name, path=path) for machine, name in PROGRAMS.items() if name != own}
    return {machine: program for machine, program in found.items() if program is not None}


def _board(place: Place, machine: str) -> list[str]:
    workload = place.workload
    memory = workload.memory // MIB if workload.memory else _DEFAULT_MEMORY[workload.runtime]
    processors = max(1, math.ceil(workload.cpu or 1)) if workload.runtime == "vm" else 1
    return hardware(workload.workload, machine, memory, processors)


def _console_and_control(place: Place) -> list[str]:
    return [
        "-chardev", f"file,id=console,path={place.folder.console.name},append=on",
        "-serial", "chardev:console",
        "-qmp", "unix:qmp.sock,server=on,wait=off",
    ]  # fmt: skip


def _network(place: Place) -> list[str]:
    settings, workload = place.settings, place.workload
    forwards = [(settings.bind, place.ports[port.name], port.port) for port in workload.ports]
    return network(forwards, outbound=settings.outbound)


def _share(document: dict[str, object], settings: EngineSettings, identity: Identity) -> Share:
    """A folder that the unikernel mounts, if the node's owner lets it.

    Raises:
        CannotRun: ``FolderNotAllowed``, ``FolderNotReadable`` or ``ImageNotFound``.
    """
    path, mount = Path(str(document["folder"])).resolve(), str(document["mount"])
    writes = not document.get("read_only", True)
    offered = settings.writable_folders if writes else (*settings.folders, *settings.writable_folders)
    if not any(path.is_relative_to(Path(folder).resolve()) for folder in offered):
        raise CannotRun(
            "FolderNotAllowed",
            f"this node does not let workloads {'write to' if writes else 'mount'} {path}",
            lasting=True,
            expected=f"a folder in {', '.join(offered)}"
            if offered
            else "a node whose settings offer folders",
        )
    if not _MOUNT.fullmatch(mount) or {".", ".."} & set(mount.split("/")) or not str(path).isprintable():
        raise CannotRun("InvalidFile", f"{mount[:80]!r} cannot be mounted to", lasting=True, expected="/data")
    if not path.is_dir():
        raise CannotRun("ImageNotFound", f"there is no folder {path} on this node")
    if not reachable(path, identity):
        raise CannotRun(
            "FolderNotReadable", f"uid {identity.uid}, which runs the unikernel, may not enter {path}"
        )
    return Share(str(path), mount, read_only=not writes)


def _disk(place: Place, identity: Identity) -> list[str]:
    given = place.workload.image.get("disk")
    if given is None:
        return []
    path = Path(str(given)).resolve()
    if not path.is_file():
        raise CannotRun("ImageNotFound", f"there is no file {path} on this node")
    info = path.stat()
    uid = os.geteuid() if identity.uid is None else identity.uid
    mine = info.st_uid == uid
    if not reachable(path.parent, identity) or not info.st_mode & (stat.S_IRUSR if mine else stat.S_IROTH):
        raise CannotRun("DiskNotReadable", f"disk {path} may not be read by uid {uid}, which runs the VM")
    read_only = "off" if info.st_mode & (stat.S_IWUSR if mine else stat.S_IWOTH) else "on"
    with path.open("rb") as data:
        kind = "qcow2" if data.read(4) == b"QFI\xfb" else "raw"
    escaped = str(path).replace(",", ",,")
    return ["-drive", f"file={escaped},if=virtio,format={kind},read-only={read_only}"]


def _with_kvm(identity: Identity, acceleration: str | None) -> Identity:
    if acceleration != "kvm" or identity.uid is None:
        return identity
    with suppress(OSError):
        group = Path("/dev/kvm").stat().st_gid
        if group != 0:
            return replace(identity, groups=(group,))
    return identity


async def _control(folder: Path, command: str) -> None:
    """Give QEMU one command over its control socket (QMP)."""
    # The socket's full name may be longer than the 107 bytes that an address holds.
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        async with asyncio.timeout(_CONTROL_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/qmp.sock")
            try:
                await reader.readline()
                for name in ("qmp_capabilities", command):
                    writer.write(json.dumps({"execute": name}).encode() + b"\n")
                    await writer.drain()
                    await reader.readline()
            finally:
                writer.close()
    finally:
        os.close(handle)


def _printed(place: Place) -> bytes:
    """The beginning and the end of what the guest printed."""
    with suppress(OSError), place.folder.console.open("rb") as console:
        console.seek(place.log_start)
        first = console.read(_CONSOLE_READ)
        rest = console.seek(0, os.SEEK_END) - console.tell()
        console.seek(max(place.log_start + len(first), console.tell() + rest - _CONSOLE_READ))
        return first + console.read(_CONSOLE_READ)
    return b""


def _complained(place: Place) -> Path:
    return place.run / "complained"


def _complaint(place: Place) -> str | None:
    """The last line in which QEMU complains in this run."""
    try:
        start = int(_complained(place).read_text())
        data = place.folder.log.read_bytes()
    except (OSError, ValueError):
        return None
    lines = data[start if start <= len(data) else 0 :][-8192:].decode(errors="replace").splitlines()
    said = [line for line in lines if _SPEAKS.match(line) and ": warning: " not in line]
    return said[-1].partition(":")[2].strip() if said else None


def _own_log(place: Place) -> str:
    with suppress(OSError):
        return (place.folder.machine / "qemu.log").read_bytes()[:_CONSOLE_READ].decode(errors="replace")
    return ""


def _version(program: str | None) -> str | None:
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    words = answer.stdout.split()
    return f"qemu {words[3]}" if len(words) > 3 else "qemu"
