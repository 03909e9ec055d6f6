"""nats-py behind the port of ``bus/port.py``: connects for ever, reports each reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client

from bus import tls
from bus.port import Endpoint, Handler, Message, Subscription
from schemas.errors import Forbidden, InvalidDocument, RequestTimeout, Unavailable

log = structlog.get_logger("bus")

# What a burst may fill before nats-py calls us a slow consumer and drops.
_PENDING_MESSAGES = 4_000_000
_PENDING_BYTES = 512 * 1024 * 1024
# What NATS puts around headers, and around each of them.
_HEADER_FRAME: Final = len("NATS/1.0\r\n\r\n")
_HEADER_SIGNS: Final = len(": \r\n")


class NatsWire:
    """A nats-py connection that is a :class:`bus.port.Wire`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        self._ended = asyncio.Event()
        self._leaving: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, endpoint: Endpoint, timeout: float = 30.0) -> NatsWire:
        """Connect, trying for ``timeout`` seconds until the broker is there.

        Raises:
            Forbidden: the broker does not know this user or password.
            Unavailable: no broker answers at this address.
        """
        encrypted = tls.wanted(endpoint)
        context = tls.trust(endpoint.ca) if encrypted else None
        make = tls.EncryptedClient if encrypted else Client
        client = make()
        wire = cls(client)
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                await client.connect(
                    servers=[url.strip() for url in endpoint.url.split(",")],
                    name=endpoint.name,
                    user=endpoint.user or None,
                    password=endpoint.password or None,
                    inbox_prefix=endpoint.inbox_prefix,
                    tls=context,
                    # While these allow it, nats-py tries for ever by itself and tells neither a refused
                    # credential nor a broker that is not there: switched on once we are connected.
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]  # a float works and is wanted
                    connect_timeout=5,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=64 * 1024 * 1024,
                    flusher_queue_size=8192,
                    error_cb=wire._on_error,
                    reconnected_cb=wire._on_reconnected,
                    disconnected_cb=wire._on_disconnected,
                    closed_cb=wire._on_closed,
                    reconnect_to_server_handler=None,
                )
            except nats.errors.AuthorizationError:
                raise _refused(endpoint) from None
            except ssl.SSLCertVerificationError as error:
                raise tls.distrusted(endpoint.url, error) from None
            except tls.NoTls:
                raise tls.in_the_clear(endpoint.url) from None
            except (OSError, nats.errors.Error, TimeoutError) as error:
                if "authorization" in str(error).lower():
                    raise _refused(endpoint) from None
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(
                        f"no broker answers at {endpoint.url}: {error or type(error).__name__}",
                        expected="a running broker; `minicloud up` starts one",
                    ) from None
                with contextlib.suppress(Exception):
                    await client.close()
                client = wire._client = make()
                await asyncio.sleep(0.05)
            else:
                client.options["allow_reconnect"] = True
                client.options["max_reconnect_attempts"] = -1
                wire._ended.clear()  # an attempt that failed ends, too
                return wire

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable at this moment."""
        return self._client.is_connected

    @property
    def ended(self) -> asyncio.Event:
        """Set once the connection is gone for good, by our wish or by the broker's word."""
        return self._ended

    @property
    def max_payload(self) -> int:
        """The broker's limit for one message, bytes."""
        return self._client.max_payload

    def inbox(self) -> str:
        """A fresh subject that only we may read."""
        return self._client.new_inbox()

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send; while reconnecting it goes into the buffer."""
        # The broker counts headers, nats-py does not; and a message too large costs us the connection.
        size = len(payload) + (_size(headers) if headers else 0)
        if size > self._client.max_payload:
            raise InvalidDocument(
                f"{size} bytes are more than the broker takes",
                field=subject,
                expected=f"at most {self._client.max_payload} bytes",
            )
        try:
            await self._client.publish(subject, payload, reply, headers)
        except nats.errors.OutboundBufferLimitError:
            raise Unavailable("the broker is away and the send buffer is full", field=subject) from None
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            raise Unavailable("the connection is closed", field=subject) from None

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Call ``handler`` for each message, one after the other."""
        subscription: Subscription = await self._client.subscribe(
            subject,
            queue=queue,
            cb=handler,  # nats-py's Msg has what our Message asks for
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=_PENDING_BYTES,
        )
        return subscription

    async def request(self, subject: str, payload: bytes, timeout: float) -> Message:
        """Send and await one answer."""
        try:
            return await self._client.request(subject, payload, timeout=timeout)
        except nats.errors.NoRespondersError:
            raise Unavailable("nobody answers there", field=subject, expected="the service to run") from None
        except (TimeoutError, nats.errors.TimeoutError):
            raise RequestTimeout(f"no answer within {timeout:g} s", field=subject) from None
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            raise Unavailable("the connection is closed", field=subject) from None

    async def flush(self, timeout: float = 10.0) -> None:
        """Await that the broker has processed everything sent before."""
        try:
            # nats-py writes a ping at once, past what it still buffers: the second is behind all of it.
            await self._client.flush(timeout=timeout)  # type: ignore[arg-type]
            await self._client.flush(timeout=timeout)  # type: ignore[arg-type]
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"the broker does not answer: {error}") from None

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after each reconnect."""
        self._callbacks.append(callback)

    async def close(self) -> None:
        """Hand over what is buffered and end."""
        if self._client.is_connected:
            with contextlib.suppress(Exception):
                await self._client.flush(timeout=2)
        await self._client.close()

    async def _on_error(self, error: Exception) -> None:
        log.warning("broker said", error=str(error) or type(error).__name__)
        if self._client.options.get("allow_reconnect") and "authorization violation" in str(error).lower():
            # Revoked or rotated since we were connected: nats-py would knock for ever.
            self._leaving = asyncio.ensure_future(self._client.close())

    async def _on_disconnected(self) -> None:
        log.info("broker away", url=str(self._client.connected_url and self._client.connected_url.netloc))

    async def _on_closed(self) -> None:
        self._ended.set()

    async def _on_reconnected(self) -> None:
        log.info("broker back")
        for callback in self._callbacks:
            await callback()


def _size(headers: Mapping[str, str]) -> int:
    """The bytes that headers take on the wire."""
    return _HEADER_FRAME + sum(
        len(name.encode()) + len(text.encode()) + _HEADER_SIGNS for name, text in headers.items()
    )


def _refused(endpoint: Endpoint) -> Forbidden:
    return Forbidden(
        f"the broker at {endpoint.url} refuses user {endpoint.user or '(none)'}",
        expected="a credential made by `minicloud credentials add` and not revoked",
    )
