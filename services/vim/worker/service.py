"""The worker's service: desired levels in from the bus, observed levels out to it.

It watches what should run on its node, has the engine make it so, and publishes what does run, its
own status, and logs on request. It may be killed at any time: workloads run on without it, and the
next one takes them over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import Field

from bus.bus import Bus
from bus.ending import end
from bus.frame import Frame
from bus.permissions import consumer_name
from bus.printed import lines_answered
from bus.settings import Settings
from bus.watch import WatchItem
from schemas.errors import MinicloudError, TooOld
from schemas.event import EventData, now
from schemas.names import Token, name_in
from schemas.node import RuntimeName
from schemas.verbs import LogsRequest
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus
from services.vim.worker.engine import Engine
from services.vim.worker.publisher import Publisher
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import CannotRun, Workload

log = structlog.get_logger("worker")
_STATUS_EVERY: Final = 10.0
_RETRY: Final = 1.0
_FAREWELL: Final = 2.0
_WORKLOAD_AT: Final = 5  # mc.<mc>.node.<node>.desired.<workload>
_ENDED: Final = frozenset({"stopped", "completed", "failed"})


class WorkerSettings(Settings):
    """The worker's settings beside those of every service; the engine's are explained there."""

    node: Token
    data: Path = Path("worker")
    stop_workloads: bool = Field(default=False, description="stop them too when the worker is stopped")
    bind: str = "127.0.0.1"
    allow_root: bool = False
    uid: int = Field(default=65534, ge=1)
    gid: int = Field(default=65534, ge=1)
    pids_limit: int = Field(default=1024, ge=16)
    stop_grace: float = Field(default=5.0, ge=0, le=600)
    start_timeout: float = Field(default=60.0, gt=0)
    log_limit: int = Field(default=16 * 1024 * 1024, ge=4096)
    cgroup_parent: str = "minicloud"
    outbound: bool = True
    runc: str | None = None
    qemu: str | None = None
    plain_registries: str = Field(default="", description="host:port, separated by commas, read without TLS")
    foreign_machines: bool = Field(default=False, description="emulate kernels for other machines")
    folders: str = Field(default="", description="folders that unikernels may mount, separated by commas")
    writable_folders: str = Field(default="", description="those of them that they may write to")

    def engine(self) -> EngineSettings:
        """What of it the engine needs."""
        return EngineSettings(
            bind=self.bind,
            allow_root=self.allow_root,
            uid=self.uid,
            gid=self.gid,
            pids_limit=self.pids_limit,
            stop_grace=self.stop_grace,
            start_timeout=self.start_timeout,
            log_limit=self.log_limit,
            cgroup_parent=self.cgroup_parent,
            outbound=self.outbound,
            runc=self.runc,
            qemu=self.qemu,
            plain_registries=_listed(self.plain_registries),
            foreign_machines=self.foreign_machines,
            folders=_listed(self.folders),
            writable_folders=_listed(self.writable_folders),
        )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in text.split(","))))


class Worker:
    """What should run on a node, made so."""

    def __init__(self, bus: Bus, node: str, engine: Engine, *, allow_root: bool) -> None:
        self._bus = bus
        self._node = node
        self._engine = engine
        self._allow_root = allow_root
        self._desired: dict[str, DesiredWorkload] = {}
        self._others: set[str] = set()
        self.publisher = Publisher(bus, node)
        engine.listen(self._changed)

    async def follow(self, synced: asyncio.Event) -> None:
        """Read what is desired, then every change, for ever."""
        while True:
            try:
                # One after the other: the credential may use one consumer, on one kind of level at a time.
                told = await self._told()
                async with self._watch({self._bus.subjects.desired(self._node): DesiredWorkload}) as items:
                    await self._take(items, told, synced)
            except TooOld as error:
                log.warning("the levels were made anew; they are read again", error=str(error))
            except MinicloudError as error:  # a site that is still being set up has no stream yet
                log.info("the levels cannot be read yet", error=str(error))
                await asyncio.sleep(_RETRY)

    def _watch(self, kinds: dict[str, type[EventData]]) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        return self._bus.watch(kinds, consumer=consumer_name("worker", self._node), keep_bad=True)

    async def _told(self) -> dict[str, ObservedWorkload]:
        """What the bus holds as observed here, by an earlier worker perhaps."""
        told: dict[str, ObservedWorkload] = {}
        async with self._watch({self._bus.subjects.observed(self._node): ObservedWorkload}) as items:
            async for item in items:
                if item.kind == "SYNC":
                    break
                if item.event is not None:
                    told[name_in(item.subject, _WORKLOAD_AT)] = item.event.data
        return told

    async def _take(
        self, items: AsyncIterator[Any], told: dict[str, ObservedWorkload], synced: asyncio.Event
    ) -> None:
        present: dict[str, WatchItem[Any]] = {}
        async for item in items:
            if item.kind == "SYNC":
                self._begin(present, told)
                synced.set()
            elif item.subject and item.kind == "ITEM":
                present[name_in(item.subject, _WORKLOAD_AT)] = item
            elif item.subject:
                self._make_so(item)

    def _begin(self, present: dict[str, WatchItem[Any]], told: dict[str, ObservedWorkload]) -> None:
        """Make the present state so: stop what nobody desires, correct what is told wrongly."""
        for item in present.values():
            self._make_so(item, told.get(name_in(item.subject, _WORKLOAD_AT)))
        for observed in self._engine.observe():
            if observed["workload"] not in present:
                log.info("nobody desires it", workload=observed["workload"])
                self._engine.withdraw(observed["workload"])
        running = {observed["workload"] for observed in self._engine.observe()}
        for name, level in told.items():
            if name not in running and name not in present and level.state not in _ENDED:
                self._tell_stopped(level.model_dump())

    def _make_so(self, item: WatchItem[Any], told: ObservedWorkload | None = None) -> None:
        name = name_in(item.subject, _WORKLOAD_AT)
        if item.event is None:
            return  # it cannot be read and was buried with the reason; what runs is left as it is
        desired: DesiredWorkload = item.event.data
        if desired.workload != name or desired.node != self._node:
            log.warning("a level speaks for another", subject=item.subject, workload=desired.workload)
            return
        if desired.driver != "host":
            # The worker of a cluster speaks for it; what ran here of an earlier wish ends without a word.
            self._desired.pop(name, None)
            self._others.add(name)
            self._engine.withdraw(name)
            return
        self._others.discard(name)
        self._desired[name] = desired
        if desired.state != "stopped":
            if told is None or not self._is_over(desired, told):
                self._apply(desired)
        elif not self._engine.withdraw(name):
            ended = told is not None and told.state in _ENDED and told.generation >= desired.generation
            if not ended:
                self._tell_stopped(desired.model_dump())

    def _is_over(self, desired: DesiredWorkload, told: ObservedWorkload) -> bool:
        """Whether it ran to its end under an earlier worker whose folder is gone: it is not run again."""
        if any(seen["workload"] == told.workload for seen in self._engine.observe()):
            return False  # the engine knows better
        failed = told.state == "failed" and told.exit is not None and desired.restart == "never"
        return (told.generation, told.runtime) == (desired.generation, desired.runtime) and (
            told.state == "completed" or failed
        )

    def _apply(self, desired: DesiredWorkload) -> None:
        try:
            self._engine.apply(Workload.from_document(desired.model_dump(mode="json")))
        except CannotRun as error:
            level = _level(desired.model_dump(), "failed", error.reason, str(error))
            self.publisher.tell(level)

    def _changed(self, observed: dict[str, Any]) -> None:
        if observed["workload"] in self._others:
            return
        desired = self._desired.get(observed["workload"])
        if observed["state"] == "stopped" and desired is not None and desired.state == "stopped":
            # The wish to stop may be younger than what ran.
            observed = {**observed, "generation": max(desired.generation, observed["generation"])}
        log.info(
            "workload",
            workload=observed["workload"],
            state=observed["state"],
            reason=observed["reason"],
            message=observed["message"],
        )
        self.publisher.tell(observed)

    def _tell_stopped(self, like: dict[str, Any]) -> None:
        self.publisher.tell(_level(like, "stopped", "Stopped", "nothing of it runs here"))

    def tell_all(self) -> None:
        """Publish everything again: at the start and after the broker was away."""
        for observed in self._engine.observe():
            if observed["workload"] not in self._others:
                self.publisher.tell(observed)

    async def logs(self, request: LogsRequest) -> dict[str, Any]:
        """What a workload printed, oldest line first; long answers lose their beginning."""
        read = self._engine.read_logs(request.workload, request.tail, request.after)
        return lines_answered(request, read.lines, read.position, more=read.more)

    async def say(self, state: str) -> None:
        """Publish the worker's own status; a broker that is away gets the next one."""
        runtimes: list[RuntimeName] = [
            name  # type: ignore[misc]
            for name, why in self._engine.available().items()
            if why is None
        ]
        status = WorkerStatus(
            node=self._node,
            state="ready" if state == "ready" else "stopped",
            runtimes=runtimes,
            limits=self._engine.cgroups.kind,
            allow_root=self._allow_root,
            version=_version(),
            observed_at=now(),
        )
        try:
            await self._bus.publish(
                self._bus.subjects.worker(self._node), status, about=self._node, timeout=5.0
            )
        except MinicloudError as error:
            log.info("the status waits", error=str(error))

    async def say_often(self) -> None:
        """Publish the status for ever."""
        while True:
            await self.say("ready")
            await asyncio.sleep(_STATUS_EVERY)

    async def stop_workloads(self) -> None:
        """Stop everything; what is desired stays so, and a later worker starts what had not ended again."""
        await self._engine.stop()


