"""The port to a NATS client library: what the bus asks of one, and no more.

nats-py stands behind it today (``bus/natspy.py``). Another client takes its place by offering the
same few calls; JetStream, acknowledgements and watches are built on them by the bus itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Message(Protocol):
    """A message as it came in."""

    @property
    def subject(self) -> str:
        """Where it was published."""

    @property
    def data(self) -> bytes:
        """The payload."""

    @property
    def reply(self) -> str:
        """Where an answer or acknowledgement goes; empty for none."""

    @property
    def headers(self) -> Mapping[str, str] | None:
        """Headers, a status line included as ``Status``."""


Handler = Callable[[Message], Awaitable[None]]


class Subscription(Protocol):
    """A live subscription."""

    async def unsubscribe(self) -> None:
        """End it; what was already received may still be handled."""


@dataclass(frozen=True)
class Endpoint:
    """Where the broker is and who we are there.

    Attributes:
        url: ``nats://host:port``, several separated by commas.
        user: user name, ``<role>.<name>``; empty only against a foreign broker without accounts.
        password: the secret.
        inbox_prefix: where answers come in; the broker lets a user read only its own.
        name: how the connection is labelled in the broker's monitoring.
        ca: a PEM file that the broker's certificate is checked against; asks for TLS.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    inbox_prefix: str = "_INBOX"
    name: str = "minicloud"
    ca: str | None = None


class Wire(Protocol):
    """A connection that survives its broker: it reconnects and renews its subscriptions by itself."""

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable at this moment."""

    @property
    def ended(self) -> asyncio.Event:
        """Set once the connection is gone for good, by our wish or by the broker's word."""

    @property
    def max_payload(self) -> int:
        """The broker's limit for one message, bytes."""

    def inbox(self) -> str:
        """A fresh subject that only we may read."""

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send; returns when it is on its way, which promises nothing.

        Raises:
            InvalidDocument: more than the broker takes, headers included.
            Unavailable: not connected and the buffer is full.
        """

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Call ``handler`` for each message, one after the other."""

    async def request(self, subject: str, payload: bytes, timeout: float) -> Message:
        """Send and await one answer.

        Raises:
            RequestTimeout: nobody answered in time.
            Unavailable: nobody listens there, or the connection is gone.
        """

    async def flush(self, timeout: float = 10.0) -> None:
        """Await that the broker has processed everything sent before."""

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after each reconnect."""

    async def close(self) -> None:
        """Hand over what is buffered and end."""
