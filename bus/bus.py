"""The verbs of the bus: publish, emit, subscribe, consume, request, serve, watch.

In: typed data of ``schemas/`` and subjects of :class:`schemas.names.Subjects`. Out: the same. What
cannot be read goes whole to the dead letters with the reason, whichever verb met it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

import structlog
from pydantic import BaseModel

from bus.consume import Consumption, Retry
from bus.jetstream import JetStream
from bus.lease import Lease
from bus.micro import MicroService
from bus.natspy import NatsWire
from bus.port import Endpoint, Message, Subscription, Wire
from bus.pull import Delivery
from bus.streams import stream_of
from bus.watch import Reader, WatchItem
from schemas.dead import DeadLetter
from schemas.errors import Conflict, InvalidDocument, MinicloudError, from_document, readable
from schemas.event import Event, EventData, event, now, read_document, read_event
from schemas.names import Subjects, name_in

log = structlog.get_logger("bus")

Data = TypeVar("Data", bound=EventData)
Doc = TypeVar("Doc", bound=BaseModel)
_LONGEST_REASON: Final = 2000


class Bus:
    """One connection to the bus of one minicloud.

    Attributes:
        minicloud: whose bus it is.
        source: who we are in the events that we send, ``/<minicloud>/<name>``.
        subjects: the minicloud's subjects.
    """

    def __init__(self, wire: Wire, minicloud: str, name: str, *, discoverable: bool = True) -> None:
        self.minicloud = minicloud
        self.name = name
        self.source = f"/{minicloud}/{name}"
        self.subjects = Subjects(minicloud)
        self.wire = wire
        self.jetstream = JetStream(wire)
        self.buried = 0
        self._discoverable = discoverable
        self._instance = os.urandom(6).hex()
        self._micro: dict[str, MicroService] = {}
        self._running: list[Consumption] = []

    @classmethod
    async def connect(
        cls,
        endpoint: Endpoint,
        minicloud: str,
        name: str,
        *,
        timeout: float = 30.0,
        discoverable: bool = True,
    ) -> Self:
        """Connect as ``name`` to the minicloud's broker.

        Args:
            endpoint: where it is and who we are there.
            minicloud: whose bus it is.
            name: who we are in events.
            timeout: seconds.
            discoverable: whether tools find the verbs that are served; on links between miniclouds none may.

        Raises:
            Forbidden: the broker refuses the credential.
            Unavailable: no broker within ``timeout`` seconds.
        """
        wire = await NatsWire.connect(endpoint, timeout)
        bus = cls(wire, minicloud, name, discoverable=discoverable)
        await bus.jetstream.start()
        return bus

    async def stop_consuming(self) -> None:
        """Finish the messages at hand and take no more."""
        await asyncio.gather(*(consumption.stop() for consumption in self._running))

    async def close(self) -> None:
        """Stop what was started here and close the connection."""
        await self.stop_consuming()
        for service in self._micro.values():
            await service.stop()
        await self.jetstream.stop()
        await self.wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ensure_streams(self) -> None:
        """Make or migrate every stream of the minicloud."""
        await self.jetstream.ensure_streams(self.minicloud)

    def event(self, data: Data, subject: str | None = None, *, event_id: str | None = None) -> Event[Data]:
        """``data`` as an event from us."""
        return event(data, self.source, subject, event_id=event_id)

    # -- sending ---------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        data: Data | Event[Data],
        *,
        about: str | None = None,
        event_id: str | None = None,
        expect: int | None = None,
        timeout: float = 30.0,
    ) -> int:
        """Publish and return its revision once JetStream has stored it.

        Many may be in flight: gather them, and each is acknowledged or fails by itself.

        Args:
            subject: where; a stream must keep it.
            data: what; wrapped into an event unless it is one.
            about: the event's own ``subject``: a node, a deployment.
            event_id: the same id is the same fact, stored once.
            expect: the revision that must be the subject's last (0 for none), else :class:`Conflict`.
            timeout: seconds.
        """
        whole = data if isinstance(data, Event) else self.event(data, about, event_id=event_id)
        return await self.jetstream.publish(
            subject, whole.to_json(), whole.id, expect=expect, timeout=timeout
        )

    async def emit(self, subject: str, data: Data | Event[Data], *, about: str | None = None) -> None:
        """Publish without waiting for anything: for metrics, where the next one repairs the loss."""
        whole = data if isinstance(data, Event) else self.event(data, about)
        await self.wire.publish(subject, whole.to_json())

    async def flush(self) -> None:
        """Await that the broker has processed all that was emitted."""
        await self.wire.flush()

    # -- receiving -------------------------------------------------------------------------------

    async def subscribe(
        self,
        subject: str,
        kind: type[Data],
        handler: Callable[[Event[Data]], Awaitable[None]],
        *,
        queue: str = "",
    ) -> Subscription:
        """Live, at most once: ``handler`` for each event that comes while we are connected."""

        async def on_message(message: Message) -> None:
            try:
                received = read_event(message.data, kind)
            except InvalidDocument as error:
                await self.bury(message.subject, message.data, error)
                return
            try:
                await handler(received)
            except Exception:
                log.exception("a handler failed", subject=message.subject)

        return await self.wire.subscribe(subject, on_message, queue)

    async def consume(
        self,
        subject: str,
        kind: type[Data],
        handler: Callable[[Event[Data]], Awaitable[None]],
        *,
        durable: str,
        retry: Retry | None = None,
        ack_wait: float = 30.0,
    ) -> Consumption:
        """Durable, at least once, in order; see ``bus/consume.py``.

        Two processes with the same ``durable`` share the work.
        """
        stream = stream_of(subject)

        async def bury(message: Message, error: Exception, delivery: Delivery) -> None:
            await self.bury(
                message.subject,
                message.data,
                error,
                stream=stream.name(self.minicloud),
                revision=delivery.revision,
                deliveries=delivery.deliveries,
            )

        consumption = Consumption(
            self.jetstream,
            stream.name(self.minicloud),
            durable,
            [subject],
            lambda message: read_event(message.data, kind, source=f"/{self.minicloud}/unknown"),
            handler,
            bury,
            retry or Retry(),
            ack_wait,
        )
        await consumption.start()
        self._running.append(consumption)
        return consumption

    @asynccontextmanager
    async def watch(
        self,
        kinds: Mapping[str, type[EventData]],
        *,
        since: int | None = None,
        consumer: str | None = None,
        keep_bad: bool = False,
        quick: Callable[[bytes], Any] | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchItem[Any]]]:
        """The present state, then every change, without a gap.

        ::

            async with bus.watch({bus.subjects.presence(): Presence}) as items:
                async for item in items: ...

        Args:
            kinds: what is published on each subject (wildcards allowed); all in one stream.
            since: resume after this revision instead of beginning with the present state.
            consumer: the consumer's name for a credential that may use only one.
            keep_bad: hand out what cannot be read (``item.error``) after it was buried.
            quick: reads what is ordinary at less cost; what it returns is handed out in place of the event,
                and where that is None, the payload is read as ever.

        Raises:
            TooOld: ``since`` is no longer kept, or the stream was made anew meanwhile.
        """
        stream = stream_of(next(iter(kinds)))
        reader = Reader(self.jetstream, stream, self.minicloud, list(kinds), since=since, consumer=consumer)
        kind_of = _kind_finder(kinds)
        await reader.start()
        try:
            yield self._typed(reader, kind_of, stream.name(self.minicloud), keep_bad=keep_bad, quick=quick)
        finally:
            await reader.stop()

    async def _typed(
        self,
        reader: Reader,
        kind_of: Callable[[str], type[EventData]],
        stream: str,
        *,
        keep_bad: bool,
        quick: Callable[[bytes], Any] | None = None,
    ) -> AsyncIterator[WatchItem[Any]]:
        async for item in reader:
            if not item.subject:
                yield item
                continue
            received = quick(item.payload) if quick is not None else None
            try:
                if received is None:
                    received = read_event(
                        item.payload, kind_of(item.subject), source=f"/{self.minicloud}/unknown"
                    )
            except InvalidDocument as error:
                await self.bury(item.subject, item.payload, error, stream=stream, revision=item.revision)
                if keep_bad:
                    yield WatchItem(item.kind, item.revision, item.subject, None, item.payload, error)
                continue
            yield WatchItem(item.kind, item.revision, item.subject, received, item.payload)

    async def bury(
        self,
        subject: str,
        payload: bytes,
        error: Exception,
        *,
        stream: str | None = None,
        revision: int | None = None,
        deliveries: int = 1,
    ) -> None:
        """Put a message that cannot be handled, whole, among the dead letters with the reason."""
        self.buried += 1
        text, encoding, cut = _carried(payload, self.wire.max_payload * 2 // 3)
        letter = DeadLetter(
            service=self.name,
            subject=subject,
            stream=stream,
            revision=revision,
            deliveries=deliveries,
            reason=readable(str(error) or type(error).__name__, _LONGEST_REASON),
            problems=error.problems if isinstance(error, InvalidDocument) else [],
            encoding=encoding,
            payload=text,
            size=len(payload),
            truncated=cut,
            buried_at=now(),
        )
        log.warning("buried", subject=subject, reason=letter.reason, size=letter.size)
        identity = f"{self.name}|{stream}|{revision}".encode() if revision else os.urandom(16)
        await self.publish(
            self.subjects.dead(self.name.split("/")[0]),
            letter,
            about=name_in(subject) if subject.count(".") >= 3 else None,
            event_id=hashlib.sha256(identity).hexdigest(),
        )

    # -- asking ----------------------------------------------------------------------------------

    async def request(
        self,
        service: str,
        verb: str,
        document: BaseModel | dict[str, Any] | None = None,
        *,
        instance: str | None = None,
        minicloud: str | None = None,
        timeout: float = 5.0,
    ) -> Any:
        """Ask a service and return its answer, a JSON value.

        Args:
            service: which.
            verb: what of it.
            document: what is asked.
            instance: the one of several that must answer.
            minicloud: whose service, on a link; our own by default.
            timeout: seconds.

        Raises:
            RequestTimeout: no answer in time.
            Unavailable: nobody serves it.
            MinicloudError: the service's own error, as it raised it.
        """
        if isinstance(document, BaseModel):
            payload = document.model_dump_json(by_alias=True, exclude_unset=True).encode()
        else:
            payload = json.dumps(document or {}).encode()
        subjects = Subjects(minicloud) if minicloud else self.subjects
        message = await self.wire.request(subjects.service(service, verb, instance), payload, timeout)
        if message.headers and "Nats-Service-Error-Code" in message.headers:
            raise from_document(json.loads(message.data))
        return json.loads(message.data)

    async def serve(
        self,
        service: str,
        verb: str,
        kind: type[Doc],
        handler: Callable[[Doc], Awaitable[BaseModel | dict[str, Any] | bytes]],
        *,
        instance: str | None = None,
    ) -> None:
        """Answer a verb; several processes that serve the same verb share the requests.

        ``handler`` gets the validated document and may raise any :class:`MinicloudError`.
        """
        micro = self._micro.get(service)
        if micro is None:
            micro = self._micro[service] = MicroService(self.wire, service, self._instance)
            if instance is None and self._discoverable:
                await micro.start()

        async def answer(payload: bytes) -> bytes:
            result = await handler(read_document(payload or b"{}", kind))
            if isinstance(result, bytes):
                return result
            if isinstance(result, BaseModel):
                return result.model_dump_json(by_alias=True).encode()
            return json.dumps(result, default=str).encode()

        await micro.add(
            verb, self.subjects.service(service, verb, instance), answer, queue=instance or service
        )

    def lease(self, name: str, holder: str = "") -> Lease:
        """The lease that lets one of several act; see ``bus/lease.py``."""
        return Lease(self.jetstream, f"{self.subjects.root}.lease.{name}", holder or self._instance)


def _carried(payload: bytes, room: int) -> tuple[str, str, bool]:
    """``payload`` as text of at most ``room`` bytes of JSON, its encoding, and whether it was cut."""
    with contextlib.suppress(UnicodeDecodeError):
        text = payload[:room].decode()
        if len(json.dumps(text)) <= room:
            return text, "utf-8", len(payload) > room
    kept = payload[: room // 4 * 3]
    return base64.b64encode(kept).decode(), "base64", len(kept) < len(payload)


def _kind_finder(kinds: Mapping[str, type[EventData]]) -> Callable[[str], type[EventData]]:
    if len(kinds) == 1:
        (only,) = kinds.values()
        return lambda _: only
    patterns = [(pattern.split("."), kind) for pattern, kind in kinds.items()]

    def find(subject: str) -> type[EventData]:
        tokens = subject.split(".")
        for pattern, kind in patterns:
            if len(pattern) == len(tokens) and all(
                p in ("*", t) for p, t in zip(pattern, tokens, strict=True)
            ):
                return kind
        raise Conflict("came on a subject that nobody asked for", field=subject)

    return find


async def gather_published(publishing: list[Awaitable[int]]) -> list[int]:
    """Await many publishes; the first failure is raised after all of them ended.

    Raises:
        MinicloudError: of the first that was not stored.
    """
    results = await asyncio.gather(*publishing, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result if isinstance(result, MinicloudError) else RuntimeError(repr(result)) from result
    return [result for result in results if isinstance(result, int)]
