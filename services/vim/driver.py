"""The port to whatever runs workloads, and the host driver behind it.

The host driver writes what should run as levels on the bus; the worker of each node makes it so
and writes what does run (``services/vim/worker``).
"""

from __future__ import annotations

from typing import Protocol

from bus.bus import Bus
from schemas.deployment import Decision, Placement
from schemas.workload import DesiredWorkload, workload_name
from services.vim.state import Desired, Life


class Driver(Protocol):
    """Makes decisions so. Every call may be repeated at any time."""

    async def apply(self, life: Life, decision: Decision) -> None:
        """Make every placement run and end what runs elsewhere."""

    async def stop(self, life: Life) -> None:
        """End everything of this deployment."""


class HostDriver:
    """Workloads on the nodes themselves: process, container, unikernel and VM by each node's worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def apply(self, life: Life, decision: Decision) -> None:
        """Write the desired level of every placement; then end what lies elsewhere.

        A replica that moves is started at its new place before it ends at the old one, unless only one
        of it may ever run.
        """
        wanted = {(placement.node, placement.replica): placement for placement in decision.placements}
        elsewhere = [key for key in life.desired if key not in wanted]
        if decision.request.on_loss.singleton:
            await self._end(life, elsewhere)
        for key, placement in wanted.items():
            before = life.desired.get(key)
            level = _level(decision, placement)
            if before is None or before.workload.model_dump() != level.model_dump():
                await self._write(life, level, before.revision if before else 0)
        if all(self._is_up(life, decision, placement) for placement in decision.placements):
            await self._end(life, elsewhere)
        else:
            # Replicas that are no longer asked for, or that were tried there in vain, need no successor.
            tried = {(attempt.node, attempt.replica) for attempt in decision.attempts}
            await self._end(
                life, [key for key in elsewhere if key[1] >= decision.request.replicas or key in tried]
            )

    async def stop(self, life: Life) -> None:
        """Write "stopped" wherever something runs."""
        await self._end(life, list(life.desired))

    async def _end(self, life: Life, keys: list[tuple[str, int]]) -> None:
        for key in keys:
            desired = life.desired[key]
            if desired.workload.state == "running":
                level = desired.workload.model_copy(update={"state": "stopped", "env": {}, "files": []})
                await self._write(life, level, desired.revision)

    async def _write(self, life: Life, level: DesiredWorkload, expect: int) -> None:
        subject = self._bus.subjects.desired(level.node, level.workload)
        revision = await self._bus.publish(subject, level, about=level.node, expect=expect)
        life.desired[level.node, level.replica] = Desired(level, revision)

    @staticmethod
    def _is_up(life: Life, decision: Decision, placement: Placement) -> bool:
        observed = life.seen(placement, decision.generation)
        return observed is not None and observed.state in ("running", "completed")


def _level(decision: Decision, placement: Placement) -> DesiredWorkload:
    request = decision.request
    image = getattr(request.images, placement.runtime)
    return DesiredWorkload(
        workload=workload_name(decision.deployment, placement.replica),
        deployment=decision.deployment,
        generation=decision.generation,
        replica=placement.replica,
        node=placement.node,
        state="running",
        runtime=placement.runtime,
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
    )
