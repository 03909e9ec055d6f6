"""Two machines and a cable, made of network namespaces: a hub with the stack, an edge with one more node.

The hub's namespace becomes our own while the test runs, so that our clients reach the stack. Nothing of
it touches the machine's own network. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bus.credentials import Credentials
from minicloud.site import Site as Address
from tests.journey.site import MINICLOUD, Site

EDGE: Final = "edge"
_HUB_ADDRESS: Final = "10.77.0.1"
_EDGE_ADDRESS: Final = "10.77.0.2"
_CLONE_NEWNET: Final = 0x40000000


class Cable:
    """A link between two network namespaces that can be cut and mended."""

    def __init__(self) -> None:
        mark = os.urandom(3).hex()
        self.hub, self.edge = f"mchub{mark}", f"mcedge{mark}"
        self._ends = f"mch{mark}", f"mce{mark}"

    def lay(self) -> None:
        """Make both namespaces and what joins them."""
        here, there = self._ends
        for space in (self.hub, self.edge):
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", self.hub, "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.edge)
        for space, end, address in ((self.hub, here, _HUB_ADDRESS), (self.edge, there, _EDGE_ADDRESS)):
            _ip("-n", space, "address", "add", f"{address}/30", "dev", end)
            _ip("-n", space, "link", "set", end, "up")

    def cut(self) -> None:
        """As a pulled plug: nothing passes, and nobody is told."""
        _ip("-n", self.hub, "link", "set", self._ends[0], "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("-n", self.hub, "link", "set", self._ends[0], "up")

    def remove(self) -> None:
        for space in (self.hub, self.edge):
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


@contextmanager
def inside(space: str) -> Iterator[None]:
    """What this thread opens meanwhile is in the network namespace ``space``, and so is what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{space}").open() as away:
        if libc.setns(away.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


class EdgeNode:
    """The agent and the worker of a second node, beyond the cable."""

    def __init__(self, site: Site, cable: Cable, data: Path) -> None:
        address = Address.find(site.data)
        self.data = data
        self._space = cable.edge
        hub = f"//{_HUB_ADDRESS}:"
        self._nats = f"nats:{hub}{address.broker.rpartition(':')[2]}"
        self._mqtt = f"mqtt:{hub}{address.mqtt.rpartition(':')[2]}"
        made = Credentials(site.data, MINICLOUD)
        self._secrets = {role: made.add(role, EDGE).password for role in ("agent", "worker")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> None:
        """Start ``agent`` or ``worker``."""
        secret = self.data / f"{part}.secret"
        secret.touch(mode=0o600)
        secret.write_text(self._secrets[part])
        module = {"agent": "services.charagent", "worker": "services.vim.worker"}[part]
        command = ["ip", "netns", "exec", self._space, sys.executable, "-m", module, "--node", EDGE]
        command += ["--minicloud", MINICLOUD, "--data", str(self.data / part)]
        if part == "agent":
            command += ["--broker", self._mqtt, "--user", f"agent.{EDGE}", "--password-file", str(secret)]
            command += ["--interval", "1"]
        else:
            command += ["--stop-workloads"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MINICLOUD_BROKER": self._nats,
            "MINICLOUD_USER": f"{part}.{EDGE}",
            "MINICLOUD_PASSWORD_FILE": str(secret),
        }
        with (self.data / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    def end(self, part: str, number: int = signal.SIGTERM) -> None:
        """End one of them; the worker's workloads run on."""
        process = self.processes.pop(part, None)
        if process is not None:
            process.send_signal(number)
            process.wait(30)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
