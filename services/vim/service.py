"""vim, wired: three watches in, one queue of deployments to look at, statuses and levels out.

Of several vims one acts, by lease; the others stand by. Whatever changes puts its deployment into
the queue; a slow tick does too, so that nothing waits for an event that was lost.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import structlog

from bus.bus import Bus
from bus.frame import Frame
from bus.mqtt import MqttBus
from bus.retained import publish_retained
from bus.settings import Settings
from bus.watch import WatchItem
from schemas.deployment import FINAL_STATES, Cancellation, Decision, DeploymentRequest, DeploymentStatus
from schemas.errors import Conflict, MinicloudError, NotFound, Unavailable
from schemas.node import Presence
from schemas.verbs import Nothing, WhichDeployment
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus
from services.vim.driver import HostDriver
from services.vim.ledger import Ledger
from services.vim.reconcile import Reconciler
from services.vim.state import Life, State

log = structlog.get_logger("vim")
_TICK: Final = 5.0
_HANDS: Final = 8


class VimSettings(Settings):
    """vim's settings: those of every service."""


class Agenda:
    """Deployments to look at: each at most once in the queue and in one hand at a time."""

    def __init__(self) -> None:
        self._queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._waiting: set[str] = set()
        self._held: set[str] = set()
        self._again: set[str] = set()
        self._count = 0

    def add(self, deployment: str, priority: int = 0) -> None:
        """Look at this one soon, those of higher priority first."""
        if deployment in self._held:
            self._again.add(deployment)
        elif deployment not in self._waiting:
            self._waiting.add(deployment)
            self._count += 1
            self._queue.put_nowait((-priority, self._count, deployment))

    async def take(self) -> str:
        """The next one; it is in hand until :meth:`done`."""
        _, _, deployment = await self._queue.get()
        self._waiting.discard(deployment)
        self._held.add(deployment)
        return deployment

    def done(self, deployment: str) -> None:
        """Out of hand; looked at again if anything happened meanwhile."""
        self._held.discard(deployment)
        if deployment in self._again:
            self._again.discard(deployment)
            self.add(deployment)


class Vim:
    """One vim that holds the lease."""

    def __init__(self, bus: Bus, mqtt: MqttBus, acting: Callable[[], bool]) -> None:
        self.bus = bus
        self.state = State()
        self.agenda = Agenda()
        self._mqtt = mqtt
        self.reconciler = Reconciler(bus, self.state, Ledger(), HostDriver(bus), self._tell, acting)
        self._synced = {
            "deployments": asyncio.Event(),
            "workloads": asyncio.Event(),
            "presence": asyncio.Event(),
        }

    async def start(self, frame: Frame[Any]) -> None:
        """Read all levels, then begin to act."""
        s = self.bus.subjects
        watches: list[tuple[str, dict[str, Any], Callable[[WatchItem[Any]], Iterable[str]]]] = [
            (
                "deployments",
                {
                    s.request(): DeploymentRequest,
                    s.cancel(): Cancellation,
                    s.decision(): Decision,
                    s.status(): DeploymentStatus,
                },
                lambda item: [self.state.take_deployment(item)],
            ),
            (
                "workloads",
                {s.desired(): DesiredWorkload, s.observed(): ObservedWorkload},
                lambda item: [d for d in [self.state.take_workload(item)] if d],
            ),
            (
                "presence",
                {s.presence(): Presence, s.worker(): WorkerStatus},
                self.state.take_presence,
            ),
        ]
        for name, kinds, take in watches:
            frame.spawn(self._follow(name, kinds, take))
        await asyncio.gather(*(event.wait() for event in self._synced.values()))
        self.reconciler.restore_ledger()
        for life in self.state.lives.values():
            self._add(life)
        for _ in range(_HANDS):
            frame.spawn(self._work())
        frame.spawn(self._tick())
        await self.bus.serve("vim", "list", Nothing, self._list)
        await self.bus.serve("vim", "get", WhichDeployment, self._get)

    async def _follow(
        self, name: str, kinds: dict[str, Any], take: Callable[[WatchItem[Any]], Iterable[str]]
    ) -> None:
        async with self.bus.watch(kinds, keep_bad=True) as items:
            async for item in items:
                if item.kind == "SYNC":
                    self._synced[name].set()
                elif item.subject:
                    for deployment in take(item):
                        if self._all_synced:
                            self._add(self.state.life(deployment))

    @property
    def _all_synced(self) -> bool:
        return all(event.is_set() for event in self._synced.values())

    def _add(self, life: Life) -> None:
        self.agenda.add(life.deployment, life.request.priority if life.request else 0)

    async def _work(self) -> None:
        while True:
            deployment = await self.agenda.take()
            try:
                await self.reconciler.step(deployment)
            except (Unavailable, Conflict, NotFound) as error:
                # The bus or the index is away, or a level moved on: look again when it is back.
                log.info("put off", deployment=deployment, error=str(error))
                asyncio.get_running_loop().call_later(0.2, partial(self.agenda.add, deployment))
            except MinicloudError:
                log.exception("a step failed", deployment=deployment)
            finally:
                self.agenda.done(deployment)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            for life in self.state.lives.values():
                status = life.status
                if status is None or status.state not in FINAL_STATES or life.running_desired():
                    self._add(life)

    async def _tell(self, status: DeploymentStatus) -> int:
        log.info("status", deployment=status.deployment, state=status.state, reason=status.reason)
        subject = self.bus.subjects.status(status.deployment)
        return await publish_retained(self.bus, self._mqtt, subject, status, about=status.deployment)

    async def _list(self, _: Nothing) -> dict[str, Any]:
        lives = sorted(self.state.lives.values(), key=lambda life: life.deployment)
        return {"deployments": [_summary(life) for life in lives if life.status]}

    async def _get(self, which: WhichDeployment) -> dict[str, Any]:
        life = self.state.lives.get(which.deployment)
        if life is None or life.status is None:
            known = sorted(name for name, life in self.state.lives.items() if life.status)
            near = difflib.get_close_matches(which.deployment, known, 3) or known[:10]
            raise NotFound(
                f"there is no deployment {which.deployment!r}", expected=" or ".join(near) if near else None
            )
        return {
            **_summary(life),
            "decision": life.decision.model_dump(mode="json", by_alias=True) if life.decision else None,
            "status": life.status.model_dump(mode="json", by_alias=True),
        }


def _summary(life: Life) -> dict[str, Any]:
    status = life.status
    if status is None:
        raise NotFound(f"no status of {life.deployment!r} yet")
    return {
        "deployment": life.deployment,
        "state": status.state,
        "reason": status.reason,
        "message": status.message,
        "generation": status.generation,
        "replicas": [replica.model_dump(mode="json") for replica in status.replicas],
        "updated": status.observed_at.isoformat(),
    }


async def serve(frame: Frame[VimSettings]) -> None:
    """Stand by until the lease is ours, then act until asked to stop."""
    await frame.bus.ensure_streams()
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
        vim = Vim(frame.bus, mqtt, lambda: lease.held)
        await vim.start(frame)
        frame.say_ready()
        lost = asyncio.ensure_future(lease.lost.wait())
        await asyncio.wait({stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        if lease.lost.is_set():
            raise Unavailable("the lease is lost; another vim may act", expected="to be started again")
        lost.cancel()
    finally:
        await frame.close()
        await mqtt.close()
        await lease.release()
