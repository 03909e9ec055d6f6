"""The cluster's worker, wired: desired levels and the cluster's objects in, objects and observed levels out.

Of several workers of one cluster one acts, by lease; the others stand by. It may be killed at any time: what runs
in the cluster runs on, and the next one reads both sides and carries on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import structlog

from bus.bus import Bus
from bus.ending import end
from bus.frame import Frame
from bus.permissions import consumer_name, lease_name
from schemas.errors import MinicloudError, NotFound, TooOld, Unavailable
from schemas.names import name_in
from schemas.verbs import LogsRequest
from schemas.workload import DesiredWorkload, ObservedWorkload
from services.vim.cluster import logs
from services.vim.cluster.api import NAMESPACES, NODES, PODS, Api, ApiError
from services.vim.cluster.census import Census
from services.vim.cluster.inventory import Inventory
from services.vim.cluster.keeper import AWAY_AFTER, Keeper
from services.vim.cluster.kind import Around
from services.vim.cluster.kinds import kinds_of
from services.vim.cluster.levels import Levels
from services.vim.cluster.lying import Lying
from services.vim.cluster.mirror import Mirror
from services.vim.cluster.names import Key, Ours
from services.vim.cluster.settings import ClusterSettings
from services.vim.cluster.telling import Telling

log = structlog.get_logger("cluster")
_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 10.0
_FAREWELL: Final = 2.0
_LOOK_EVERY: Final = 1.0
_FACTS_EVERY: Final = 30.0
_WORKLOAD_AT: Final = 5  # mc.<mc>.node.<node>.desired.<workload>


class ClusterWorker:
    """What should run in a cluster, made so.

    Args:
        frame: what a service finds around it.
        api: the cluster.
        acting: whether we hold the lease at this moment.
    """

    def __init__(self, frame: Frame[ClusterSettings], api: Api, acting: Callable[[], bool]) -> None:
        settings = frame.settings
        self._frame = frame
        self._settings = settings
        self._bus: Bus = frame.bus
        self._api = api
        ours = Ours(settings.minicloud, settings.cluster, settings.namespace)
        kinds = kinds_of(Around(settings, ours))
        self.inventory = Inventory(
            settings.minicloud,
            settings.cluster,
            kinds,
            version=_version(),
            allow_root=settings.allow_root,
        )
        self.telling = Telling(frame.bus, settings.cluster)
        self.census = Census(frame.bus, settings.cluster, self.inventory, self.telling, settings.beat)
        self.levels = Levels(settings.cluster)
        resources = [resource for kind in kinds for resource in kind.resources]
        self.lying = Lying(api, ours, resources, self._changed, resync=settings.resync)
        self._nodes = Mirror(api, NODES, None, "", self._node_changed, resync=settings.resync)
        self.keeper = Keeper(
            api,
            ours,
            {kind.runtime: kind for kind in kinds},
            self.inventory,
            self.levels,
            self.lying,
            self.telling,
            acting,
            frame.counter("cluster_drifts_total", "Changes by others that were set right"),
        )
        self._begun = False
        self._away = False
        nodes = frame.gauge("cluster_nodes", "Nodes of the cluster")
        nodes.set_function(lambda: float(len(self.inventory)))
        waiting = frame.gauge("cluster_away_seconds", "How long the API server has not answered")
        waiting.set_function(lambda: self.lying.away_for(asyncio.get_running_loop().time()))

    async def start(self) -> None:
        """Read both sides, then begin to act."""
        spawn = self._frame.spawn
        spawn(self.telling.run())
        await self._reach()
        await self._ensure_namespace()
        agents, desired = asyncio.Event(), asyncio.Event()
        spawn(self.census.agents(agents))
        spawn(self._follow(desired))
        spawn(self._nodes.run())
        self._mirror_more()
        await agents.wait()
        await _patiently("what was said of the nodes", self.census.recall)
        await desired.wait()
        await self._nodes.synced.wait()
        await self.lying.synced()
        self.inventory.facts = self.lying.facts
        self.census.begin()
        self._begun = True
        self.keeper.concern_all()
        spawn(self.keeper.work())
        spawn(self.census.beats())
        spawn(self._look_around())
        await self._bus.serve("cluster", "logs", LogsRequest, self._logs, instance=self._settings.cluster)
        self._frame.say_ready()

    async def stop(self) -> None:
        """Say that nobody acts for the nodes now; what runs there runs on."""
        if self._begun:
            self.census.say_all("stopped", "the cluster's worker was stopped")
            await self.telling.flushed(_FAREWELL)

    # -- the cluster -----------------------------------------------------------------------------

    async def _reach(self) -> None:
        """Wait until the API server says what it can do."""
        pause = _RETRY
        while True:
            try:
                await self.lying.look()
            except Unavailable as error:
                log.warning("the cluster cannot be reached yet", error=str(error))
            except ApiError as error:
                log.warning("the cluster refuses us", error=str(error), http=error.http)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(_LONGEST_RETRY, 2 * pause)

    async def _ensure_namespace(self) -> None:
        """Make the namespace where we may; under narrow rights whoever gave them made it."""
        name = self._settings.namespace
        try:
            if await self._api.get(NAMESPACES, None, name) is None:
                document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                await self._api.create(NAMESPACES, None, document)
                log.info("namespace made", namespace=name)
        except MinicloudError as error:
            log.info("the namespace is taken for granted", namespace=name, reason=str(error))

    def _mirror_more(self) -> None:
        for mirror in self.lying.missing():
            self._frame.spawn(mirror.run())

    def _node_changed(self, before: Any, after: Any) -> None:
        was = self.inventory.by_kubernetes(str((before or after)["metadata"]["name"]))
        self.census.take(before, after)
        now = self.inventory.by_kubernetes(str((before or after)["metadata"]["name"]))
        if self._begun and (
            was is None
            or now is None
            or (was.ready, was.fenced, was.node) != (now.ready, now.fenced, now.node)
        ):
            self.keeper.concern_all()

    def _changed(self, key: Key) -> None:
        if self._begun:
            self.keeper.concern([key])

    async def _look_around(self) -> None:
        """Notice in time that the server is away or back, and what it has learned to serve."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            away = self.lying.away_for(loop.time()) > AWAY_AFTER
            if away != self._away:
                self._away = away
                reason = "the API server does not answer" if away else ""
                self.census.say_all("stopped" if away else "ready", reason)
                self.keeper.concern_all()
            if loop.time() - looked > _FACTS_EVERY and not away:
                looked = loop.time()
                try:
                    if await self.lying.look():
                        self.inventory.facts = self.lying.facts
                        self._mirror_more()
                        self.census.say_all()
                except MinicloudError as error:
                    log.info("the cluster does not say what it serves", error=str(error))

    # -- the bus ---------------------------------------------------------------------------------

    async def _follow(self, synced: asyncio.Event) -> None:
        """Read what was observed and what is desired, then every change, for ever."""
        s = self._bus.subjects
        consumer = consumer_name("cluster", self._settings.cluster)
        while True:
            try:
                # One after the other: the credential may use one consumer, on one kind of level at a time.
                async with self._bus.watch(
                    {s.observed(): ObservedWorkload}, consumer=consumer, keep_bad=True
                ) as items:
                    async for item in items:
                        if item.kind == "SYNC":
                            break
                        if item.event is not None and item.event.data.cluster == self._settings.cluster:
                            self.telling.recall(item.event.data)
                async with self._bus.watch(
                    {s.desired(): DesiredWorkload}, consumer=consumer, keep_bad=True
                ) as items:
                    present = Levels(self._settings.cluster)
                    async for item in items:
                        if item.kind == "SYNC":
                            self.levels.become(present)
                            synced.set()
                            if self._begun:
                                self.keeper.concern_all()
                        elif item.event is not None:
                            into = present if item.kind == "ITEM" else self.levels
                            self._desired(into, item.subject, item.event.data, item.revision)
            except TooOld as error:
                log.warning("the levels were made anew; they are read again", error=str(error))
            except MinicloudError as error:  # a site that is still being set up has no stream yet
                log.info("the levels cannot be read yet", error=str(error))
                await asyncio.sleep(_RETRY)

    def _desired(self, into: Levels, subject: str, level: DesiredWorkload, revision: int) -> None:
        if (level.node, level.workload) != (name_in(subject), name_in(subject, _WORKLOAD_AT)):
            log.warning("a level speaks for another", subject=subject, workload=level.workload)
            return
        concerned = into.take(level, revision)
        if self._begun and into is self.levels:
            self.keeper.concern(concerned)

    async def _logs(self, request: LogsRequest) -> dict[str, Any]:
        deployment, _, number = request.workload.rpartition("-")
        if not deployment or not number.isdecimal():
            raise NotFound(f"{request.workload!r} is no workload", expected="<deployment>-<replica>")
        told = [
            seen
            for (_, replica), seen in self.telling.told(deployment).items()
            if replica == int(number) and seen.reference
        ]
        told.sort(key=lambda seen: (seen.generation or 0, seen.state not in ("stopping", "stopped")))
        pods = [
            pod
            for key in self.lying.groups()
            if key.deployment == deployment
            for pod in self.lying.of(key).get(PODS, [])
        ]
        pod = logs.pod_of(pods, told[-1].reference if told else None, deployment)
        return await logs.read(self._api, self._settings.namespace, pod, request)


