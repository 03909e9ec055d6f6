"""From the publish of a deployment request to the workload's first HTTP answer, beside the runtime alone.

The whole embedded stack runs, with this machine's real agent and worker. Alone means: the very command that the
worker ran (the interpreter, ``runc run`` on the same bundle, QEMU with the same arguments), started directly.
Runtimes that this machine does not offer are named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from bench.figures import WrongAnswer, check, goal, say, table
from bus.frame import configure_logs
from minicloud.client import Minicloud, connect
from minicloud.stack import Stack, StackSettings
from tests.parts.busybox import Busybox
from tests.parts.part import PartMissing
from tests.parts.process import free_port
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
NODE: Final = "bench"
_DEADLINE: Final = 60.0
_PATIENCE: Final = 0.1  # a guest behind QEMU's network may miss a connection; a new one finds it
_PAUSE: Final = 0.002


@dataclass
class Times:
    """Seconds of each run of one runtime."""

    answered: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


def main(runs: int = 7) -> dict[str, float]:
    """Measure, print a table; the ratios by runtime."""
    configure_logs("error", "text")
    with tempfile.TemporaryDirectory(prefix="minicloud-journey-") as folder:
        Path(folder).chmod(0o755)  # workloads run as a user of their own
        images, programs = _images(Path(folder)), _programs(Path(folder))
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{programs}:{before}"
        try:
            measured = asyncio.run(_measure(Path(folder), images, runs))
        finally:
            os.environ["PATH"] = before
    rows, ratios = [], {}
    for runtime, times in measured.items():
        answered, told, alone = (
            statistics.median(t) * 1e3 for t in (times.answered, times.told, times.alone)
        )
        ratios[runtime] = answered / alone
        figures = [f"{value:.0f}" for value in (answered, told, alone, answered - alone)]
        rows.append([runtime, *figures, f"{ratios[runtime]:.2f}"])
    print(f"median of {runs} runs\n")
    table(["ms from the request", "to the answer", "to 'running'", "alone", "ours", "ratio"], rows)
    for runtime, ratio in ratios.items():
        goal(f"{runtime}, times the runtime alone", ratio, lambda v: v <= 2, "<= 2")
    return ratios


def _images(folder: Path) -> dict[str, dict[str, Any]]:
    """What each runtime shall run: the examples, built into ``folder``."""
    shutil.copy(EXAMPLES / "hello-process" / "hello.py", folder / "hello.py")
    images: dict[str, dict[str, Any]] = {
        "process": {"command": ["/usr/bin/python3", str(folder / "hello.py")]}
    }
    if not Path("/usr/bin/python3").exists():
        say("skipped process: no /usr/bin/python3, which every user may run")
        del images["process"]
    try:
        busybox, layout = Busybox().obtain(), folder / "container"
        build = [EXAMPLES / "hello-container" / "build.py", "--busybox", busybox, "--into", layout]
        subprocess.run(["/usr/bin/env", "python3", *build], check=True, capture_output=True, text=True)
        images["container"] = {"layout": str(layout / "hello-oci")}
    except (PartMissing, subprocess.CalledProcessError) as missing:
        say(f"skipped container: {getattr(missing, 'stderr', '') or missing}")
    kernel = folder / "hello-unikernel"
    shutil.copytree(EXAMPLES / "hello-unikernel", kernel)
    built = subprocess.run(["make", "-s", "-C", kernel], capture_output=True, text=True, check=False)
    if built.returncode == 0:
        images["unikernel"] = {"kernel": str(kernel / "hello.elf"), "arguments": ["$(PORT)"]}
    else:
        say(f"skipped unikernel: {built.stderr.strip().splitlines()[-1:]}")
    return images


def _programs(folder: Path) -> Path:
    """A folder for PATH with the programs that the runtimes need."""
    programs = folder / "bin"
    programs.mkdir()
    for part, name in ((Runc(), "runc"), (Qemu(), "qemu-system-x86_64")):
        try:
            (programs / name).symlink_to(part.obtain())
        except PartMissing as missing:
            say(str(missing))
    return programs


async def _measure(folder: Path, images: dict[str, dict[str, Any]], runs: int) -> dict[str, Times]:
    stack = Stack(StackSettings(data=folder / "data", node=NODE), say)
    measured: dict[str, Times] = {}
    try:
        await stack.start()
        async with connect(folder / "data", timeout=20.0) as cloud:
            offered = await _ready(cloud)
            for runtime, image in images.items():
                if runtime not in offered:
                    say(f"skipped {runtime}: this machine does not offer it")
                    continue
                times = measured[runtime] = Times()
                journey = Journey(cloud, folder, runtime, image)
                await journey.run("warm", Times())  # unpacks images, warms the caches of both sides
                for number in range(runs):
                    await journey.run(f"run{number}", times)
                    times.alone.append(await asyncio.to_thread(journey.alone))
                    say(
                        f"{runtime}: {times.answered[-1] * 1e3:.0f} ms to the answer,"
                        f" {times.alone[-1] * 1e3:.0f} ms alone"
                    )
    finally:
        await stack.stop()
    check(bool(measured), "this machine offers no runtime")
    return measured


async def _ready(cloud: Minicloud) -> set[str]:
    """Wait until our node is indexed with a worker; the runtimes that it offers."""
    async with asyncio.timeout(_DEADLINE):
        while True:
            with suppress(Exception):
                answer = await cloud.query(f"name={NODE},worker", fields=["name", "runtimes"])
                if answer.nodes:
                    return set(answer.nodes[0]["runtimes"])
            await asyncio.sleep(0.05)


class Journey:
    """One runtime's way, and its short cut."""

    def __init__(self, cloud: Minicloud, folder: Path, runtime: str, image: dict[str, Any]) -> None:
        self._cloud = cloud
        self._folder = folder
        self._runtime = runtime
        self._image = image
        self._port = free_port()
        self._started: Callable[[], Any] | None = None

    async def run(self, name: str, times: Times) -> None:
        """Publish, await the page and the word, cancel."""
        deployment = f"{self._runtime}-{name}"
        request = {
            "name": deployment,
            "runtimes": [self._runtime],
            "images": {self._runtime: self._image},
            "resources": {"cpu": 1, "memory": "128MiB"},
            "ports": [{"name": "http", "port": 8080, "hostPort": self._port}],
            "health": {"http": "/"},
        }
        begun = time.perf_counter()
        deploying = asyncio.ensure_future(self._cloud.deploy(request, timeout=_DEADLINE))
        answering = asyncio.ensure_future(asyncio.to_thread(_first_answer, self._port))
        status = await deploying
        times.told.append(time.perf_counter() - begun)
        check(status.state == "running", f"{deployment} is {status.state}: {status.message}")
        times.answered.append(await answering - begun)
        if self._started is None:
            self._started = self._same_command(f"{deployment}-0")
        await self._cloud.cancel(deployment)
        async with asyncio.timeout(_DEADLINE):
            while (await self._cloud.deployment(deployment))["state"] != "stopped":
                await asyncio.sleep(0.02)

    def alone(self) -> float:
        """Seconds from the start of the same command to its answer."""
        assert self._started is not None
        begun = time.perf_counter()
        with self._started():
            return _first_answer(self._port) - begun

    def _same_command(self, workload: str) -> Callable[[], Any]:
        """What the worker started for ``workload``, to be started again without it."""
        run = self._folder / "data" / "worker" / "workloads" / workload
        child = psutil.Process(int((next(run.glob("run-*")) / "child").read_text().split()[0]))
        command, environment, inside = child.cmdline(), child.environ(), self._folder / f"alone-{workload}"
        inside.mkdir()
        if self._runtime == "unikernel":
            shutil.copy(run / "machine" / "kernel", inside / "kernel")
        if self._runtime == "container":
            config = json.loads((run / "bundle" / "config.json").read_text())
            config["linux"].pop("cgroupsPath", None)
            (inside / "config.json").write_text(json.dumps(config))
            command = [command[0], "--root", str(inside / "state"), "run", "--bundle", str(inside), workload]

        @contextmanager
        def started() -> Iterator[None]:
            process = subprocess.Popen(
                command, cwd=inside, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                yield
            finally:
                process.terminate()
                process.wait()

        return started


def _first_answer(port: int) -> float:
    """The moment at which the first whole HTTP answer came from a port."""
    deadline = time.perf_counter() + _DEADLINE
    while time.perf_counter() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as wire:
            wire.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            page = b""
            while piece := wire.recv(65536):
                page += piece
            if page.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")):
                return time.perf_counter()
        time.sleep(_PAUSE)
    raise WrongAnswer(f"nothing answers on port {port}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    main(parser.parse_args().runs)
