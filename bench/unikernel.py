"""A unikernel beside a container and a Linux VM that serve the same: time to the first answer, and memory.

All three are run by a node's worker, as it runs any workload, on this machine: the clock runs from the desired
level until the answer to an HTTP request is read. Memory is what the processes of the workload take (PSS) once
it serves, the guest's and its machine's together. What has no working KVM is emulated, which the table says.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench.figures import WrongAnswer, check, memory, say, table
from services.charagent import kvm
from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import MIB, Health, Port, Workload
from tests.parts.busybox import Busybox
from tests.parts.linux import LinuxKernel
from tests.parts.part import PartMissing
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc
from tests.worker.conftest import carrying

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
MARKER: Final = "MINICLOUD_INSTANCE"
_DEADLINE: Final = 60.0
Contenders = dict[str, tuple[str, dict[str, Any], int]]


def main(runs: int = 7) -> dict[str, float]:
    """Measure, print a table; the figures by name."""
    accelerated, why = kvm.available()
    with tempfile.TemporaryDirectory(prefix="minicloud-unikernel-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        contenders = _contenders(folder)
        found = asyncio.run(_all(folder, contenders, runs, "kvm" if accelerated else "tcg"))
    base = found["unikernel"]
    print(f"guests are {'run by KVM' if accelerated else f'emulated ({why})'}; median of {runs}\n")
    table(
        ["", "guest MiB", "ms to the answer", "this / unikernel", "PSS MB", "this / unikernel"],
        [
            [
                name, f"{contenders[name][2] // MIB or '-'}", f"{seconds * 1e3:.0f}", f"{seconds / base[0]:.2f}",
                f"{size:.1f}", f"{size / base[1]:.2f}",
            ]
            for name, (seconds, size) in found.items()
        ],
    )  # fmt: skip
    return {f"{name} s": seconds for name, (seconds, _) in found.items()}


def _contenders(folder: Path) -> Contenders:
    """What can be had here, by name: runtime, image and the guest's memory."""
    shutil.copytree(
        EXAMPLES / "hello-unikernel", folder / "kernel", ignore=shutil.ignore_patterns("*.o", "*.elf")
    )
    subprocess.run(["make", "-s", "-C", folder / "kernel"], check=True)
    found: Contenders = {"unikernel": ("unikernel", {"kernel": str(folder / "kernel/hello.elf")}, 16 * MIB)}
    busybox = Path(Busybox().obtain())
    if os.geteuid() == 0:
        container = folder / "container"
        container.mkdir(mode=0o755)
        spec = importlib.util.spec_from_file_location("hello_build", EXAMPLES / "hello-container/build.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        module.build(container, busybox)
        found["container"] = ("container", {"layout": str(container / "hello-oci")}, 0)
    else:
        say("no container: it needs root")
    try:
        linux = LinuxKernel()
        kernel = linux.obtain()
        disk = folder / "ramdisk"
        disk.write_bytes(linux.ram_disk(busybox, "hello from Linux\n"))
        found["Linux VM"] = ("vm", {"kernel": str(kernel), "initrd": str(disk)}, 128 * MIB)
    except PartMissing as missing:
        say(f"no Linux VM: {missing}")
    return found


async def _all(
    folder: Path, contenders: Contenders, runs: int, acceleration: str
) -> dict[str, tuple[float, float]]:
    settings = EngineSettings(stop_grace=1.0, qemu=str(Qemu().obtain()), runc=_runc())
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    async with Engine(folder / "data", settings) as engine:
        for number in range(runs + 1):  # the first fills caches
            for name, (runtime, image, size) in contenders.items():
                made = Workload(
                    workload="bench-0", deployment="bench", generation=1, replica=0, runtime=runtime, image=image,
                    memory=size or None, ports=(Port("http", 8080),), health=Health(http="/", every=60),
                    acceleration=acceleration if runtime != "container" else None,
                )  # fmt: skip
                measured = await _one(engine, made)
                if number:
                    found[name].append(measured)
            say(f"round {number} of {runs}")
    return {
        name: (statistics.median(one[0] for one in some), statistics.median(one[1] for one in some))
        for name, some in found.items()
    }


async def _one(engine: Engine, made: Workload) -> tuple[float, float]:
    """Seconds to the first answer, and MB once it serves."""
    begun = time.perf_counter()
    engine.apply(made)
    try:
        async with asyncio.timeout(_DEADLINE):
            while not (port := _port(engine)):
                await asyncio.sleep(0.0005)
            while not (page := await _page(port)):
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise WrongAnswer(
            f"no answer from the {made.runtime}: {engine.observe()} {engine.logs(made.workload, 20)}"
        ) from None
    seconds = time.perf_counter() - begun
    check("hello" in page, f"{made.runtime} says {page!r}")
    pids = carrying(f"{MARKER}={engine.name}/", prefix=True)
    size = 0.0
    for pid in pids:
        with suppress(OSError, KeyError):  # one that ended meanwhile
            size += memory(pid)[1]
    await engine.remove(made.workload)
    return seconds, size


def _port(engine: Engine) -> int | None:
    for observed in engine.observe():
        for endpoint in observed["endpoints"]:
            return int(endpoint["port"])
    return None


async def _page(port: int) -> str:
    """What is answered; a connection alone proves nothing."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.15):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return (await reader.read()).decode(errors="replace").partition("\r\n\r\n")[2]
            finally:
                writer.close()
    return ""


def _runc() -> str | None:
    with suppress(PartMissing):
        return str(Runc().obtain())
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    main(parser.parse_args().runs)
