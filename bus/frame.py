"""The frame that every service runs in: bus, logs, health, own metrics, a graceful stop.

A service is a coroutine ``serve(frame)``. The frame connects the bus, makes the streams, serves
``/healthz``, ``/readyz`` and ``/metrics`` (and the service's own routes) where an HTTP port is
set, and turns SIGTERM into ``frame.stopping``, after which the service finishes what it holds.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from bus.bus import Bus
from bus.ending import end
from bus.settings import Settings
from schemas.errors import MinicloudError, Unavailable

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

S = TypeVar("S", bound=Settings)
log = structlog.get_logger("frame")
_PATIENCE: Final = 10.0

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class Frame(Generic[S]):
    """What a service finds around it.

    Attributes:
        name: the service.
        settings: its settings.
        bus: its connection.
        stopping: set when it must finish.
        registry: its own Prometheus metrics.
        routes: HTTP routes that it adds before it says it is ready.
    """

    def __init__(self, name: str, settings: S, bus: Bus) -> None:
        self.name = name
        self.settings = settings
        self.bus = bus
        self.stopping = asyncio.Event()
        self.registry = CollectorRegistry()
        self.routes: list[BaseRoute] = []
        self.failure: BaseException | None = None
        self._ready = False
        self._tasks: set[asyncio.Task[Any]] = set()
        ProcessCollector(registry=self.registry)
        up = Gauge("minicloud_bus_connected", "1 while the broker is reachable", registry=self.registry)
        up.set_function(lambda: float(bus.wire.connected))
        buried = Gauge("minicloud_dead_letters", "Messages buried by this process", registry=self.registry)
        buried.set_function(lambda: float(bus.buried))

    @property
    def ready(self) -> bool:
        """Whether the service is in step with the bus and answers, and will go on to."""
        return self._ready and self.bus.wire.connected and not self.stopping.is_set()

    def say_ready(self, value: bool = True) -> None:
        """Tell whoever watches (``/readyz``) that the service answers now, or no longer does."""
        if value and not self._ready:
            log.info("ready", service=self.name)
        self._ready = value

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """A counter among the service's own metrics."""
        return Counter(name, meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        """A gauge among the service's own metrics."""
        return Gauge(name, meaning, labels, registry=self.registry)

    def spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``work`` beside the service; if it fails, the whole service stops and tells why.

        A half-dead service is worse than a dead one: whoever watches it starts it again.
        """

        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                log.exception("a part of the service failed", service=self.name)
                self.failure = self.failure or error
                self.stopping.set()

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what was spawned."""
        await end(list(self._tasks))


def configure_logs(level: str, form: str) -> None:
    """Structured logs on standard error: one JSON object a line, or text for people.

    What libraries say through Python's own logging takes the same form; of that, warnings and worse.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    first: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, renderer] if form == "json" else [renderer]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, _LEVELS[level]), force=True)


def main(name: str, serve: Callable[[Frame[S]], Awaitable[None]], kind: type[S], **given: Any) -> int:
    """Read the settings, then :func:`run`; a setting that is wrong is told in the log like all else."""
    try:
        settings = kind.load(**given)
    except MinicloudError as error:
        configure_logs("info", "json")
        log.error("cannot run", service=name, code=error.code, error=str(error))  # noqa: TRY400
        return 1
    return run(name, serve, settings)


def run(name: str, serve: Callable[[Frame[S]], Awaitable[None]], settings: S) -> int:
    """Run a service to its end and return the exit code: 0 after a wish to stop, 1 after a failure."""
    configure_logs(settings.log_level, settings.log_format)
    try:
        return asyncio.run(_run(name, serve, settings))
    except MinicloudError as error:
        log.error("cannot run", service=name, code=error.code, error=str(error))  # noqa: TRY400
        return 1
    except KeyboardInterrupt:
        return 0
    except Exception:
        log.exception("the service failed", service=name)
        return 1


async def _run(name: str, serve: Callable[[Frame[S]], Awaitable[None]], settings: S) -> int:
    bus = await Bus.connect(settings.endpoint(name), settings.minicloud, name)
    frame = Frame(name, settings, bus)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, frame.stopping.set)
    http = None
    if settings.http_port is not None:
        from bus.http import serve_http  # noqa: PLC0415 - a service without HTTP stays light

        http = await serve_http(frame)
    try:
        service = asyncio.ensure_future(serve(frame))
        stop = asyncio.ensure_future(frame.stopping.wait())
        cut = asyncio.ensure_future(bus.wire.ended.wait())
        await asyncio.wait({service, stop, cut}, return_when=asyncio.FIRST_COMPLETED)
        if cut.done():
            # nats-py does not come back from an error that the broker told it: a new process does.
            frame.failure = Unavailable("the broker ended the connection", expected="to be started again")
            log.error("cut off", service=name, error=str(frame.failure))
            frame.stopping.set()
        stop.cancel()
        cut.cancel()
        if not service.done():
            await asyncio.wait({service}, timeout=_PATIENCE)
            if not service.done():
                log.warning("did not end when asked to; cancelled", service=name, seconds=_PATIENCE)
                service.cancel()
                await asyncio.wait({service}, timeout=1.0)
        if service.done() and not service.cancelled() and service.exception():
            raise service.exception()  # type: ignore[misc]
    finally:
        # First, since handlers may need what was spawned.
        await bus.stop_consuming()
        await frame.close()
        if http:
            await http.stop()
        await bus.close()
    if frame.failure:
        return 1
    log.info("stopped", service=name)
    return 0