def _level(like: dict[str, Any], state: str, reason: str, message: str) -> dict[str, Any]:
    """An observed level made from a desired or an older observed one."""
    same = ("workload", "deployment", "generation", "replica", "runtime")
    return {**{name: like[name] for name in same}, "state": state, "reason": reason, "message": message}


def _version() -> str:
    try:
        return version("minicloud")
    except PackageNotFoundError:
        return "0"


async def serve(frame: Frame[WorkerSettings]) -> None:
    """Run the worker until the frame stops; workloads run on unless the settings say otherwise."""
    settings = frame.settings
    engine = Engine(settings.data, settings.engine())
    if engine.cgroups.reason:
        log.warning("limits are not enforced by control groups", reason=engine.cgroups.reason)
    for name, why in engine.available().items():
        if why is not None:
            log.info("runtime is not offered", runtime=name, reason=why)
    worker = Worker(frame.bus, settings.node, engine, allow_root=settings.allow_root)

    async def after_reconnect() -> None:
        worker.tell_all()
        await worker.say("ready")

    async with engine:
        frame.spawn(worker.publisher.run())
        worker.tell_all()
        frame.bus.wire.on_reconnect(after_reconnect)
        synced = asyncio.Event()
        following = frame.spawn(worker.follow(synced))
        await frame.bus.serve("worker", "logs", LogsRequest, worker.logs, instance=settings.node)
        frame.spawn(worker.say_often())
        await _either(synced, frame.stopping)
        frame.say_ready()
        await frame.stopping.wait()
        await end([following])  # nothing is begun any more
        if settings.stop_workloads:
            await worker.stop_workloads()
        await worker.publisher.flushed(_FAREWELL)
        await worker.say("stopped")


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
