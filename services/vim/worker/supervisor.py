"""The life of one workload on this node: start it, watch it, restart it, replace it, stop it.

In come the desired workload, its withdrawal, and what the kernel and the probes tell; out goes each
change of its observed state. Every step is written down before it is taken, so that a supervisor
that starts over an old folder carries on where the last one was killed.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.vim.worker.cgroup import Cgroups
from services.vim.worker.health import probe_of
from services.vim.worker.instance import Instance, tidy
from services.vim.worker.observed import Observed, observed_document
from services.vim.worker.ports import Ports
from services.vim.worker.runtime import Place, Runtime, limit_of
from services.vim.worker.settings import EngineSettings
from services.vim.worker.state import Folder
from services.vim.worker.workload import CannotRun, Exit, Health, Workload

_logger = logging.getLogger(__name__)

# Until it serves, it is looked at often: what comes up in 40 ms is seen at once, and what takes longer
# is seen at most a tenth of its own time late. Fresh connections, since a guest may miss the first.
_FIRST_LOOK = 0.01  # seconds
_FIRST_PATIENCE = 0.08
_LATE = 0.1
_PATIENT = 0.25


@dataclass(frozen=True, slots=True)
class Node:
    """What all supervisors of a node share."""

    settings: EngineSettings
    runtimes: Mapping[str, Runtime]
    cgroups: Cgroups
    ports: Ports
    name: str
    changed: Callable[[Observed], None]


class Supervisor:
    """The task that makes one workload so."""

    def __init__(self, node: Node, folder: Folder) -> None:
        self._node = node
        self._folder = folder
        self._record = folder.record()
        self._desired = folder.desired()
        self._shown = self._before() or self._desired
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name=f"workload {folder.name}")

    # What the engine calls.

    def desire(self, workload: Workload) -> None:
        """Make this so from now on; the same again changes nothing."""
        if self._desired == workload:
            return
        if self.ended and self._record.exit and self._desired and self._desired.like(workload):
            # Another generation of what has run to its end: in this one it has, too.
            self._record.final = workload.generation
            self._folder.remember(self._record)
        self._folder.desire(workload)
        self._desired = workload
        self._wake.set()
        self._settled.set()

    def withdraw(self) -> None:
        """Stop it, and forget it."""
        self._folder.withdraw()
        self._desired = None
        self._settled.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Return when a withdrawn workload is stopped and its folder gone, or it is desired again."""
        await self._settled.wait()

    @property
    def done(self) -> bool:
        """True once nothing of it is left and nothing will come."""
        return self._task.done()

    @property
    def ended(self) -> bool:
        """True once it ran to an end for good; its record is kept, so that nobody runs it again."""
        return self._desired is not None and self._record.final >= self._desired.generation

    def forget_work(self) -> None:
        """Remove the working directory of what has ended."""
        if self.ended:
            shutil.rmtree(self._folder.work, ignore_errors=True)

    def logs(self) -> list[Path]:
        """The files with what it printed, the most telling last."""
        runtime = self._node.runtimes.get(self._shown.runtime) if self._shown else None
        main = runtime.log(self._folder) if runtime else self._folder.log
        return [self._folder.log, main] if main != self._folder.log else [main]

    async def leave(self) -> None:
        """Stop watching; the workload runs on."""
        while not self._task.done():
            self._task.cancel()  # again, where a library lost it
            await asyncio.wait([self._task], timeout=1.0)

    def observed(self) -> Observed | None:
        """What does run, as a document (contract, Names: observed); None if nothing ever did."""
        workload, record = self._shown, self._record
        if workload is None:
            return None
        runtime = self._node.runtimes.get(workload.runtime)
        return observed_document(workload, record, runtime, self._node.settings.bind, self._node.cgroups)

    # The life.

    async def _live(self) -> None:
        """Carry on from what is written down; whatever goes wrong unforeseen, from there once more."""
        pause = self._node.settings.backoff
        while True:
            try:
                await self._carry_on()
            except Exception as error:  # one workload gone wrong must not end in silence
                _logger.exception("workload %s: carrying on from its folder", self._folder.name)
                self._say("degraded", getattr(error, "reason", "InternalError"), str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._node.settings.backoff_limit)
            else:
                self._settled.set()
                return

    async def _carry_on(self) -> None:
        instance = await self._recover()
        while True:
            self._wake.clear()
            desired = self._desired
            if instance is not None and (desired is None or not instance.place.workload.like(desired)):
                await self._end(instance)
                instance = None
            elif desired is None:
                self._node.ports.free(self._folder.name)
                self._folder.remove()
                self._say("stopped", "Stopped", "")
                return
            elif instance is None:
                instance = await self._begin(desired)
            else:
                self._show(desired)
                if not await self._watch(instance):
                    instance = None

    async def _recover(self) -> Instance | None:
        """Whatever an earlier worker left: a run under way, one that ended unseen, or none."""
        before = self._before()
        if before is None:
            if self._record.final or self._record.run:
                self._changed()
            return None
        place = self._place(before, self._record.run, self._record.ports)
        runtime = self._node.runtimes[before.runtime]
        self._node.ports.keep(before.workload, self._record.ports)
        instance = await Instance.adopt(place, runtime)
        if instance is None:
            # Killed after the intent and before the shim, or the run ended meanwhile: tidy tells which.
            started = (place.run / "shim").exists()
            outcome = await tidy(place, runtime)
            if started and self._record.accounted < self._record.run:
                self._account(self._as_desired(before), outcome)
            self._record.running = None
            self._folder.remember(self._record)
            return None
        self._changed()
        return instance

    async def _begin(self, workload: Workload) -> Instance | None:
        """Start a run, or wait for what it takes to try again; None if nothing runs after this."""
        record = self._record
        if record.final >= workload.generation:
            self._show(workload)
            await self._wake.wait()
            return None
        self._shown = workload
        if record.backoff and not await self._pause(self._delay()):
            return None
        try:
            return await self._start(workload)
        except CannotRun as error:
            record.backoff += 1
            record.running, record.exit = None, None
            if error.lasting:
                record.final = workload.generation
            retry = "" if error.lasting else f"; next try in {self._delay():g} s"
            self._say("failed", error.reason, f"{error}{retry}")
            return None

    async def _start(self, workload: Workload) -> Instance:
        record, node = self._record, self._node
        runtime = node.runtimes.get(workload.runtime)
        if runtime is None:
            raise CannotRun(
                "RuntimeUnavailable",
                f"this node runs no {workload.runtime}",
                lasting=True,
                expected=" | ".join(node.runtimes) or "another node",
            )
        record.acceleration = "tcg" if record.emulated == workload.generation else workload.acceleration
        self._say("creating", "Preparing", f"preparing the {workload.runtime}")
        ports = node.ports.give(workload, record.ports)
        number = record.run + 1
        run = self._folder.prepare_run(number)
        record.log_start = _size(runtime.log(self._folder))
        place = self._place(workload, number, ports)
        launch = await runtime.prepare(place)
        lock = self._folder.lock.take()
        if lock is None:
            raise CannotRun("UnknownInstance", "an earlier run still holds the workload's lock")
        if place.group is not None:
            self._limit(place)
        place.folder.log.touch(mode=0o600)
        record.run, record.ports, record.running = number, ports, workload.document()
        record.started_at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        record.exit, record.paused = None, False
        # The intent is on disk before the shim exists: from here on a kill leaves what recovery finds.
        self._say("starting", "Started", f"run {number} of {run.parent.name} was started")
        return await Instance.start(place, runtime, launch, lock)

    async def _watch(self, instance: Instance) -> bool:
        """Until the run ends (False), or what is desired changes (True)."""
        end = asyncio.create_task(instance.ended())
        change = asyncio.create_task(self._wake.wait())
        still = self._desired is not None and self._desired.paused
        look = asyncio.create_task(self._hold(instance) if still else self._look(instance))
        try:
            await asyncio.wait({end, change, look}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (change, look):
                task.cancel()
        if end.done():
            self._account(self._as_desired(instance.place.workload), await self._tidy(instance))
            return False
        end.cancel()
        if look.done() and not look.cancelled():
            if (failure := look.exception()) is not None:
                raise failure
            await self._restart_unhealthy(instance, look.result())
            return False
        return True

    async def _look(self, instance: Instance) -> str:
        """Probe for as long as it runs; returns, with the last message, when it must be restarted."""
        workload, record = instance.place.workload, self._record
        await instance.begun()
        if record.paused:
            await instance.resume()
            record.paused = False
            self._say("starting", "Resumed", "it goes on")
        log = instance.runtime.log(self._folder)
        place, runtime = instance.place, instance.runtime
        probe = probe_of(
            workload, place.settings.bind, place.ports, log, record.log_start, lambda: runtime.begun(place)
        )
        health = workload.health or Health()
        every, timeout, failures = health.every, health.timeout, health.failures
        pause, patience, wrong = every, min(_FIRST_PATIENCE, timeout), 0
        start = time.monotonic()
        while True:
            verdict = await probe.look(patience)
            if verdict.good:
                wrong, pause, patience = 0, every, timeout
                if record.state != "running":
                    self._say("running", "Started", "")
                self._settle(instance)
            elif record.state == "starting":
                passed = time.monotonic() - start
                pause = min(max(_FIRST_LOOK, passed * _LATE), every)
                patience = min(max(_FIRST_PATIENCE, passed * _PATIENT), timeout)
                if passed > place.settings.start_timeout:
                    return verdict.message
            else:
                wrong += 1
                if wrong >= 2 * failures:
                    return verdict.message
                if wrong >= failures:
                    self._say("degraded", "HealthCheckFailed", verdict.message)
            self._trim(log)
            await asyncio.sleep(pause)

    async def _hold(self, instance: Instance) -> str:
        """Have it stand still for as long as this is wished for, from when its own code runs."""
        record = self._record
        await instance.begun()
        while not (record.paused or instance.runtime.begun(instance.place)):
            await asyncio.sleep(_FIRST_LOOK)
        # On disk before it is done: whoever comes after a kill knows that it may stand still.
        record.paused = True
        self._folder.remember(record)
        await instance.pause()
        if record.state != "paused":
            self._say("paused", "Paused", "it stands still and keeps its memory")
        for_ever: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await for_ever

    async def _restart_unhealthy(self, instance: Instance, message: str) -> None:
        self._say("degraded", "HealthCheckFailed", f"{message}; it is stopped")
        await instance.stop()
        await self._tidy(instance)
        unhealthy = Exit(reason="HealthCheckFailed", message=message)
        self._account(self._as_desired(instance.place.workload), unhealthy)

    async def _end(self, instance: Instance) -> None:
        """Stop a run that is no longer desired."""
        self._say("stopping", "Stopping" if self._desired is None else "Replacing", "")
        if self._record.paused:
            with suppress(OSError, CannotRun):
                await instance.resume()  # what stands still can neither be asked to end
        await instance.stop()
        outcome = await self._tidy(instance)
        record = self._record
        record.exit, record.accounted, record.running = outcome.document(), record.run, None
        record.backoff, record.paused = 0, False
        if self._desired is not None:
            record.restarts = 0
        self._folder.remember(record)

    async def _tidy(self, instance: Instance) -> Exit:
        return await tidy(instance.place, instance.runtime)

    def _account(self, workload: Workload, outcome: Exit) -> None:
        """Decide, by the restart policy, what an end means."""
        record = self._record
        record.exit, record.accounted, record.running = outcome.document(), record.run, None
        reason = outcome.reason or ("Completed" if outcome.clean else "ExitedWithError")
        message = outcome.message or _how(outcome)
        if reason == "AccelerationFailed":  # the runtime asks for one more try without
            record.emulated = workload.generation
            self._say("starting", reason, message)
            return
        if workload.restart == "always" or (workload.restart == "on-failure" and not outcome.clean):
            record.restarts += 1
            record.backoff += 1
            self._say("starting", reason, f"{message}; restart {record.restarts} in {self._delay():g} s")
            return
        record.final = workload.generation
        self._say("completed" if outcome.clean else "failed", reason, message)

    # Details.

    def _as_desired(self, workload: Workload) -> Workload:
        """What ran, by the generation that desires it by now."""
        desired = self._desired
        return desired if desired is not None and workload.like(desired) else workload

    def _show(self, workload: Workload) -> None:
        """Tell what is so already, by the generation that desires it by now."""
        if self._shown != workload:
            self._shown = workload
            self._changed()

    def _before(self) -> Workload | None:
        return Workload.from_document(self._record.running) if self._record.running else None

    def _place(self, workload: Workload, number: int, ports: dict[str, int]) -> Place:
        return Place(
            workload=workload,
            folder=self._folder,
            node=self._node.name,
            run=self._folder.run(number),
            number=number,
            ports=ports,
            group=self._node.cgroups.group(workload.workload),
            settings=self._node.settings,
            acceleration=self._record.acceleration,
            log_start=self._record.log_start,
        )

    def _limit(self, place: Place) -> None:
        workload = place.workload
        memory = limit_of(workload)
        try:
            if place.group is not None:
                place.group.create(cpu=workload.cpu, memory=memory, pids=place.settings.pids_limit)
        except OSError as error:
            raise CannotRun("LimitsRefused", f"the kernel refuses the limits: {error}") from error

    def _delay(self) -> float:
        settings = self._node.settings
        return float(min(settings.backoff * 2.0 ** min(self._record.backoff - 1, 30), settings.backoff_limit))

    async def _pause(self, seconds: float) -> bool:
        """Wait; False if something else is desired meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return True
        self._record.backoff = 0
        return False

    def _settle(self, instance: Instance) -> None:
        if self._record.backoff and time.monotonic() - instance.since > self._node.settings.settled:
            self._record.backoff = 0
            self._folder.remember(self._record)

    def _trim(self, log: Path) -> None:
        # Writers append, so a file cut to nothing is written on from its start.
        if _size(log) > self._node.settings.log_limit:
            with log.open("r+b") as output:
                output.truncate(0)
            self._record.log_start = 0

    def _say(self, state: str, reason: str, message: str) -> None:
        record = self._record
        record.state, record.reason, record.message = state, reason, message
        if self._folder.path.exists():
            self._folder.remember(record)
        self._changed()

    def _changed(self) -> None:
        if (observed := self.observed()) is not None:
            self._node.changed(observed)


def _how(outcome: Exit) -> str:
    if outcome.signal is not None:
        return f"it was ended by signal {outcome.signal}"
    return f"it exited with {outcome.code}"


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
