"""vim, wired: three watches in, one queue of deployments to look at, statuses and levels out.

Of several vims one acts, by lease; the others stand by. Whatever changes puts its deployment into
the queue; a slow tick does too, so that nothing waits for an event that was lost.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from pydantic import Field

from bus.bus import Bus
from bus.frame import Frame
from bus.mqtt import MqttBus
from bus.settings import Settings
from bus.streams import stream_of
from bus.watch import WatchItem
from schemas.decision import FINAL_STATES, Decision, DeploymentStatus
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.errors import Conflict, InvalidName, NotFound, Unavailable
from schemas.names import token
from schemas.resource import ResourceChange
from schemas.verbs import ListDeployments, WhichDeployment
from schemas.workload import DesiredWorkload, ObservedWorkload
from services.vim.agenda import Agenda
from services.vim.api import routes
from services.vim.decide import Preemption, fitting
from services.vim.driver import LevelDriver
from services.vim.level import last_level
from services.vim.recall import recall
from services.vim.reconcile import Reconciler
from services.vim.retained import Retained
from services.vim.state import Life, State
from services.vim.wishes import Wishes

log = structlog.get_logger("vim")
_HANDS: Final = 8
_LONGEST_PAUSE: Final = 5.0
#: Deployments of more replicas are looked at less often.
_FEW: Final = 10
_ENVELOPE: Final = 4096


class VimSettings(Settings):
    """vim's settings beside those of every service."""

    look_every: float = Field(
        default=5.0, gt=0, description="seconds between looks at everything, whatever events were lost"
    )
    preemption: Preemption = Field(
        default="asked",
        description="who may stop replicas of lower priority: asked (requests with preempt: lower), always, never",
    )


