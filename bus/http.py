"""The HTTP side of the frame: health, readiness, metrics, the service's routes, errors as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bus.settings import Settings
from schemas.errors import Conflict, InvalidDocument, MinicloudError

if TYPE_CHECKING:
    from bus.frame import Frame

log = structlog.get_logger("http")


class HttpServer:
    """A running server; ``url`` is where it answers."""

    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], url: str) -> None:
        self._server = server
        self._task = task
        self.url = url

    async def stop(self) -> None:
        """Finish the requests at hand and close."""
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._task, 3.0)


async def serve_http(frame: Frame[Any]) -> HttpServer:
    """Serve the frame's routes.

    Raises:
        Conflict: the port is taken.
        InvalidDocument: the certificate or its key cannot be used.
    """
    settings = frame.settings
    encrypted = _encrypted(settings)
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    # TCP by name: only then does asyncio switch off Nagle's algorithm, which holds back an answer's body
    # until the client has acknowledged its head, 40 ms later.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.http_host, settings.http_port or 0))
        listener.listen(2048)  # whoever connects from now on waits, and is not refused
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {settings.http_host}:{settings.http_port}: {error.strerror}",
            field="setting http_port",
            expected="a free port; 0 picks one",
        ) from None
    config = uvicorn.Config(
        _Application(frame), log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=2
    )
    if encrypted is not None:
        config.load()
        config.ssl = encrypted
    server = uvicorn.Server(config)
    task = asyncio.create_task(_serve(server, listener))
    host, port = listener.getsockname()[:2]
    return HttpServer(server, task, f"{'https' if encrypted else 'http'}://{host}:{port}")


def _encrypted(settings: Settings) -> ssl.SSLContext | None:
    """How HTTP is encrypted; None where it is not."""
    if settings.http_cert is None and settings.http_key is None:
        return None
    if settings.http_cert is None or settings.http_key is None:
        missing = "http_cert" if settings.http_cert is None else "http_key"
        raise InvalidDocument(
            "the other half is missing", field=f"setting {missing}", expected="both http_cert and http_key"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.http_cert, settings.http_key)
    except OSError as error:  # ssl's own are OSErrors, too
        raise InvalidDocument(
            f"{settings.http_cert} and {settings.http_key} cannot be used: {error.strerror or error}",
            field="setting http_cert",
            expected="PEM files of a certificate and its key",
        ) from None
    return context


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Signals are the frame's business, so uvicorn's own handling is left out.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    await server.serve(sockets=[listener])


class _Application:
    """Routes that a service adds after the server has started are served too."""

    def __init__(self, frame: Frame[Any]) -> None:
        self._frame = frame
        self._built: Starlette | None = None
        self._count = -1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._built is None or len(self._frame.routes) != self._count:
            self._count = len(self._frame.routes)
            self._built = _build(self._frame)
        await self._built(scope, receive, send)


def _build(frame: Frame[Any]) -> Starlette:
    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "service": frame.name})

    async def readyz(_: Request) -> Response:
        return JSONResponse(
            {"ready": frame.ready, "connected": frame.bus.wire.connected}, 200 if frame.ready else 503
        )

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(generate_latest(frame.registry), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *frame.routes,
            Route("/metrics", metrics),  # after those of the service, which may have a page of its own
        ],
        exception_handlers={MinicloudError: _refuse, HTTPException: _http_error},
        middleware=[Middleware(_Unforeseen)],
    )


class _Unforeseen:
    """Whatever a route raises, its caller reads a document and our log tells why."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def tell(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except Exception as error:
            log.exception("a route failed", path=scope.get("path"))
            if begun:
                raise  # half an answer is out: only a closed connection can tell
            failure = MinicloudError(f"{type(error).__name__}: {error}")
            await JSONResponse(failure.document(), failure.status)(scope, receive, send)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, MinicloudError)  # noqa: S101 - Starlette routes by type
    return JSONResponse(error.document(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    allowed = (error.headers or {}).get("Allow")
    document = {
        "code": str(error.detail).replace(" ", ""),
        "message": f"{request.method} {request.url.path}",
        "field": None,
        "expected": allowed,
    }
    return JSONResponse(document, error.status_code, error.headers)
