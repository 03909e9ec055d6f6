"""The embedded stack as a process that tests may kill, and whoever watches everything that it says.

In: a data folder. Out: a site that starts, loses any one of its processes by kill -9, starts again, and
stops; and a witness of every event on its bus, who can act upon the n-th.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from bus.bus import Bus
from bus.credentials import Credentials
from bus.permissions import inbox_prefix
from bus.port import Endpoint, Message
from tests.parts.process import free_port

NODE: Final = "here"
MINICLOUD: Final = "home"
#: What can be killed; `up` is the stack's own parent process.
VICTIMS: Final = ("agent", "worker", "vim", "rid", "broker", "up")
_SIGN: Final = {
    "agent": "services.charagent",
    "worker": "services.vim.worker",
    "vim": "services.vim",
    "rid": "services.rid",
    "fleet": "fleet",
}


class Site:
    """``minicloud up`` over a data folder, in a process of its own.

    Args:
        data: the data folder.
        options: more of the command line.
        environment: what is added to ours.
        command: what comes before the command line, such as another user's identity.
    """

    def __init__(
        self,
        data: Path,
        *options: str,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m", "minicloud"),
    ) -> None:
        self.data = data
        self.log = data.with_suffix(".log")
        self.port = free_port()
        self._command = [
            *command, *program, "up", "--data", str(data), "--node", NODE,
            "--nats-port", str(self.port), *options,
        ]  # fmt: skip
        root = str(Path(__file__).parents[2])
        self._environment = {**os.environ, "PYTHONPATH": root, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it; returns when every service was started, or at once."""
        with self.log.open("ab") as output:
            begin = output.tell()
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, cwd="/",
            )  # fmt: skip
        if wait:
            self.wait_started(begin)

    def wait_started(self, begin: int = 0, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while f"node {NODE} of" not in self.log.read_text()[begin:]:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[begin:]
            assert time.monotonic() < deadline, self.log.read_text()[begin:]
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it in order."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def pid(self, victim: str) -> int | None:
        """The process that plays a part now; None while it is not there."""
        if self.process is None:
            return None
        if victim == "up":
            return self.process.pid
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    words = child.cmdline()
                    played = words[2] if len(words) > 2 and words[1] == "-m" else ""
                    name = Path(words[0]).name if words else ""
                    if (victim == "broker" and name == "nats-server") or played == _SIGN.get(victim):
                        return child.pid
        return None

    def kill(self, victim: str) -> int | None:
        """Kill -9; the pid that was, or None where the process was not there."""
        pid = self.pid(victim)
        if pid is None or self.process is None:
            return None
        os.kill(pid, signal.SIGKILL)
        if victim == "up":
            self.process.wait()
            self.process = None
        return pid

    def endpoint(self, role: str = "admin", name: str = "tests") -> Endpoint:
        """A credential of the site's broker."""
        made = Credentials(self.data, MINICLOUD).ensure(role, name)
        return Endpoint(
            f"nats://127.0.0.1:{self.port}", made.user, made.password, inbox_prefix(made.user), name
        )

    def logs(self, lines: int = 30) -> str:
        """The end of every log, for whoever must find out what went wrong."""
        parts = [f"== up\n{_tail(self.log, lines)}"]
        parts += [f"== {log.name}\n{_tail(log, lines)}" for log in sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(parts)


def _tail(file: Path, lines: int) -> str:
    with suppress(OSError):
        return "\n".join(line[:300] for line in file.read_text(errors="replace").splitlines()[-lines:])
    return ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One message: where, what (None where it is no JSON), and its number."""

    number: int
    subject: str
    document: Any
    at: float = 0.0

    @property
    def data(self) -> dict[str, Any]:
        """The event's own data; empty for anything else."""
        found = self.document.get("data") if isinstance(self.document, dict) else None
        return found if isinstance(found, dict) else {}


@dataclass
class Witness:
    """Sees every event of the minicloud except metrics, which come by the clock."""

    bus: Bus
    seen: list[Seen] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _counted: int = 0
    _upon: tuple[int, Callable[[Seen], None]] | None = None

    async def watch(self) -> None:
        # Not requests: whoever listens in on a service counts as one that might answer.
        for kind in ("node", "resource", "deployment", "dead"):
            await self.bus.wire.subscribe(f"mc.{MINICLOUD}.{kind}.>", self._take)
        await self.bus.flush()

    def upon(self, number: int, act: Callable[[Seen], None]) -> None:
        """Act at once when the ``number``-th event from now on is seen."""
        self._counted, self._upon = 0, (number, act)

    async def _take(self, message: Message) -> None:
        if message.subject.endswith(".metrics"):
            return
        try:
            document = json.loads(message.data)
        except ValueError:
            document = None
        seen = Seen(len(self.seen), message.subject, document, time.monotonic())
        self.seen.append(seen)
        self._counted += 1
        if self._upon is not None and self._counted == self._upon[0]:
            _, act = self._upon
            self._upon = None
            act(seen)
        self._news.set()

    async def until(self, wanted: Callable[[Seen], bool], *, after: int = 0, seconds: float = 30) -> Seen:
        """The first event from number ``after`` on that is wanted."""
        position = after
        async with asyncio.timeout(seconds):
            while True:
                while position < len(self.seen):
                    if wanted(self.seen[position]):
                        return self.seen[position]
                    position += 1
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def witness(site: Site, seconds: float = 20) -> AsyncIterator[Witness]:
    """A witness from the broker's first moment on."""
    bus = await Bus.connect(site.endpoint(), MINICLOUD, "witness", timeout=seconds)
    try:
        made = Witness(bus)
        await made.watch()
        yield made
    finally:
        await bus.close()


async def eventually(check: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """The first true value (awaited, if it is awaitable) of ``check``; errors of ours count as not yet."""
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            found = check()
            last = await found if asyncio.iscoroutine(found) else found
            if last:
                return last
        except Exception as error:  # noqa: BLE001 - whatever is away may say so in many ways
            last = error
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; last: {last!r}"
        await asyncio.sleep(0.03)
