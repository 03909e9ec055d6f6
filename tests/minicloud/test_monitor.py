"""``minicloud up --monitor``: the monitor beside the others, with a secret of its own."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.minicloud.conftest import NODE, Stack


def test_it_runs_beside_the_others_and_is_started_again(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", "--monitor", "0") as stack:
        secret = tmp_path / "data" / "secrets" / "monitor-api"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        client = httpx.Client(
            base_url=stack.site["http"]["monitor"], auth=("monitor", secret.read_text().strip()), timeout=10
        )
        stack.wait_for_nodes(NODE)

        def node() -> dict[str, Any] | None:
            try:
                nodes = client.get("/v1/nodes").json().get("nodes", [])
            except httpx.TransportError:
                return None
            return next((one for one in nodes if one["name"] == NODE and one["metrics"]), None)

        with client:
            assert stack.until(node)["state"] == "alive"
            (killed,) = _monitors(stack.process.pid)
            os.kill(killed, signal.SIGKILL)
            (again,) = stack.until(lambda: [pid for pid in _monitors(stack.process.pid) if pid != killed])
            assert again
            assert stack.until(node)["state"] == "alive"


def test_a_stack_of_everything_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", "--monitor", "0", "--fleet", "1") as stack:
        stack.wait_for_nodes(NODE)
        children = psutil.Process(stack.process.pid).children()
        stack.process.terminate()
        assert stack.process.wait(30) == 0
        assert not [child for child in children if child.is_running()]


def _monitors(parent: int) -> list[int]:
    """The monitors that a stack started and that live."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.NoSuchProcess):  # also what ended and is not yet waited for
            if "services.monitor" in child.cmdline():
                found.append(child.pid)
    return found
