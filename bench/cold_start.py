"""How long the whole embedded stack takes to be of use, and what it costs while nobody asks for anything.

The clock runs from the start of ``minicloud up`` in an empty folder until a query finds this machine's node with
a worker that is ready. Then everything rests for some seconds, and each process is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from bench.figures import check, goal, memory, say, table
from bus.frame import configure_logs
from minicloud.client import connect
from minicloud.site import STACK_FILE

NODE: Final = "bench"
_DEADLINE: Final = 60.0


def main(runs: int = 5, rest: float = 10.0) -> dict[str, float]:
    """Measure, print a table; the figures by name."""
    configure_logs("error", "text")
    starts, processes = [], []
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="minicloud-cold-") as folder:
            seconds, processes = _one(Path(folder), rest if number == runs - 1 else 0.0)
        say(f"start {number + 1}: {seconds:.2f} s")
        starts.append(seconds)
    resident, proportional = (sum(row[at] for row in processes) for at in (1, 2))
    print(f"idle for {rest:g} s after start {runs}; CPU in per cent of one core\n")
    table(
        ["process", "RSS MB", "PSS MB", "CPU %"],
        [[name, f"{rss:.1f}", f"{pss:.1f}", f"{cpu:.1f}"] for name, rss, pss, cpu in processes]
        + [
            [
                "in sum",
                f"{resident:.0f}",
                f"{proportional:.0f}",
                f"{sum(row[3] for row in processes):.1f}",
            ]
        ],
    )
    print(f"cold start: median {statistics.median(starts):.2f} s of {runs}, slowest {max(starts):.2f} s")
    goal("cold start, s", statistics.median(starts), lambda v: v <= 5, "<= 5")
    goal("idle memory, RSS in sum, MB", resident, lambda v: v <= 250, "<= 250")
    return {"cold start s": statistics.median(starts), "idle RSS MB": resident, "idle PSS MB": proportional}


def _one(folder: Path, rest: float) -> tuple[float, list[tuple[str, float, float, float]]]:
    command = [sys.executable, "-m", "minicloud", "up", "--data", str(folder), "--node", NODE]
    # Whoever starts it, it is the embedded stack that is found, not a minicloud that the environment names.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MINICLOUD_")}
    begun = time.perf_counter()
    with (folder / "up.log").open("wb") as output:
        up = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        asyncio.run(_ready(folder, up))
        seconds = time.perf_counter() - begun
        return seconds, _watched(up.pid, rest) if rest else []
    finally:
        up.terminate()
        up.wait(60)


async def _ready(folder: Path, up: subprocess.Popen[bytes]) -> None:
    """Return when a query finds the node with its worker."""
    async with asyncio.timeout(_DEADLINE):
        while not (folder / STACK_FILE).exists():
            check(up.poll() is None, (folder / "up.log").read_text())
            await asyncio.sleep(0.01)
        async with connect(folder) as cloud:
            while True:
                with suppress(Exception):
                    if (await cloud.query(f"name={NODE},worker,state=alive", fields=["name"])).nodes:
                        return
                await asyncio.sleep(0.01)


def _watched(pid: int, rest: float) -> list[tuple[str, float, float, float]]:
    """Name, RSS, PSS and CPU of every process of the stack, after a rest."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.cpu_percent()
    time.sleep(rest)
    return [(_name(process), *memory(process.pid), process.cpu_percent()) for process in processes]


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    return " ".join(words[words.index("-m") + 1 :][:2]) if "-m" in words else Path(words[0]).name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rest", type=float, default=10.0)
    options = parser.parse_args()
    main(options.runs, options.rest)
