"""Run a node's worker: ``python -m services.vim.worker --node pi-3``; other settings by ``MINICLOUD_*``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bus.frame import run
from schemas.errors import MinicloudError
from services.vim.worker.service import WorkerSettings, serve


def main() -> int:
    """Read the settings and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.vim.worker",
        description="Runs the workloads of one node. Every setting can also be given as MINICLOUD_<NAME>.",
    )
    parser.add_argument("--node", help="the node's name on the bus")
    parser.add_argument("--data", type=Path, help="where workloads, images and their state are kept")
    parser.add_argument("--broker", help="nats://host:port")
    parser.add_argument("--minicloud", help="the minicloud's name")
    parser.add_argument(
        "--stop-workloads", action="store_const", const=True, help="stop workloads too when the worker stops"
    )
    parser.add_argument(
        "--allow-root", action="store_const", const=True, help="let workloads be root that ask for it"
    )
    try:
        settings = WorkerSettings.load(**vars(parser.parse_args()))
    except MinicloudError as error:
        parser.error(str(error))
    return run("worker", serve, settings)


sys.exit(main())
