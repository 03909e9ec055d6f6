"""What the broker sends, on its way to the handlers: a short cut through nats-py's reading side.

In: bytes from the connection. Out: each message of our subscriptions in the :class:`Lane` of its handler,
with headers read only where somebody asks. Whatever else the broker says stays nats-py's business. A message
costs a third of what it costs on nats-py's own way (``bench/bus.py``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import cached_property
from typing import Any, Final

import structlog
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from bus.port import Handler

log = structlog.get_logger("bus")

_END: Final = b"\r\n"
_LONGEST_LINE: Final = 65536
# What a burst may fill before we count as too slow and drop; JetStream delivers it again.
_PENDING_BYTES: Final = 512 * 1024 * 1024


class Delivered:
    """A :class:`bus.port.Message`."""

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head

    @cached_property
    def headers(self) -> dict[str, str] | None:
        """Headers, a status line included as ``Status`` and ``Description``."""
        return read_headers(self._head) if self._head else None


def read_headers(head: bytes) -> dict[str, str]:
    """The headers of ``NATS/1.0[ status[ description]]`` and ``Name: value`` lines."""
    first, *lines = head.decode(errors="replace").split("\r\n")
    _, _, told = first.partition(" ")
    status, _, description = told.strip().partition(" ")
    headers = {"Status": status} if status else {}
    if description:
        headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


class Lane:
    """The messages of one subscription, handled one after the other in the order in which they came."""

    def __init__(self, subject: str, handler: Handler) -> None:
        self.subject = subject
        self._handler = handler
        self._waiting: deque[Any] = deque()
        self._size = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False
        self._task = asyncio.create_task(self._run())

    def put(self, message: Any) -> None:
        """Line up a message."""
        size = self._size + len(message.data)
        if size > _PENDING_BYTES:
            log.warning("too slow: dropped", subject=message.subject, waiting=len(self._waiting))
            return
        self._size = size
        self._waiting.append(message)
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    async def take(self, message: Any) -> None:
        """As :meth:`put`, for what came on nats-py's way."""
        self.put(message)

    def close(self) -> None:
        """Handle no more; a handler that closes its own subscription runs to its end."""
        self._closed, self._idle = True, None
        self._waiting.clear()
        if self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        waiting, handler = self._waiting, self._handler
        while not self._closed:
            while waiting:
                message = waiting.popleft()
                self._size -= len(message.data)
                try:
                    await handler(message)
                except asyncio.CancelledError:
                    if self._closed:
                        raise
                    log.warning("a handler was cancelled", subject=message.subject)
                except Exception:
                    log.exception("a handler failed", subject=message.subject)
            if not self._closed:
                self._idle = idle = asyncio.get_running_loop().create_future()
                await idle


class Inbound(Parser):
    """nats-py's parser, with our lanes beside its subscriptions.

    Attributes:
        lanes: by the number of their subscription.
    """

    def __init__(self, client: Any) -> None:
        self.lanes: dict[int, Lane] = {}
        super().__init__(client)

    def reset(self) -> None:
        """Begin anew, on a new connection."""
        super().reset()
        self._held: list[bytes] = []
        self._size = self._wanted = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take in what came from the connection.

        Raises:
            ProtocolError: it is not what a broker says.
        """
        held = self._held
        held.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return  # the rest of a large message is still to come
        if len(held) > 1:
            data = b"".join(held)
        held.clear()
        at, self._wanted = await self._parse(data)
        if held is self._held:  # else another connection began meanwhile, and this rest is the old one's
            rest = data[at:]
            self._size = len(rest)
            if rest:
                held.append(rest)
        else:
            self._wanted = 0

    async def _parse(self, data: bytes) -> tuple[int, int]:
        """Take in every whole message: where the rest begins, and how many bytes are needed to go on."""
        at, lanes, held = 0, self.lanes, self._held
        while held is self._held:
            end = data.find(_END, at)
            if end < 0:
                if len(data) - at > _LONGEST_LINE:
                    raise ProtocolError
                break
            if not data.startswith((b"MSG ", b"HMSG "), at):
                await super().parse(data[at : end + 2])
                at = end + 2
                continue
            words = data[at:end].decode(errors="replace").split()
            body = end + 2
            try:
                number, stop = int(words[2]), body + int(words[-1])
                if stop + 2 > len(data):
                    return at, stop + 2 - at
                reply, head = "", None
                if words[0] == "MSG":
                    if len(words) == 5:
                        reply = words[3]
                    payload = data[body:stop]
                else:
                    if len(words) == 6:
                        reply = words[3]
                    start = body + int(words[-2])
                    head, payload = data[body:start], data[start:stop]
            except (ValueError, IndexError):
                raise ProtocolError from None
            at = stop + 2
            lane = lanes.get(number)
            if lane is not None:
                lane.put(Delivered(words[1], reply, payload, head))
            else:
                await self.nc._process_msg(  # noqa: SLF001 - its own requests
                    number, words[1].encode(), reply.encode(), payload, head
                )
        return at, 0
