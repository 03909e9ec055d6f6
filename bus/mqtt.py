"""The MQTT side of the bus, with the same words: publish, subscribe; for devices, users and retained status.

paho-mqtt runs its own thread; everything here belongs to an asyncio loop. A publish at QoS 1
returns when the broker has acknowledged it; what is unacknowledged when the connection breaks is
sent again on return. Topics are checked first, since the broker answers a bad one by disconnecting,
for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import structlog

from bus.lean import import_without
from bus.port import Endpoint
from bus.tls import trust
from schemas.errors import Forbidden, InvalidDocument, Unavailable
from schemas.event import Event, EventData, read_event
from schemas.names import subject_of_topic, topic

import_without("paho.mqtt.client", "dns")

import paho.mqtt.client as paho  # noqa: E402 - only now, without what it does not need
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode  # noqa: E402

log = structlog.get_logger("mqtt")
Data = TypeVar("Data", bound=EventData)


class MqttBus:
    """One MQTT connection."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[str, Callable[[str, bytes, bool], Awaitable[None]]] = {}
        self._acknowledged: dict[int, asyncio.Future[None]] = {}
        self._granted: dict[int, asyncio.Future[None]] = {}
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._queue: asyncio.Queue[tuple[str, str, bytes, bool]] = asyncio.Queue()
        self._worker = asyncio.create_task(self._work())

    @classmethod
    async def connect(
        cls, url: str, endpoint: Endpoint, client_id: str = "", *, timeout: float = 30.0
    ) -> Self:
        """Connect to ``mqtt://host:port`` (``mqtts://`` for TLS) with the endpoint's user and password.

        Raises:
            Forbidden: the broker refuses the credential.
            Unavailable: no broker within ``timeout`` seconds.
        """
        where = urlsplit(url)
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        if endpoint.user:
            client.username_pw_set(endpoint.user, endpoint.password)
        if where.scheme == "mqtts" or endpoint.ca:
            client.tls_set_context(trust(endpoint.ca))
        client.reconnect_delay_set(min_delay=1, max_delay=10)
        client.max_inflight_messages_set(200)
        bus = cls(client)
        client.on_connect = bus._on_connect
        client.on_publish = bus._on_publish
        client.on_message = bus._on_message
        client.on_subscribe = bus._on_subscribe
        client.connect_async(where.hostname or "127.0.0.1", where.port or 1883, keepalive=20)
        client.loop_start()
        try:
            await asyncio.wait_for(asyncio.shield(bus._connected), timeout)
        except TimeoutError:
            await bus.close()
            raise Unavailable(f"no MQTT broker answers at {url}", expected="a running broker") from None
        except Forbidden:
            await bus.close()
            raise
        return bus

    async def close(self) -> None:
        """Say goodbye and end."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self._worker.cancel()
        for waiting in self._acknowledged.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("closed before the broker had it"))
                waiting.exception()

    async def publish(
        self, subject: str, event: Event[Any], *, retain: bool = False, qos: int = 1, timeout: float = 30.0
    ) -> None:
        """Publish on the topic of ``subject``; at QoS 1 return when the broker has acknowledged it.

        Raises:
            Unavailable: not acknowledged within ``timeout`` seconds; it may still arrive.
        """
        await self.publish_bytes(subject, event.to_json(), retain=retain, qos=qos, timeout=timeout)

    async def publish_bytes(
        self, subject: str, payload: bytes, *, retain: bool = False, qos: int = 1, timeout: float = 30.0
    ) -> None:
        """As :meth:`publish`, for what is no event; an empty retained payload clears a topic."""
        name = topic(subject)
        subject_of_topic(name)
        sent = self._client.publish(name, payload, qos=qos, retain=retain)
        if qos == 0:
            return
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._acknowledged[sent.mid] = waiting
        try:
            async with asyncio.timeout(timeout):  # wait_for of Python 3.11 may lose a cancellation
                await waiting
        except TimeoutError:
            raise Unavailable(f"not acknowledged within {timeout:g} s", field=name) from None
        finally:
            self._acknowledged.pop(sent.mid, None)

    async def subscribe(
        self, subject: str, kind: type[Data], handler: Callable[[Event[Data], bool], Awaitable[None]]
    ) -> None:
        """Call ``handler(event, retained)`` for each event on the topics of ``subject``.

        Raises:
            Forbidden: the broker refuses the subscription.
        """

        async def on_payload(name: str, payload: bytes, retained: bool) -> None:
            try:
                await handler(read_event(payload, kind), retained)
            except InvalidDocument as error:
                log.warning("cannot be read", topic=name, error=str(error))

        name = topic(subject)
        self._handlers[name] = on_payload
        result, mid = self._client.subscribe(name, qos=1)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise Unavailable("the MQTT connection is away", field=name)
        granted = self._granted[mid] = self._loop.create_future()
        await asyncio.wait_for(granted, 10.0)

    async def _work(self) -> None:
        while True:
            pattern, name, payload, retained = await self._queue.get()
            try:
                await self._handlers[pattern](name, payload, retained)
            except Exception:
                log.exception("a handler failed", topic=name)

    # -- paho's thread ---------------------------------------------------------------------------

    def _in_loop(self, function: Callable[..., Any], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _props: Any) -> None:
        if reason.is_failure:
            self._in_loop(self._connect_failed, str(reason))
            return
        for name in self._handlers:
            client.subscribe(name, qos=1)
        self._in_loop(_resolve, self._connected)

    def _connect_failed(self, reason: str) -> None:
        if not self._connected.done():
            self._connected.set_exception(
                Forbidden(f"the broker refuses: {reason}", expected="a credential that is not revoked")
            )
        log.warning("MQTT connection refused", reason=reason)

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _props: Any) -> None:
        self._in_loop(self._acknowledge, mid)

    def _acknowledge(self, mid: int) -> None:
        waiting = self._acknowledged.get(mid)
        if waiting is None:
            return
        _resolve(waiting)

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: list[Any], _props: Any) -> None:
        self._in_loop(self._grant, mid, any(reason.is_failure for reason in reasons))

    def _grant(self, mid: int, refused: bool) -> None:
        waiting = self._granted.pop(mid, None)
        if waiting is None or waiting.done():
            return
        if refused:
            waiting.set_exception(Forbidden("the broker refuses this subscription"))
        else:
            waiting.set_result(None)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        for pattern in self._handlers:
            if paho.topic_matches_sub(pattern, message.topic):
                self._in_loop(
                    self._queue.put_nowait, (pattern, message.topic, bytes(message.payload), message.retain)
                )
                return


def _resolve(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
