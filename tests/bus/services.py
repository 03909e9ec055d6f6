"""Real services in processes of their own, and an ear for what they say."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential
from bus.port import Message
from tests.parts.process import PartProcess, free_port

PATIENCE = 30.0


class ToyProcess(PartProcess):
    """A running ``tests/bus/toy.py``."""

    def __init__(self, output: Path, environment: dict[str, str]) -> None:
        super().__init__(
            [sys.executable, "-m", "tests.bus.toy"],
            output,
            {**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        )
        self.http = f"http://127.0.0.1:{environment.get('MINICLOUD_HTTP_PORT', 0)}"

    def log(self) -> list[dict[str, Any]]:
        """Its log; each line must be JSON."""
        return [json.loads(line) for line in self.text().splitlines()]

    async def ended(self) -> int:
        """Its exit code, once it ended by itself."""
        try:
            return await asyncio.to_thread(self.process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.text()[-3000:]}") from None

    async def answers(self, path: str, status: int) -> httpx.Response:
        """The answer of its HTTP side once it has this status."""
        async with httpx.AsyncClient() as client:
            async with asyncio.timeout(PATIENCE):
                while True:
                    assert self.process.poll() is None, self.text()
                    try:
                        answer = await client.get(self.http + path)
                    except httpx.TransportError:
                        answer = None
                    if answer is not None and answer.status_code == status:
                        return answer
                    await asyncio.sleep(0.02)


class Toys:
    """Starts toys in one minicloud and hears what they say: ``[(word, who, about)]``."""

    def __init__(self, bus: Bus, broker: Broker, credential: Credential, folder: Path) -> None:
        self.bus = bus
        self.heard: list[tuple[str, str, str]] = []
        self._broker = broker
        self._credential = credential
        self._folder = folder
        self._news = asyncio.Event()
        self._started: list[ToyProcess] = []

    async def listen(self) -> None:
        await self.bus.wire.subscribe(f"toy.{self.bus.minicloud}.*", self._hear)
        await self.bus.flush()

    async def _hear(self, message: Message) -> None:
        who, _, about = message.data.decode().partition(" ")
        self.heard.append((message.subject.rsplit(".", 1)[1], who, about))
        self._news.set()

    def start(self, name: str, *, broker: str = "", http: bool = False, **settings: Any) -> ToyProcess:
        said = {
            "minicloud": self.bus.minicloud,
            "broker": broker or self._broker.url,
            "user": self._credential.user,
            "password": self._credential.password,
            "instance": name,
            **({"http_port": free_port()} if http else {}),
            **settings,
        }
        environment = {f"MINICLOUD_{key.upper()}": str(value) for key, value in said.items()}
        toy = ToyProcess(self._folder / f"{name}-{len(self._started)}.log", environment)
        self._started.append(toy)
        return toy

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        async def wait() -> None:
            while not condition():
                self._news.clear()
                await self._news.wait()

        try:
            await asyncio.wait_for(wait(), PATIENCE)
        except TimeoutError:
            logs = "\n".join(toy.text()[-1500:] for toy in self._started)
            raise AssertionError(f"never: {what}; heard {self.heard[-20:]}\n{logs}") from None

    async def hear(self, word: str, who: str, about: str = "") -> None:
        """Wait until somebody has said something."""
        await self.until(lambda: (word, who, about) in self.heard, f"{word} {who} {about}")

    def said(self, word: str) -> list[tuple[str, str]]:
        """Who said this word about what, in order."""
        return [(who, about) for said, who, about in self.heard if said == word]

    async def go(self) -> None:
        """Let those that wait go on."""
        await self.bus.wire.publish(f"toy.{self.bus.minicloud}.go", b"test go")
        await self.bus.flush()

    def end(self) -> None:
        for toy in self._started:
            toy.kill()


class Cable:
    """A TCP line to the broker that can be cut without either end being told."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """From now on nothing passes, either way."""
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    async def close(self) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while read := await source.read(65536):
                await self._whole.wait()
                sink.write(read)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()
