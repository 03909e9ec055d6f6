"""JetStream on top of the port: its JSON API, and publishing with every acknowledgement checked.

Publishing is pipelined: a message waits for its own acknowledgement, not for the one before. What
is unacknowledged when the connection breaks is sent again under the same ``Nats-Msg-Id``, which
the broker drops if it had stored it already, so nothing is lost and nothing is stored twice.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from bus.port import Message, Wire
from bus.streams import STREAMS
from schemas.errors import Conflict, InvalidDocument, MinicloudError, NotFound, Unavailable

API: Final = "$JS.API"
_WINDOW: Final = 4096
_WRONG_LAST_SEQUENCE: Final = 10071
_STREAM_NOT_FOUND: Final = 10059
_CONSUMER_NOT_FOUND: Final = 10014
_RESEND_AFTER: Final = 2.0


@dataclass(slots=True)
class _Flight:
    """A message that is not yet acknowledged."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    stored: asyncio.Future[int]
    timeout: float
    until: float


class JetStream:
    """The part of JetStream that the bus uses."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._flights: dict[str, _Flight] = {}
        self._next = 0
        self._inbox = ""
        self._window = asyncio.Semaphore(_WINDOW)
        self._resender: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._back: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Listen for acknowledgements."""
        self._inbox = self.wire.inbox()
        await self.wire.subscribe(f"{self._inbox}.*", self._on_ack)
        self.wire.on_reconnect(self._on_reconnect)

    async def stop(self) -> None:
        """Fail what is still unacknowledged."""
        if self._resender:
            self._resender.cancel()
        if self._alarm:
            self._alarm.cancel()
        for flight in self._flights.values():
            if not flight.stored.done():
                flight.stored.set_exception(
                    Unavailable("closed before the broker had it", field=flight.subject)
                )
                flight.stored.exception()
        self._flights.clear()

    async def publish(
        self,
        subject: str,
        payload: bytes,
        message_id: str,
        *,
        expect: int | None = None,
        timeout: float = 30.0,
    ) -> int:
        """Store ``payload`` and return its revision in the stream.

        Args:
            subject: a subject that a stream takes in.
            payload: the message.
            message_id: the same id again within two minutes is the same message.
            expect: the revision that must be the subject's last one (0: none yet).
            timeout: seconds; the message may still be stored after it.

        Raises:
            Conflict: somebody else wrote this subject since ``expect``.
            Unavailable: not stored within ``timeout``.
            InvalidDocument: larger than the broker takes.
        """
        if len(payload) + 256 > self.wire.max_payload:
            raise InvalidDocument(
                f"{len(payload)} bytes are more than the broker takes",
                field=subject,
                expected=f"at most {self.wire.max_payload - 256} bytes",
            )
        headers = {"Nats-Msg-Id": message_id}
        if expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect)
        async with self._window:
            self._next += 1
            key = f"{self._inbox}.{self._next}"
            loop = asyncio.get_running_loop()
            until = loop.time() + timeout
            flight = _Flight(subject, payload, headers, loop.create_future(), timeout, until)
            self._flights[key] = flight
            if self._alarm is None or until < self._alarm.when():
                self._set_alarm(until)
            try:
                await self.wire.publish(subject, payload, key, headers)
                return await flight.stored
            finally:
                del self._flights[key]

    async def api(
        self, verb: str, body: dict[str, Any] | None = None, timeout: float = 5.0
    ) -> dict[str, Any]:
        """One call of JetStream's JSON API; every one of them may be repeated, and is after a reconnect.

        Raises:
            NotFound: no such stream, consumer or message.
            Conflict: whatever else the broker says no to.
            Unavailable: JetStream does not answer.
        """
        payload = json.dumps(body).encode() if body else b""
        answer = json.loads((await self._ask(f"{API}.{verb}", payload, timeout)).data)
        if "error" in answer:
            raise _error(answer["error"], verb)
        return answer  # type: ignore[no-any-return]

    async def ensure_streams(self, minicloud: str) -> None:
        """Make the streams of a minicloud, or bring them to what is declared."""
        for stream in STREAMS:
            wanted = stream.config(minicloud)
            try:
                await self.api(f"STREAM.CREATE.{wanted['name']}", wanted, timeout=15.0)
            except Conflict:
                await self.api(f"STREAM.UPDATE.{wanted['name']}", wanted, timeout=15.0)

    async def last(self, stream: str, subject: str) -> tuple[int, bytes] | None:
        """The last message of a subject with its revision, or None."""
        answer = await self._ask(f"{API}.DIRECT.GET.{stream}.{subject}", b"", 5.0)
        headers = answer.headers or {}
        if headers.get("Status") == "404":
            return None
        return int(headers["Nats-Sequence"]), answer.data

    async def _ask(self, subject: str, payload: bytes, timeout: float) -> Message:
        """One answer; a request that was on its way when the connection broke is asked again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            left = max(0.01, until - loop.time())
            asking = asyncio.ensure_future(self.wire.request(subject, payload, left))
            either: set[asyncio.Future[Any]] = {asking, self._back}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return asking.result()
            finally:
                asking.cancel()

    async def _on_ack(self, message: Message) -> None:
        flight = self._flights.get(message.subject)
        if flight is None or flight.stored.done():
            return
        if not message.data:  # nobody listens: no stream yet, or JetStream is starting
            self._resend_later()
            return
        answer = json.loads(message.data)
        if "error" in answer:
            flight.stored.set_exception(_error(answer["error"], flight.subject))
        else:
            flight.stored.set_result(answer["seq"])

    def _set_alarm(self, until: float) -> None:
        """One timer for all that is in flight: one for each would cost more than the publish."""
        if self._alarm:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(until, self._fail_overdue)

    def _fail_overdue(self) -> None:
        self._alarm = None
        waiting = [flight for flight in self._flights.values() if not flight.stored.done()]
        now = asyncio.get_running_loop().time()
        for flight in waiting:
            if flight.until <= now:
                flight.stored.set_exception(
                    Unavailable(f"not stored within {flight.timeout:g} s", field=flight.subject)
                )
        left = [flight.until for flight in waiting if flight.until > now]
        if left:
            self._set_alarm(min(left))

    async def _on_reconnect(self) -> None:
        back, self._back = self._back, asyncio.get_running_loop().create_future()
        back.set_result(None)
        await self._resend()

    async def _resend(self) -> None:
        for key, flight in list(self._flights.items()):
            if not flight.stored.done():
                await self.wire.publish(flight.subject, flight.payload, key, flight.headers)

    def _resend_later(self) -> None:
        if self._resender is None or self._resender.done():
            self._resender = asyncio.create_task(self._resend_soon())

    async def _resend_soon(self) -> None:
        await asyncio.sleep(_RESEND_AFTER)
        await self._resend()


def _error(error: dict[str, Any], where: str) -> MinicloudError:
    description, code = str(error.get("description")), error.get("err_code")
    if code == _WRONG_LAST_SEQUENCE:
        return Conflict("somebody else wrote it first", field=where, expected=description)
    if error.get("code") == 404 or code in (_STREAM_NOT_FOUND, _CONSUMER_NOT_FOUND):
        return NotFound(description, field=where)
    if error.get("code") in (500, 503):
        return Unavailable(description, field=where)
    return Conflict(description, field=where)
