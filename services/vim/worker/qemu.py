"""Unikernels and virtual machines by QEMU, with or without the processor's help.

In comes a kernel, out comes a launch of QEMU with a console file, a control socket, forwarded ports
and a debug port through which a guest says how it ended. What is measured and what bites:
docs on unikernels; the exit codes are Unikraft's where the guest is one.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.vim.worker import kernel as kernels
from services.vim.worker.cpio import archive
from services.vim.worker.image import ImageStore, Kernel
from services.vim.worker.process import reachable
from services.vim.worker.runtime import Place, expand, identity_of, plain_exit
from services.vim.worker.shim import Identity, Launch, Proc
from services.vim.worker.state import Folder
from services.vim.worker.workload import MIB, CannotRun, Exit

_DEFAULT_MEMORY: Final = {"unikernel": 64, "vm": 256}
_LEAST_MEMORY: Final = 4
_GUEST: Final = "10.0.2.15"
_PROGRAMS: Final = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}
_CLEAN: Final = 83  # isa-debug-exit: (41 << 1) | 1, Unikraft's clean return
_CRASH: Final = 85
_ABORTED: Final = 134
_CONTROL_TIMEOUT: Final = 2.0


class QemuRuntime:
    """Runs ``{kernel, initrd?}``, ``{layout}`` or ``{image}``, with ``arguments``, for VMs also ``disk``.

    Args:
        name: ``unikernel`` or ``vm``.
        images: where kernels come from.
        program: QEMU for this machine, if it is not in the path.
    """

    def __init__(self, name: str, images: ImageStore, program: str | None = None) -> None:
        self.name = name
        self._images = images
        self._program = program or shutil.which(_PROGRAMS.get(platform.machine(), "qemu-system"))
        self.engine: str | None = _version(self._program)

    def unavailable(self) -> str | None:
        """Needs QEMU for the node's own machine."""
        return f"there is no QEMU for {platform.machine()} on this node" if self.engine is None else None

    async def prepare(self, place: Place) -> Launch:
        """The machine's folder: kernel and initial RAM disk under safe names, readable by its user only.

        Raises:
            CannotRun: ``RuntimeUnavailable``, ``ImageNotFound``, ``KernelNotBootable`` and others.
        """
        if self._program is None or self.engine is None:
            raise CannotRun(
                "RuntimeUnavailable",
                self.unavailable() or "",
                lasting=True,
                expected=_PROGRAMS.get(platform.machine(), "a machine that QEMU boots"),
            )
        identity = identity_of(place.workload, place.settings)
        found = await self._images.kernel(place.workload.image)
        machine = await asyncio.to_thread(kernels.machine_of, found.path)
        has_initrd = await asyncio.to_thread(self._fill, place, found, identity)
        command = [self._program, *_machine(place, machine), *_console_and_control(place), *_network(place)]
        command += ["-kernel", "kernel", *(["-initrd", "initrd"] if has_initrd else [])]
        command += [*_disk(place, identity), "-append", self._line(place, found)]
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
        for name in ("kernel", "initrd", "qmp.sock"):
            (folder / name).unlink(missing_ok=True)
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

    def _line(self, place: Place, found: Kernel) -> str:
        workload = place.workload
        ports = {"PORT": str(workload.ports[0].port)} if workload.ports else {}
        words = [str(word) for word in workload.image.get("arguments") or found.arguments]
        arguments = expand(words, {**workload.env, **ports})
        env = {**found.env, **workload.env}
        if self.name == "vm":
            return kernels.linux_line(env, arguments)
        return kernels.unikernel_line(workload.workload, env, arguments, unpack_initrd=bool(workload.files))

    def begun(self, place: Place) -> bool:
        """Once QEMU has opened its control socket, its machine runs."""
        return (place.folder.machine / "qmp.sock").exists()

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
        complaint = _complaint(place.folder.log)
        console = _printed(place)
        if place.acceleration == "kvm" and not console and code != 0:
            return Exit(
                code=code,
                reason="AccelerationFailed",
                message=f"KVM is of no use ({complaint or f'QEMU ended with {code}'}); emulating instead",
            )
        if complaint and "host forwarding rule" in complaint:
            return Exit(code=code, reason="PortInUse", message=complaint)
        if code == _ABORTED or (code == 1 and complaint):
            return Exit(code=code, reason="EngineFailed", message=complaint or "QEMU aborted")
        if code == 0 and b"Could not initialize the HWRNG" in console:
            return Exit(
                code=1,
                reason="GuestFailed",
                message="the guest needs RDSEED, which QEMU before 8.1.3 does not emulate",
            )
        if code == _CLEAN:
            return Exit(code=0)
        if code == _CRASH:
            return Exit(code=code, reason="GuestCrashed", message="the guest crashed; its console says where")
        if self.name == "unikernel" and code < 128 and code % 2 == 1:
            return Exit(code=(code - 1) // 2)
        return plain_exit(code)

    def log(self, folder: Folder) -> Path:
        """The guest's console."""
        return folder.console


def _machine(place: Place, machine: str) -> list[str]:
    workload = place.workload
    memory = max(
        _LEAST_MEMORY, workload.memory // MIB if workload.memory else _DEFAULT_MEMORY[workload.runtime]
    )
    processors = max(1, math.ceil(workload.cpu or 1)) if workload.runtime == "vm" else 1
    hardware = place.acceleration == "kvm"
    processor = "max"
    if hardware:
        processor = "host,+x2apic,-pmu" if machine == "x86_64" else "host"
    # On q35, Unikraft finds its network card in one slot only: pc it is.
    kind = "pc,usb=off,vmport=off,hpet=off,graphics=off" if machine == "x86_64" else "virt"
    return [
        "-name", f"guest={workload.workload},process=minicloud-{workload.workload}"[:160],
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", kind, "-accel", "kvm" if hardware else "tcg", "-cpu", processor,
        "-smp", str(processors), "-m", f"{memory}M",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *(["-device", "isa-debug-exit,iobase=0x501,iosize=2"] if machine == "x86_64" else []),
    ]  # fmt: skip


def _console_and_control(place: Place) -> list[str]:
    return [
        "-chardev", f"file,id=console,path={place.folder.console.name},append=on",
        "-serial", "chardev:console",
        "-qmp", "unix:qmp.sock,server=on,wait=off",
    ]  # fmt: skip


def _network(place: Place) -> list[str]:
    settings, workload = place.settings, place.workload
    forwards = [
        f"hostfwd=tcp:{settings.bind}:{place.ports[port.name]}-{_GUEST}:{port.port}"
        for port in workload.ports
    ]
    user = ["user", "id=net", f"restrict={'off' if settings.outbound else 'on'}", "ipv6=off", *forwards]
    return [
        "-netdev", ",".join(user),
        "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=",
    ]  # fmt: skip


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
    with suppress(OSError), place.folder.console.open("rb") as console:
        console.seek(place.log_start)
        return console.read(MIB)
    return b""


def _complaint(log: Path) -> str | None:
    """The last line in which QEMU complains."""
    try:
        lines = log.read_bytes()[-8192:].decode(errors="replace").splitlines()
    except OSError:
        return None
    said = [
        line for line in lines if line.startswith("qemu-system-") or "qemu-system-" in line.partition(":")[0]
    ]
    return said[-1].partition(":")[2].strip() if said else None


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
