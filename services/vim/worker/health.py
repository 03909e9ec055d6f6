"""Whether a workload serves: an HTTP answer, a text on its console, or merely that it lives.

In comes where to look; out comes a verdict with a sentence. A TCP connection alone proves nothing:
QEMU's user networking accepts before the guest listens, so a reply's bytes are awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.vim.worker.workload import Workload

_CONSOLE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found; ``message`` says why it is not good."""

    good: bool
    message: str = ""


class Probe(Protocol):
    """One way to look."""

    async def look(self, timeout: float) -> Verdict:
        """Look once, within ``timeout`` seconds."""


class HttpProbe:
    """GET a path over a fresh connection; 200 to 399 is good."""

    def __init__(self, address: str, port: int, path: str) -> None:
        self._address, self._port, self._path = address, port, path

    async def look(self, timeout: float) -> Verdict:
        """Look once, within ``timeout`` seconds."""
        where = f"http://{self._address}:{self._port}{self._path}"
        try:
            async with asyncio.timeout(timeout):
                status = await self._status()
        except TimeoutError:
            return Verdict(good=False, message=f"{where} did not answer within {timeout:g} s")
        except (OSError, ValueError) as error:
            return Verdict(good=False, message=f"{where} does not answer: {error}")
        if 200 <= status < 400:
            return Verdict(good=True)
        return Verdict(good=False, message=f"{where} answered {status} (expected 200 to 399)")

    async def _status(self) -> int:
        reader, writer = await asyncio.open_connection(self._address, self._port)
        try:
            host = f"{self._address}:{self._port}"
            request = f"GET {self._path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: minicloud\r\n\r\n"
            writer.write(request.encode())
            line = await reader.readline()
            if not line:
                raise ConnectionResetError("it closed the connection without a byte")
            version, _, rest = line.partition(b" ")
            if not version.startswith(b"HTTP/") or not rest[:3].isdigit():
                raise ValueError(f"its first line is {line[:40]!r}, not HTTP")
            return int(rest[:3])
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class ConsoleProbe:
    """Wait for a text in what the workload printed since it started."""

    def __init__(self, log: Path, start: int, text: str) -> None:
        self._log, self._start, self._text = log, start, text
        self._seen = False

    async def look(self, timeout: float) -> Verdict:  # noqa: ARG002 - reading a file takes no time
        """Look once; what was seen once stays good, since output is dropped in time."""
        if not self._seen:
            with suppress(OSError), self._log.open("rb") as output:
                output.seek(self._start)
                self._seen = self._text.encode() in output.read(_CONSOLE_BYTES)
        return Verdict(self._seen, "" if self._seen else f"{self._text!r} has not appeared on the console")


class AliveProbe:
    """Good once its own code runs; its end is told by the kernel, not by this."""

    def __init__(self, begun: Callable[[], bool]) -> None:
        self._begun = begun
        self._seen = False

    async def look(self, timeout: float) -> Verdict:  # noqa: ARG002
        """Good from the moment that it began."""
        self._seen = self._seen or self._begun()
        return Verdict(self._seen, "" if self._seen else "it is still being set up")


def probe_of(
    workload: Workload,
    address: str,
    ports: dict[str, int],
    log: Path,
    log_start: int,
    begun: Callable[[], bool],
) -> Probe:
    """The probe that ``workload`` asks for; ``begun`` tells whether its own code runs."""
    health = workload.health
    if health and health.http and workload.ports:
        name = health.port or workload.ports[0].name
        return HttpProbe("127.0.0.1" if address == "0.0.0.0" else address, ports[name], health.http)  # noqa: S104
    if health and health.console:
        return ConsoleProbe(log, log_start, health.console)
    return AliveProbe(begun)
