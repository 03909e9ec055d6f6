"""Network namespaces of a test's own: one a site, all on one switch whose ports can be unplugged.

Each site has a cable to the switch and another to the test itself, so that a site that was cut off from
the others can still be asked. Everything goes when the test ends, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any, Self, TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def unavailable() -> str | None:
    """Why no namespaces can be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if which("ip") is None:
        return "network namespaces need the program `ip`"
    name = f"mc-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=False)
    return None


class Switch:
    """A switch with one namespace a site; a context manager.

    Args:
        names: of the sites.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._run = secrets.token_hex(3)
        self._net = 64 + secrets.randbelow(128)
        self._namespaces: list[str] = []
        self._cables: list[str] = []

    def namespace(self, name: str) -> str:
        return f"mc-{self._run}-{name}"

    def address(self, name: str) -> str:
        """A site's address on the switch."""
        return f"10.{self._net}.0.{self.names.index(name) + 1}"

    def seen_from_here(self, name: str) -> str:
        """The address under which the test itself reaches a site."""
        return f"10.{self._net}.{self.names.index(name) + 1}.2"

    def __enter__(self) -> Self:
        try:
            self._plug()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for cable in self._cables:
            subprocess.run(["ip", "link", "delete", cable], capture_output=True, check=False)
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)

    def _plug(self) -> None:
        switch = self.namespace("switch")
        self._add(switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for number, name in enumerate(self.names, 1):
            site, here = self.namespace(name), f"mc{self._run}-{number}"
            self._add(site)
            _ip("-n", site, "link", "set", "lo", "up")
            _ip("-n", site, "link", "add", "cable", "type", "veth", "peer", f"port{number}", "netns", switch)
            _ip("-n", site, "address", "add", f"{self.address(name)}/24", "dev", "cable")
            _ip("-n", site, "link", "set", "cable", "up")
            _ip("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
            self._cables.append(here)
            _ip("link", "add", here, "type", "veth", "peer", "test", "netns", site)
            _ip("address", "add", f"10.{self._net}.{number}.1/30", "dev", here)
            _ip("link", "set", here, "up")
            _ip("-n", site, "address", "add", f"{self.seen_from_here(name)}/30", "dev", "test")
            _ip("-n", site, "link", "set", "test", "up")

    def _add(self, namespace: str) -> None:
        self._namespaces.append(namespace)
        _ip("netns", "add", namespace)

    def unplug(self, name: str) -> None:
        """Pull a site's cable to the others: no word, no FIN."""
        self._port(name, "down")

    def plug(self, name: str) -> None:
        """Put it back."""
        self._port(name, "up")

    def _port(self, name: str, state: str) -> None:
        number = self.names.index(name) + 1
        _ip("-n", self.namespace("switch"), "link", "set", f"port{number}", state)

    def inside(self, name: str, work: Callable[[], T]) -> T:
        """Do something in a site's namespace; processes that it starts stay there."""
        return inside(self.namespace(name), work)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a namespace, in a thread that ends with it."""
    outcome: list[Any] = []

    def enter_and_work() -> None:
        try:
            _enter(namespace)
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            outcome.append(error)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as entry:
        if libc.setns(entry.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
