"""A small real service for the tests of the frame: ``python -m tests.bus.toy``, told what to be by settings.

What it does it says on ``toy.<minicloud>.<word>``; it waits where told to for ``toy.<minicloud>.go``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any, Literal

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.frame import Frame, main
from bus.port import Message
from bus.settings import Settings
from schemas.deployment import Cancellation
from schemas.errors import Conflict, NotFound
from schemas.event import Event

log = structlog.get_logger("toy")


class ToySettings(Settings):
    does: Literal["idle", "consume", "lease", "fail", "raise", "refuse", "return", "stay"] = "idle"
    ack_wait: float = 30.0
    diary: Path | None = None


class Toy:
    def __init__(self, frame: Frame[ToySettings]) -> None:
        self.frame = frame
        self.me = frame.settings.instance
        self.gate = asyncio.Event()

    async def say(self, word: str, *about: str) -> None:
        subject = f"toy.{self.frame.settings.minicloud}.{word}"
        await self.frame.bus.wire.publish(subject, " ".join([self.me, *about]).encode())
        await self.frame.bus.flush()

    async def on_go(self, _: Message) -> None:
        self.gate.set()

    async def handle(self, event: Event[Cancellation]) -> None:
        await self.say("begun", event.data.reason)
        if event.data.reason.startswith("slow"):
            await self.gate.wait()
        await self.say("done", event.data.reason)

    async def act(self) -> None:
        """While the lease is held, write down when."""
        settings = self.frame.settings
        assert settings.diary
        lease = self.frame.bus.lease("toy", self.me)
        while True:
            await lease.acquire()
            told = False
            with settings.diary.open("a") as diary:
                while not lease.lost.is_set():
                    now = time.monotonic()
                    if lease.held:
                        diary.write(f"{self.me} {now}\n")
                        diary.flush()
                        if not told:
                            told = True
                            await self.say("held")
                    try:
                        await asyncio.wait_for(self.frame.stopping.wait(), 0.01)
                    except TimeoutError:
                        continue
                    await lease.release()
                    return
            await self.say("lost")

    async def fail(self) -> None:
        await self.gate.wait()
        raise RuntimeError("the disk is full")


async def serve(frame: Frame[ToySettings]) -> None:
    toy, settings = Toy(frame), frame.settings

    async def no_such(_: Request) -> Response:
        raise NotFound("no such thing", field="thing", expected="another")

    async def broken(_: Request) -> Response:
        raise RuntimeError("out of paper")

    async def fine(_: Request) -> Response:
        return JSONResponse({"fine": True})

    frame.routes += [Route("/no-such", no_such), Route("/broken", broken), Route("/fine", fine)]
    frame.counter("toy_words_total", "Words said", "word").labels("hello").inc()
    await frame.bus.ensure_streams()
    await frame.bus.wire.subscribe(f"toy.{settings.minicloud}.go", toy.on_go)
    log.debug("finer than most want")
    logging.getLogger("a.library").warning("a library says %s", "something")
    acting: Any = None
    match settings.does:
        case "consume":
            await frame.bus.consume(
                frame.bus.subjects.cancel(),
                Cancellation,
                toy.handle,
                durable="vim",
                ack_wait=settings.ack_wait,
            )
        case "lease":
            acting = frame.spawn(toy.act())
        case "fail":
            frame.spawn(toy.fail())
        case "raise":
            raise RuntimeError("the roof is gone")
        case "refuse":
            raise Conflict("somebody lives here", field="the house", expected="an empty one")
        case "return":
            return
    frame.say_ready()
    await toy.say("ready")
    await (asyncio.Event() if settings.does == "stay" else frame.stopping).wait()
    if acting:
        await asyncio.wait({acting}, timeout=2)


if __name__ == "__main__":
    sys.exit(main("toy", serve, ToySettings))
