"""Runs an engine in a process of its own, to be killed at a chosen line; used by the recovery tests.

usage: driver.py DATA SPEC.json [--die-at-line N] [--remove] [--settings JSON]
It prints each observed change as a line of JSON, and `{"ready": ...}` after the journey.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import Workload

HERE = str(Path(sys.modules["services.vim.worker.engine"].__file__ or "").parent)


def die_at(line: int) -> None:
    """Kill -9 this process when it is about to run its ``line``-th line of the worker's own code."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--die-at-line", type=int, default=0)
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={})
    options = parser.parse_args()
    workload = Workload.from_document(json.loads(options.spec.read_text()))
    running = asyncio.Event()
    wanted = {"completed", "failed", "paused" if workload.paused else "running"}

    def changed(observed: dict[str, Any]) -> None:
        print(json.dumps(observed), flush=True)
        if observed["state"] in wanted and observed["generation"] == workload.generation:
            running.set()

    engine = Engine(options.data, EngineSettings(**options.settings), changed)
    if options.die_at_line:
        die_at(options.die_at_line)
    async with engine:
        if options.remove:
            await engine.remove(workload.workload)
        else:
            engine.apply(workload)
            await running.wait()
    sys.settrace(None)
    print(json.dumps({"ready": True}), flush=True)


asyncio.run(main())