class Vim:
    """One vim that holds the lease."""

    def __init__(
        self, bus: Bus, mqtt: MqttBus, acting: Callable[[], bool], preemption: Preemption = "asked"
    ) -> None:
        self.bus = bus
        self.state = State()
        self.agenda = Agenda()
        self._retained = Retained(bus, mqtt)
        self._failures: dict[str, int] = {}
        self.reconciler = Reconciler(bus, self.state, LevelDriver(bus), self._tell, acting, self, preemption)
        self._synced: set[str] = set()
        self._all_synced = asyncio.Event()

    async def start(self, frame: Frame[VimSettings]) -> None:
        """Read all levels, then begin to act."""
        s = self.bus.subjects
        watches: dict[str, tuple[dict[str, Any], Callable[[WatchItem[Any]], list[str]]]] = {
            "deployments": (
                {
                    s.request(): DeploymentRequest,
                    s.cancel(): Cancellation,
                    s.migrate(): Migration,
                    s.decision(): Decision,
                    s.status(): DeploymentStatus,
                },
                self.state.take_deployment,
            ),
            "workloads": (
                {s.desired(): DesiredWorkload, s.observed(): ObservedWorkload},
                self.state.take_workload,
            ),
            "resources": ({s.resource(): ResourceChange}, self.state.take_resource),
        }
        for name, (kinds, take) in watches.items():
            frame.spawn(self._follow(name, kinds, take, len(watches)))
        if not await _unless(frame.stopping, self._all_synced):
            return  # told to stop, or a watch failed: what is known is not whole
        for life in list(self.state.lives.values()):
            await recall(self.bus, life)
        self.reconciler.restore_ledger()
        for life in self.state.lives.values():
            self._add(life)
        for _ in range(_HANDS):
            frame.spawn(self._work())
        looks = frame.counter("vim_looks_total", "Looks at everything that is not at its end")
        lives = frame.gauge("vim_deployments", "Deployments that are known")
        lives.set_function(lambda: float(len(self.state.lives)))
        frame.spawn(self._tick(frame.settings.look_every, looks.inc))
        await self.bus.serve("vim", "list", ListDeployments, self._list)
        await self.bus.serve("vim", "get", WhichDeployment, self._get)
        await self.bus.serve("vim", "whatif", DeploymentRequest, self._whatif)
        frame.say_ready()

    async def _follow(
        self, name: str, kinds: dict[str, Any], take: Callable[[WatchItem[Any]], list[str]], of: int
    ) -> None:
        begun = False
        async with self.bus.watch(kinds, keep_bad=True) as items:
            async for item in items:
                if item.kind == "SYNC":
                    self._synced.add(name)
                    if len(self._synced) == of:
                        self._all_synced.set()
                elif item.subject and await self._may_be_named(item):
                    concerned = take(item)
                    if item.event is not None:
                        self._retained.heard(item.event.id, item.revision)
                    begun = begun or self._all_synced.is_set()
                    if begun:
                        for deployment in concerned:
                            self._add(self.state.life(deployment))

    async def _may_be_named(self, item: WatchItem[Any]) -> bool:
        """Whether every part of a subject is a token; MQTT lets others through, and nobody could be answered."""
        try:
            for part in item.subject.split("."):
                token(part)
        except InvalidName as error:
            stream = stream_of(item.subject).name(self.bus.minicloud)
            await self.bus.bury(item.subject, item.payload, error, stream=stream, revision=item.revision)
            return False
        return True

    def _add(self, life: Life) -> None:
        self.agenda.add(life.deployment, life.priority)

    def look(self, deployment: str) -> None:
        """Look at a deployment that a decision about another one concerns."""
        self._add(self.state.life(deployment))

    def freed(self) -> None:
        """Somebody left room: look at whoever waits for it."""
        for life in self.state.lives.values():
            if life.waiting:
                self._add(life)

    async def _work(self) -> None:
        while True:
            deployment = await self.agenda.take()
            pause = 0.0
            try:
                await self.reconciler.step(deployment)
            except (Unavailable, Conflict, NotFound) as error:
                # The bus or the index is away, or a level moved on: look again when it is back.
                log.info("put off", deployment=deployment, error=str(error))
                self._later(deployment)
            except Exception as error:
                # One deployment gone wrong must not end the others.
                log.exception("a step failed", deployment=deployment)
                with suppress(Unavailable, Conflict):
                    await self.reconciler.trouble(deployment, error)
            else:
                self._failures.pop(deployment, None)
                pause = self._pace(deployment)
            if pause:
                # Held for a moment: of a thousand replicas that start, each would make a long status.
                asyncio.get_running_loop().call_later(pause, self.agenda.done, deployment)
            else:
                self.agenda.done(deployment)

    def _pace(self, deployment: str) -> float:
        status = self.state.life(deployment).status
        replicas = len(status.replicas) if status else 0
        return replicas / 1000 if replicas > _FEW else 0.0

    def _later(self, deployment: str) -> None:
        failures = self._failures[deployment] = self._failures.get(deployment, 0) + 1
        pause = min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 10))
        asyncio.get_running_loop().call_later(pause, lambda: self._add(self.state.life(deployment)))

    async def _tick(self, every: float, looked: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(every)
            looked()
            for life in self.state.lives.values():
                status = life.status
                if status is None or status.state not in FINAL_STATES or life.running_desired():
                    self._add(life)

    async def _tell(self, status: DeploymentStatus) -> int:
        log.info("status", deployment=status.deployment, state=status.state, reason=status.reason)
        subject = self.bus.subjects.status(status.deployment)
        return await self._retained.publish(subject, status, about=status.deployment)

    async def _list(self, asked: ListDeployments) -> dict[str, Any]:
        """Deployments by name, as many as one message holds; ``next`` says after which to go on."""
        told = {
            name: life.status
            for name, life in self.state.lives.items()
            if life.status is not None and name > asked.after
        }
        names = sorted(told)
        room = self.bus.wire.max_payload - _ENVELOPE
        listed: list[dict[str, Any]] = []
        for name in names[: asked.limit]:
            summary = _summary(name, told[name])
            room -= len(json.dumps(summary)) + 2
            if room < 0 and listed:
                break
            listed.append(summary)
        more = len(listed) < len(names)
        return {"deployments": listed, "next": listed[-1]["deployment"] if more and listed else None}

    async def _get(self, which: WhichDeployment) -> dict[str, Any]:
        life = self.state.lives.get(which.deployment)
        if life is None or life.status is None:
            known = sorted(name for name, life in self.state.lives.items() if life.status)
            near = difflib.get_close_matches(which.deployment, known, 3) or known[:10]
            raise NotFound(
                f"there is no deployment {which.deployment!r}", expected=" or ".join(near) if near else None
            )
        status = await self._newest_status(life.deployment, life.status)
        told = {
            **_summary(life.deployment, status),
            "revision": life.request_revision,
            "status": status.model_dump(mode="json", by_alias=True),
        }
        decision = None
        if life.decision is not None:
            room = self.bus.wire.max_payload - _ENVELOPE - len(json.dumps(told))
            decision = fitting(life.decision, room).model_dump(mode="json", by_alias=True)
        return {**told, "decision": decision}

    async def _newest_status(self, deployment: str, known: DeploymentStatus) -> DeploymentStatus:
        """What was told last, for whoever heard it already: our own words reach us by the bus, as they do others."""
        _, status = await last_level(self.bus, self.bus.subjects.status(deployment), DeploymentStatus)
        newer = status is not None and status.deployment == deployment and status.sequence > known.sequence
        return status if status is not None and newer else known

    async def _whatif(self, request: DeploymentRequest) -> Decision:
        decision = await self.reconciler.whatif(request)
        return fitting(decision, self.bus.wire.max_payload - _ENVELOPE)


def _summary(deployment: str, status: DeploymentStatus) -> dict[str, Any]:
    return {
        "deployment": deployment,
        "state": status.state,
        "reason": status.reason,
        "message": status.message,
        "generation": status.generation,
        "replicas": [replica.model_dump(mode="json") for replica in status.replicas],
        "updated": status.observed_at.isoformat(),
    }


async def _unless(stopping: asyncio.Event, wanted: asyncio.Event) -> bool:
    """Wait for what is wanted; False if told to stop before."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stopping, wanted)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return not stopping.is_set()


async def serve(frame: Frame[VimSettings]) -> None:
    """Stand by until the lease is ours, then act until asked to stop."""
    await frame.bus.ensure_streams()
    # A wish is a level on the bus, so whoever stands by may take it down, and asks who acts for what is known.
    wishes = Wishes(frame.bus)
    await wishes.serve()
    frame.routes += routes(frame.bus, wishes)
    lease = frame.bus.lease("vim", frame.settings.instance)
    log.info("standing by")
    acquiring = asyncio.ensure_future(lease.acquire())
    stop = asyncio.ensure_future(frame.stopping.wait())
    await asyncio.wait({acquiring, stop}, return_when=asyncio.FIRST_COMPLETED)
    if frame.stopping.is_set():
        acquiring.cancel()
        return
    endpoint = frame.settings.endpoint("vim")
    mqtt = await MqttBus.connect(frame.settings.mqtt, endpoint, f"vim-{frame.settings.minicloud}")
    try:
        vim = Vim(frame.bus, mqtt, lambda: lease.held, frame.settings.preemption)
        await vim.start(frame)
        lost = asyncio.ensure_future(lease.lost.wait())
        await asyncio.wait({stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        if lease.lost.is_set():
            raise Unavailable("the lease is lost; another vim may act", expected="to be started again")
        lost.cancel()
    finally:
        await frame.close()
        await mqtt.close()
        await lease.release()