async def _patiently(what: str, read: Callable[[], Any]) -> None:
    while True:
        try:
            await read()
        except MinicloudError as error:
            log.info("cannot be read yet", what=what, error=str(error))
            await asyncio.sleep(_RETRY)
        else:
            return


def _version() -> str:
    try:
        return version("minicloud")
    except PackageNotFoundError:
        return "0"


async def serve(frame: Frame[ClusterSettings]) -> None:
    """Stand by until the lease is ours, then act until asked to stop."""
    settings = frame.settings
    lease = frame.bus.lease(lease_name("cluster", settings.cluster), settings.instance)
    log.info("standing by", cluster=settings.cluster)
    stop = asyncio.ensure_future(frame.stopping.wait())
    acquiring = asyncio.ensure_future(lease.acquire())
    await asyncio.wait({acquiring, stop}, return_when=asyncio.FIRST_COMPLETED)
    if frame.stopping.is_set():
        await end([acquiring])
        return
    api = await Api.connect(settings.kubeconfig, settings.context)
    try:
        worker = ClusterWorker(frame, api, lambda: lease.held)
        starting = frame.spawn(worker.start())
        lost = asyncio.ensure_future(lease.lost.wait())
        await asyncio.wait({stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        await end([starting])
        if lease.lost.is_set():
            raise Unavailable(
                "the lease is lost; another worker of this cluster may act", expected="to be started again"
            )
        lost.cancel()
        await worker.stop()
    finally:
        await frame.close()
        await api.close()
        await lease.release()
