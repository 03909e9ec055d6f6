"""The port to whatever runs workloads, and the driver behind it: levels on the bus.

It writes what should run; the worker of each node (``services/vim/worker``) or of a whole Kubernetes
cluster (``services/vim/cluster``) makes it so and writes what does run.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final, Protocol

from bus.bus import Bus
from schemas.decision import Decision, Placement
from schemas.deployment import DeploymentRequest
from schemas.workload import DesiredWorkload, workload_name
from services.vim.neighbours import apart_from_itself
from services.vim.state import Life, Place

#: So many are choice enough, and a level stays small.
_MOST_CANDIDATES: Final = 100


class Driver(Protocol):
    """Makes decisions so. Every call may be repeated at any time."""

    async def apply(self, life: Life, decision: Decision) -> None:
        """Make every placement run and end what runs elsewhere."""

    async def stop(self, life: Life) -> None:
        """End everything of this deployment."""


class LevelDriver:
    """Workloads by whoever acts for their nodes: each node's worker, or that of its cluster."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def apply(self, life: Life, decision: Decision) -> None:
        """Write the desired level of every placement, and end what lies elsewhere.

        A replica that moves is started at its new place before it ends at the old one, unless only one
        of it may ever run: then it ends first, and starts once its worker says so. From node to node of
        one cluster it is the cluster's worker that sees to that, so there it is told the new place at once.
        """
        wanted = {(placement.node, placement.replica): placement for placement in decision.placements}
        elsewhere = [place for place in life.desired if place not in wanted]
        await self._end(life, [place for place in elsewhere if _may_end(life, decision, place)])
        held_back = set()
        if decision.request.on_loss.singleton:
            goals = {placement.replica: placement.cluster for placement in decision.placements}
            held_back = {
                place[1]
                for place in elsewhere
                if not life.ended(place) and not _within(life.desired[place], goals.get(place[1]))
            }
        for place, placement in wanted.items():
            if placement.replica in held_back:
                continue
            before = life.desired.get(place)
            if before and before.cluster != placement.cluster and not life.ended(place):
                # Only one worker may speak for a place: whoever had it ends his part first.
                await self._end(life, [place])
                continue
            level = _level(decision, placement, before)
            if before is None or place in life.spoiled or before.model_dump() != level.model_dump():
                await self._write(life, place, level)

    async def stop(self, life: Life) -> None:
        """Write "stopped" wherever something runs."""
        await self._end(life, list(life.desired))

    async def _end(self, life: Life, places: list[Place]) -> None:
        for place in places:
            desired = life.desired[place]
            if desired.state != "stopped" or place in life.spoiled:
                level = desired.model_copy(update={"state": "stopped", "env": {}, "files": []})
                await self._write(life, place, level)

    async def _write(self, life: Life, place: Place, level: DesiredWorkload) -> None:
        subject = self._bus.subjects.desired(level.node, level.workload)
        revision = await self._bus.publish(
            subject, level, about=level.node, expect=life.desired_revision.get(place, 0)
        )
        if revision > life.desired_revision.get(place, 0):  # else the watch was faster, and knows more
            life.desired[place], life.desired_revision[place] = level, revision
            life.spoiled.discard(place)


def _may_end(life: Life, decision: Decision, place: Place) -> bool:
    """Whether what lies elsewhere has done its part.

    What has no successor yet runs on, be it of an earlier generation, unless it was tried in vain or has to
    make room for others.
    """
    replica = place[1]
    if replica >= decision.request.replicas:
        return True
    if any((attempt.node, attempt.replica) == place for attempt in decision.attempts):
        return True
    if any((given.node, given.replica) == place for given in decision.preempted):
        return True
    successor = next((one for one in decision.placements if one.replica == replica), None)
    if successor is None:
        return False
    if decision.request.on_loss.singleton and not _within(life.desired[place], successor.cluster):
        return True
    observed = life.seen(successor, decision.generation)
    return observed is not None and observed.state in ("running", "paused", "completed")


def _within(level: DesiredWorkload, cluster: str | None) -> bool:
    """Whether a level and its successor are one cluster's affair."""
    return cluster is not None and level.cluster == cluster


def _level(decision: Decision, placement: Placement, before: DesiredWorkload | None) -> DesiredWorkload:
    request = decision.request
    image = getattr(request.images, placement.runtime)
    return DesiredWorkload(
        workload=workload_name(decision.deployment, placement.replica),
        deployment=decision.deployment,
        generation=decision.generation,
        replica=placement.replica,
        node=placement.node,
        state="paused" if request.paused else "running",
        runtime=placement.runtime,
        driver=placement.driver,
        cluster=placement.cluster,
        engine=placement.engine,
        candidates=_candidates(decision, placement, before),
        constraint=_constraint(request) if placement.cluster else "",
        acceleration=placement.acceleration,
        image=image.model_dump(exclude_none=True),
        cpu=request.resources.cpu,
        memory=placement.memory or None,
        memory_overhead=placement.memory_overhead,
        ports=request.ports,
        env=request.env,
        files=request.files,
        health=request.health,
        restart=request.restart,
        user=request.user,
        on_loss=request.on_loss,
        spread=request.spread,
        apart=sorted(apart_from_itself(decision.deployment, request)),
        tolerations=request.tolerations,
        priority=request.priority,
    )


def _constraint(request: DeploymentRequest) -> str:
    """What stands for the conditions that nodes had to meet."""
    tolerated = [[one.written() for one in request.tolerations]] if request.tolerations else []
    said = json.dumps([request.where, request.user, *tolerated], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _candidates(decision: Decision, placement: Placement, before: DesiredWorkload | None) -> list[str]:
    """The other nodes of the cluster that could run it, best first; none for what one node's worker runs.

    None for what must be apart from others or beside them, either: only we know where those are.

    Of one generation they stay as they were: a later decision, about other replicas, changes nothing here.
    """
    if placement.cluster is None or decision.request.apart or decision.request.together:
        return []
    same = before and (before.generation, before.cluster) == (decision.generation, placement.cluster)
    if before and same and before.state != "stopped" and before.candidates:
        return before.candidates
    alike = (placement.cluster, placement.runtime, placement.engine)
    return [
        candidate.node
        for candidate in decision.candidates
        if (candidate.cluster, candidate.runtime, candidate.engine) == alike
        and candidate.node != placement.node
    ][:_MOST_CANDIDATES]
