"""The monitor, wired: watches in; the API, Prometheus' page, the archive and events about troubles out.

Every monitor of a minicloud knows and answers; the one that holds the lease says which nodes are in trouble.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import generate_latest

from bus.bus import Bus
from bus.consume import Retry
from bus.follow import check_speaker, follow
from bus.frame import Frame
from bus.watch import WatchItem
from schemas.errors import MinicloudError, Unavailable
from schemas.event import Event
from schemas.liveness import Thresholds
from schemas.node import Characterization, Measurement, Presence
from schemas.trouble import NodeTrouble
from schemas.workload import ObservedWorkload, WorkerStatus
from services.monitor.answer import Answers
from services.monitor.api import routes
from services.monitor.fleet import Fleet
from services.monitor.guard import Guard
from services.monitor.page import Page
from services.monitor.prometheus import Prometheus
from services.monitor.settings import MonitorSettings
from services.monitor.trouble import Limits, Troubles
from services.monitor.virtual import Virtual
from services.monitor.windows import Windows

if TYPE_CHECKING:
    from services.monitor.archive import Archive

log = structlog.get_logger("monitor")

_TICK: Final = 1.0
_SWEEP: Final = 60.0
_DURABLE: Final = "monitor"
#: What MongoDB did not take is handed out again for ever: that it is away is no fault of the event.
_PATIENT: Final = Retry(tries=1_000_000, longest=5.0)


class Monitor:
    """One monitor."""

    def __init__(self, frame: Frame[MonitorSettings]) -> None:
        settings = frame.settings
        self.frame = frame
        self._bus: Bus = frame.bus
        self._lease = frame.bus.lease("monitor", settings.instance)
        self._whole = False
        self.windows = Windows()
        self.fleet = Fleet(
            Thresholds(settings.stale_after, settings.lost_after), self.windows, settings.most_attributes
        )
        limits = Limits(settings.cpu_high, settings.memory_low, settings.disk_low, settings.hot)
        self.troubles = Troubles(self.fleet, self.windows, limits)
        self.archive: Archive | None = None
        if settings.mongodb_url:
            from services.monitor.archive import Archive  # noqa: PLC0415 - pymongo is for those who use it

            database = settings.mongodb_database or f"minicloud_{settings.minicloud}"
            self.archive = archive = Archive(settings.mongodb_url, database, settings.archive_days)
            failing = frame.gauge("monitor_archive_failing", "1 while MongoDB does not take the archive")
            failing.set_function(lambda: float(bool(archive.failing)))
        self._prometheus = (
            Prometheus(settings.prometheus_url, settings.prometheus_user, settings.prometheus_password)
            if settings.prometheus_url
            else None
        )
        virtual = Virtual(settings.minicloud, self.fleet, self._prometheus)
        self.answers = Answers(frame.bus, self.fleet, self.windows, virtual, self.troubles, self.archive)
        self._page = Page(settings.minicloud, self.fleet)
        self._events = frame.counter("monitor_events", "Events taken in", "kind")
        nodes = frame.gauge("monitor_nodes", "Nodes that are known")
        nodes.set_function(lambda: float(len(self.fleet)))
        refused = frame.gauge("monitor_refused_values", "Values beyond the bound on metrics")
        refused.set_function(lambda: float(self.fleet.refused))
        self._said = frame.counter("monitor_troubles", "Events about nodes in trouble that were published")

    def serve_http(self) -> None:
        """Add the routes; before anything is awaited, so that nobody finds the frame's page unguarded."""
        s = self.frame.settings
        guard = Guard(s.api_user, s.api_password, s.api_token)
        self.frame.routes += routes(
            self.answers,
            self._prometheus,
            self._scrape,
            guard,
            lambda: self._whole,
            f"{s.http_host}:{s.http_port}",
        )

    async def run(self) -> None:
        """Read the levels, then answer until asked to stop."""
        s = self._bus.subjects
        await self._load()
        # What was said of troubles first: it decides how a silent node is judged from the start.
        await follow(self.frame, {s.trouble(): NodeTrouble}, self._take)
        await asyncio.gather(
            follow(self.frame, {s.characterization(): Characterization}, self._take),
            follow(self.frame, {s.presence(): Presence, s.worker(): WorkerStatus}, self._take),
            follow(self.frame, {s.observed(): ObservedWorkload}, self._take),
            # All that is kept of it: the windows need it.
            follow(self.frame, {s.metrics(): Measurement}, self._take, since=0),
        )
        if self.frame.stopping.is_set():
            return
        if self.archive is not None:
            await self._bus.consume(
                s.characterization(), Characterization, self._keep, durable=_DURABLE, retry=_PATIENT
            )
        self.frame.spawn(self._tick())
        self.frame.spawn(self._look())
        self.frame.spawn(self._hold_lease())
        self._whole = True
        self.frame.say_ready()
        try:
            await self.frame.stopping.wait()
        finally:
            await self._bus.stop_consuming()
            if self.archive is not None:
                await self.archive.close()
            await self._lease.release()

    def _scrape(self) -> bytes:
        own = generate_latest(self.frame.registry)
        return self._page.render() + own if self._whole else own

    # -- taking in -------------------------------------------------------------------------------

    async def _load(self) -> None:
        """What the archive knows and the bus may have dropped for want of space."""
        if self.archive is None:
            return
        begun, loaded = time.monotonic(), 0
        try:
            async for it, at in self.archive.present():
                self.fleet.characterized(it, at.timestamp(), at.timestamp())
                loaded += 1
        except Unavailable as error:
            log.warning("the archive cannot be read: the bus alone tells", error=str(error)[:300])
        log.info("read from MongoDB", nodes=loaded, seconds=round(time.monotonic() - begun, 2))

    def _take(self, event: Event[Any], item: WatchItem[Any]) -> None:
        check_speaker(item.subject, event.data.node)
        self._events.labels(type(event.data).__name__).inc()
        if isinstance(event.data, NodeTrouble):
            self.troubles.recall(event.data)
        else:
            self.fleet.take(event, live=item.kind == "CHANGE")

    async def _keep(self, event: Event[Characterization]) -> None:
        assert self.archive is not None  # noqa: S101 - else nobody consumes
        await self.archive.keep(event, self.frame.stopping)

    # -- judging ---------------------------------------------------------------------------------

    async def _tick(self) -> None:
        swept = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            for _ in self.fleet.judging():
                await asyncio.sleep(0)
            if time.monotonic() - swept > _SWEEP:
                swept = time.monotonic()
                self.windows.sweep(time.time())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.frame.settings.look_every)
            for _ in self.troubles.look(time.time()):
                await asyncio.sleep(0)
            if self._lease.held:
                await self._tell()

    async def _tell(self) -> None:
        for trouble in list(self.troubles.due()):
            try:
                await self._bus.publish(self._bus.subjects.trouble(trouble.node), trouble, about=trouble.node)
            except MinicloudError as error:
                log.warning("a trouble is not published yet", node=trouble.node, error=str(error))
                return
            self.troubles.recall(trouble)
            self._said.inc()

    async def _hold_lease(self) -> None:
        while True:
            await self._lease.acquire()
            log.info("saying which nodes are in trouble")
            await self._lease.lost.wait()


async def serve(frame: Frame[MonitorSettings]) -> None:
    """Know and answer until asked to stop."""
    monitor = Monitor(frame)
    monitor.serve_http()
    await frame.bus.ensure_streams()
    await monitor.run()
