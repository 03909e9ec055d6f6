"""Run a cluster's worker: ``python -m services.vim.cluster --kubeconfig FILE``; other settings by ``MINICLOUD_*``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bus.frame import run
from schemas.errors import MinicloudError
from services.vim.cluster.service import serve
from services.vim.cluster.settings import ClusterSettings


def main() -> int:
    """Read the settings and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.vim.cluster",
        description="Runs the workloads of one Kubernetes cluster. Every setting can also be given as"
        " MINICLOUD_<NAME>.",
    )
    parser.add_argument("--cluster", help="the cluster's name in the minicloud")
    parser.add_argument("--kubeconfig", type=Path, help="how to reach it; none: from a pod inside it")
    parser.add_argument("--context", help="of the kubeconfig; its current one unless given")
    parser.add_argument("--namespace", help="where workloads lie")
    parser.add_argument("--broker", help="nats://host:port")
    parser.add_argument("--minicloud", help="the minicloud's name")
    parser.add_argument(
        "--allow-root", action="store_const", const=True, help="let workloads be root that ask for it"
    )
    try:
        settings = ClusterSettings.load(**vars(parser.parse_args()))
    except MinicloudError as error:
        parser.error(str(error))
    return run("cluster", serve, settings)


sys.exit(main())
