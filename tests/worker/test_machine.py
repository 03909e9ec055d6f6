"""Unikernels and VMs under a real QEMU: command line, console, exit codes, ports, ends."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vim.worker.kernel import linux_line, machine_of, unikernel_line
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import CannotRun, File, Health, Port, Workload
from tests.parts.busybox import Busybox
from tests.parts.linux import LinuxKernel
from tests.parts.qemu import Qemu
from tests.worker.conftest import Room, workload

EXAMPLE = Path(__file__).parents[2] / "examples/hello-unikernel"


@pytest.fixture
def settings(qemu: Qemu) -> EngineSettings:
    return EngineSettings(stop_grace=3.0, backoff=0.02, qemu=str(qemu.obtain()))


def unikernel(kernel: Path, *arguments: str, **fields: Any) -> Workload:
    image = {"kernel": str(kernel), "arguments": list(arguments)}
    return workload("unikernel", image, memory=32 << 20, **fields)


async def test_it_gets_its_environment_and_arguments(room: Room, guest: Path) -> None:
    made = unikernel(
        guest, "a b", "$(WHO)", "stay", env={"WHO": "me", "SAY": 'x "y"'}, health=Health(console="stay")
    )
    up = await room.run(made)
    assert up["engine"].startswith("qemu ")
    line = next(line for line in room.engine.logs("job-0") if "guest: " in line)
    assert line.endswith(r'env.vars=[ "WHO=me" "SAY=x \"y\"" ] -- "a b" me stay')


@pytest.mark.parametrize(
    ("word", "state", "reason", "code"),
    [
        ("clean", "completed", "Completed", 0),
        ("three", "failed", "ExitedWithError", 3),
        ("crash", "failed", "GuestCrashed", 85),
    ],
)
async def test_its_exit_code_is_understood(
    room: Room, guest: Path, word: str, state: str, reason: str, code: int
) -> None:
    end = await room.run(unikernel(guest, word, restart="never"), state)
    assert (end["reason"], end["exit"]["code"]) == (reason, code)


async def test_a_stop_leaves_nothing(room: Room, guest: Path) -> None:
    up = await room.run(
        unikernel(guest, "stay", ports=(Port("http", 8080),), health=Health(console="guest:"))
    )
    await room.engine.remove("job-0")
    assert room.seen[-1]["exit"] == {"code": 0, "signal": None, "oom": False}
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", up["endpoints"][0]["port"]))


async def test_a_port_that_accepts_is_not_yet_a_guest_that_answers(
    tmp_path: Path, guest: Path, settings: EngineSettings
) -> None:
    from dataclasses import replace

    from services.vim.worker.engine import Engine

    engine = Engine(tmp_path / "data", replace(settings, start_timeout=1.0))
    room = Room(engine, tmp_path / "data")
    engine.listen(room.hear)
    async with engine:
        engine.apply(unikernel(guest, "stay", ports=(Port("http", 8080),), health=Health(http="/")))
        failed = await room.until(lambda seen: seen["restarts"] == 1)
        assert failed["reason"] == "HealthCheckFailed"
        assert "running" not in [seen["state"] for seen in room.seen]
        await engine.remove("job-0")


async def test_acceleration_that_does_not_work_falls_back_to_emulation(room: Room, guest: Path) -> None:
    up = await room.run(unikernel(guest, "stay", acceleration="kvm", health=Health(console="guest:")))
    if up["acceleration"] == "kvm":
        return  # a machine where it does work
    reasons = [seen["reason"] for seen in room.seen]
    assert "AccelerationFailed" in reasons
    assert up["acceleration"] == "tcg"
    assert up["restarts"] == 0


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"#!/bin/sh\n", "no kernel"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(100), "Firecracker"),
        (b"\x7fELF\x01\x01\x01" + bytes(11) + b"\x03\x00" + bytes(100), "multiboot"),
        (bytes(56) + b"ARM\x64" + bytes(100), "aarch64"),
    ],
)
async def test_what_is_no_kernel_is_refused(room: Room, tmp_path: Path, content: bytes, word: str) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(content)
    refused = await room.run(unikernel(kernel), "failed")
    assert refused["reason"] in ("KernelNotBootable", "WrongArchitecture")
    assert word in refused["message"]


def test_command_lines_carry_no_control_characters(guest: Path) -> None:
    assert machine_of(guest) == "x86_64"
    with pytest.raises(CannotRun):
        unikernel_line("n", {"A": "x\ny"}, [], unpack_initrd=False)
    with pytest.raises(CannotRun):
        linux_line({}, ["a\tb"])
    with pytest.raises(CannotRun):
        linux_line({"A": '"'}, [])


async def test_a_vm_is_started_with_a_linux_command_line(room: Room, guest: Path) -> None:
    image = {"kernel": str(guest), "arguments": ["quiet", "stay"]}
    made = workload("vm", image, memory=64 << 20, env={"A": "b c"}, health=Health(console="stay"))
    await room.run(made)
    line = next(line for line in room.engine.logs("job-0") if "guest: " in line)
    assert line.endswith('console=ttyS0 panic=-1 A="b c" quiet stay')


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the example unikernel is not in this checkout")
async def test_the_example_serves(room: Room, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "hello")
    await asyncio.to_thread(
        subprocess.run, ["make", "-C", str(tmp_path / "hello")], check=True, capture_output=True
    )
    made = unikernel(
        tmp_path / "hello/hello.elf", ports=(Port("http", 8080),), env={"GREETING": "good morning"},
        health=Health(http="/"), files=(File("/x", "y"),),
    )  # fmt: skip
    up = await room.run(made)
    async with httpx.AsyncClient() as client:
        assert "good morning" in (await client.get(up["endpoints"][0]["url"])).text


@pytest.mark.slow  # Linux, emulated, takes its seconds
async def test_a_linux_vm_serves_within_its_limit(
    room: Room,
    part: Callable[[LinuxKernel], LinuxKernel],
    busybox: Busybox,
    tmp_path: Path,
) -> None:
    linux = part(LinuxKernel())
    disk = tmp_path / "ram-disk"
    disk.write_bytes(linux.ram_disk(Path(busybox.obtain()), "hello from Linux\n"))
    image = {"kernel": str(linux.obtain()), "initrd": str(disk)}
    made = workload(
        "vm", image, memory=128 << 20, ports=(Port("http", 8080),), health=Health(http="/", timeout=5)
    )
    room.engine.apply(made)
    up = await room.until(lambda seen: seen["state"] == "running" or seen["restarts"] > 0, seconds=120)
    assert up["restarts"] == 0, up
    async with httpx.AsyncClient() as client:
        assert (await client.get(up["endpoints"][0]["url"])).text == "hello from Linux\n"
