"""Clients of the broker for tests: whoever connects, and what it was allowed."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import nats
import paho.mqtt.client as paho
from nats.aio.client import Client as NatsClient
from paho.mqtt.enums import CallbackAPIVersion

from bus.broker import Broker
from bus.credentials import Credential

TIMEOUT = 10.0


def wait_until(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Wait, bounded, for something that another thread or process brings about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)


class Told:
    """What a NATS client was told: errors, and the end of its connection."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.closed = asyncio.Event()
        self._news = asyncio.Event()

    async def on_error(self, error: Exception) -> None:
        self.errors.append(str(error))
        self._news.set()

    async def wait_for_errors(self, count: int) -> None:
        """Wait until ``count`` errors were told; nats-py hands them over behind the answer to a flush."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.errors) < count:
                self._news.clear()
                await self._news.wait()
        assert len(self.errors) == count, self.errors

    async def on_closed(self) -> None:
        self.closed.set()


@asynccontextmanager
async def nats_as(
    broker: Broker, credential: Credential, told: Told | None = None, **options: Any
) -> AsyncIterator[NatsClient]:
    """A NATS connection with a credential; ``told`` collects what the broker says to it."""
    told = told or Told()
    client = await nats.connect(
        broker.url,
        user=credential.user,
        password=credential.password,
        inbox_prefix=credential.inbox_prefix.encode(),
        allow_reconnect=False,
        error_cb=told.on_error,
        closed_cb=told.on_closed,
        **options,
    )
    try:
        yield client
    finally:
        await client.close()


async def settle(client: NatsClient) -> None:
    """Wait until the broker has processed all that was sent; nats-py's first ping may overtake it."""
    await client.flush()
    await client.flush()


class MqttClient:
    """A paho client that tells the outcome of each step; a context manager."""

    def __init__(self, broker: Broker, credential: Credential | None, client_id: str = "") -> None:
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.disconnected = threading.Event()
        self.refused: str | None = None
        self._broker = broker
        self._answered = threading.Event()
        self._granted: dict[int, list[int]] = {}
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, reconnect_on_failure=False
        )
        if credential is not None:
            self.paho.username_pw_set(credential.user, credential.password)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = lambda *_: self.disconnected.set()
        self.paho.on_message = lambda _client, _data, message: self.messages.put(message)
        self.paho.on_subscribe = self._on_subscribe

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._answered.set()

    def _on_subscribe(self, _client: Any, _data: Any, number: int, reasons: Any, _properties: Any) -> None:
        self._granted[number] = [reason.value for reason in reasons]

    def __enter__(self) -> Self:
        self.paho.connect(self._broker.settings.host, self._broker.ports.mqtt)
        self.paho.loop_start()
        assert self._answered.wait(TIMEOUT), "no CONNACK"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def subscribe(self, topic: str, qos: int = 1) -> bool:
        """Subscribe; whether the broker granted it."""
        _, number = self.paho.subscribe(topic, qos)
        assert number is not None
        wait_until(lambda: number in self._granted, f"a SUBACK for {topic}")
        return self._granted[number][0] < 0x80

    def publish(self, topic: str, payload: str = "1", qos: int = 1, *, retain: bool = False) -> None:
        """Publish; at QoS 1 and 2 the broker has taken it, or dropped it unsaid, when this returns."""
        self.paho.publish(topic, payload, qos, retain).wait_for_publish(TIMEOUT)

    def next(self) -> paho.MQTTMessage:
        """The next message that arrives."""
        return self.messages.get(timeout=TIMEOUT)

    def cut(self) -> None:
        """End the connection without a word, as a pulled cable or a killed process would."""
        wire = self.paho.socket()
        assert isinstance(wire, socket.socket)
        wire.shutdown(socket.SHUT_RDWR)
