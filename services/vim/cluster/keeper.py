"""Keeping the cluster as desired: one group after the other, whatever happened in between.

:class:`Keeper` looks at one deployment's part at a time and takes whatever step is due: objects are written,
what is no longer wanted is ended, what there is is told. It remembers nothing that it could not find out again;
it may die between any two lines, and whoever comes next takes the same step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import structlog
from prometheus_client import Counter

from schemas.errors import Conflict, Unavailable
from schemas.workload import DesiredWorkload, WorkloadState
from services.vim.agenda import Agenda
from services.vim.cluster.api import PODS, Api, ApiError
from services.vim.cluster.kind import Group, Kind, Machines, Observation, Seen
from services.vim.cluster.levels import Levels
from services.vim.cluster.lying import Lying, controlled
from services.vim.cluster.names import Key, Ours, name_of
from services.vim.cluster.refusal import Refusal
from services.vim.cluster.telling import Telling
from services.vim.cluster.trouble import Troubles
from services.vim.cluster.writing import Writing
from services.vim.worker.workload import CannotRun

log = structlog.get_logger("cluster")
_HANDS: Final = 8
#: Levels of one decision come one by one: so long they are waited for.
_SETTLE: Final = 0.03
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
#: A server that does not answer for so long is told in the statuses.
AWAY_AFTER: Final = 15.0
_ENDED: Final = frozenset({"stopped", "completed", "failed"})


class Keeper:
    """Takes the due steps of one group at a time.

    Args:
        api: the cluster.
        ours: our mark.
        kinds: by runtime.
        machines: the cluster's nodes.
        levels: what is desired.
        lying: what there is.
        telling: where observations go.
        acting: whether we hold the lease at this moment; without it no step is taken.
        drifts: counts what others changed and was set right.
    """

    def __init__(
        self,
        api: Api,
        ours: Ours,
        kinds: Mapping[str, Kind],
        machines: Machines,
        levels: Levels,
        lying: Lying,
        telling: Telling,
        acting: Callable[[], bool],
        drifts: Counter,
    ) -> None:
        self._api = api
        self._ours = ours
        self._kinds = kinds
        self._machines = machines
        self._levels = levels
        self._lying = lying
        self._telling = telling
        self._acting = acting
        self._drifts = drifts
        self._writing = Writing(api, ours, lying)
        self._troubles = Troubles(api, ours.namespace)
        self._agenda = Agenda()
        self._keys: dict[str, Key] = {}
        self._soon: set[str] = set()
        self._failures: dict[str, int] = {}
        self._corrected: dict[Key, tuple[int, str]] = {}

    # -- what is due -----------------------------------------------------------------------------

    def concern(self, keys: Iterable[Key]) -> None:
        """Look at these soon."""
        for key in keys:
            self._later(key, _SETTLE)

    def concern_all(self) -> None:
        """Look at everything: what is desired, and what lies there and may not be."""
        self.concern(self._levels.keys() | self._lying.groups())

    async def work(self) -> None:
        """Take steps for ever."""
        await asyncio.gather(*(self._hand() for _ in range(_HANDS)))

    def _later(self, key: Key, seconds: float) -> None:
        name = f"{key.deployment}/{key.runtime}"
        if seconds > _SETTLE:
            asyncio.get_running_loop().call_later(seconds, self._due, name, key)
        elif name not in self._soon:
            self._soon.add(name)
            asyncio.get_running_loop().call_later(seconds, self._due, name, key)

    def _due(self, name: str, key: Key) -> None:
        self._soon.discard(name)
        self._keys[name] = key
        self._agenda.add(name)

    async def _hand(self) -> None:
        while True:
            name = await self._agenda.take()
            key = self._keys[name]
            try:
                again = await self.step(key)
            except Unavailable as error:
                log.info("put off", deployment=key.deployment, error=str(error))
                again = self._pause(name)
            except ApiError as error:
                log.warning("refused", deployment=key.deployment, error=str(error))
                again = self._pause(name)
            except Conflict:
                again = None  # the lease is gone, and so are we in a moment
            except Exception:
                # One deployment gone wrong must not end the others.
                log.exception("a step failed", deployment=key.deployment, runtime=key.runtime)
                again = self._pause(name)
            else:
                if again is None:
                    self._failures.pop(name, None)
                elif again == 0.0:
                    again = self._pause(name)
            finally:
                self._agenda.done(name)
            if again is not None:
                self._later(key, again)

    def _pause(self, name: str) -> float:
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 10)))

    # -- one step --------------------------------------------------------------------------------

    async def step(self, key: Key) -> float | None:
        """Bring one group as far as it can be brought now.

        Returns:
            When to look again without anything having changed: in so many seconds, 0.0 for whenever it is
            reasonable after a refusal, None for not at all.
        """
        if not self._acting():
            return None
        kind = self._kinds.get(key.runtime)
        group = self._levels.group(key)
        if kind is None:
            self._tell_cannot(group, f"this worker runs no {key.runtime} in a cluster")
            return None
        if (away := self._lying.away_for(asyncio.get_running_loop().time())) > AWAY_AFTER:
            self._tell_away(group)
            return min(away, AWAY_AFTER)
        seen = self._seen(key)
        if self._must_wait_for_others(group):
            self._tell_all(group, Observation("creating", "Replacing", "what ran before ends first"))
            return 1.0
        try:
            refusal, waits = await self._make_so(kind, group, seen)
        except CannotRun as error:
            self._tell_all(group, Observation("failed", error.reason, str(error)))
            self._tell_ending(kind, group, self._seen(key))
            return None
        seen = self._seen(key)
        soonest = await self._tell(kind, group, seen, refusal)
        self._tell_ending(kind, group, seen)
        if refusal is not None:
            return 0.0
        return 1.0 if waits else soonest

    def _seen(self, key: Key) -> Seen:
        return Seen(self._lying.of(key), self._machines, self._telling.told(key.deployment), time.time())

    def _must_wait_for_others(self, group: Group) -> bool:
        """Whether the same runs as another runtime still, and only one of it may."""
        if not group.wants or not group.newest.on_loss.singleton:
            return False
        return any(
            self._lying.of(other) for other in self._levels.others(group.key) | self._elsewhere(group.key)
        )

    def _elsewhere(self, key: Key) -> set[Key]:
        return {
            other
            for other in self._lying.groups()
            if other.deployment == key.deployment and other.runtime != key.runtime
        }

    async def _make_so(self, kind: Kind, group: Group, seen: Seen) -> tuple[Refusal | None, bool]:
        """Write what is wanted, end what is not; the first refusal, and whether something must go first."""
        wanted = kind.wanted(group, seen)
        refusal: Refusal | None = None
        waits = False
        try:
            if group.wants:
                await kind.act(group, seen, self._api)
        except ApiError as error:
            refusal = kind.refusal(error)
        for one in wanted:
            if one.keep:
                continue
            self._check()
            try:
                written = await self._writing.write(one)
            except ApiError as error:
                refusal = refusal or kind.refusal(error)
                continue
            refusal = refusal or written.refusal
            waits = waits or written.waits
            if written.drift:
                log.warning("drift", deployment=group.key.deployment, message=written.drift)
                self._drifts.inc()
                self._corrected[group.key] = (group.newest.generation, written.drift)
        await self._collect(kind, group, {(one.resource, name_of(one.document)) for one in wanted})
        return refusal, waits

    async def _collect(self, kind: Kind, group: Group, wanted: set[tuple[object, str]]) -> None:
        """End what is ours and no longer wanted; what others made of it goes with it."""
        for resource, documents in self._lying.of(group.key).items():
            if resource not in kind.resources:
                continue
            for document in documents:
                name, metadata = name_of(document), document["metadata"]
                if (resource, name) in wanted or metadata.get("deletionTimestamp") or controlled(document):
                    continue
                self._check()
                log.info("ended", kind=resource.kind, name=name, deployment=group.key.deployment)
                self._writing.forget(resource, name)
                namespace = self._ours.namespace if resource.namespaced else None
                await self._api.delete(resource, namespace, name, uid=metadata["uid"])

    def _check(self) -> None:
        if not self._acting():
            raise Conflict("the lease is gone")

    # -- what is told ----------------------------------------------------------------------------

    async def _tell(self, kind: Kind, group: Group, seen: Seen, refusal: Refusal | None) -> float | None:
        soonest: float | None = None
        observed = kind.observe(group, seen)
        for want in group.wants.values():
            level = want.level
            observation = observed.get((level.node, level.replica))
            if observation is None:
                continue
            if observation.trouble:
                observation = await self._troubles.explain(observation, seen.of(PODS))
                soonest = _sooner(soonest, self._troubles.every)
            soonest = _sooner(soonest, observation.retry_after)
            self._telling.tell(level, self._noted(group.key, level, _refused(observation, refusal)))
        return soonest

    def _noted(self, key: Key, level: DesiredWorkload, seen: Observation) -> Observation:
        """With what others had changed, for as long as this generation runs."""
        generation, drift = self._corrected.get(key, (0, ""))
        if not drift or generation != level.generation:
            return seen
        if (seen.state, seen.reason) == ("running", "Started"):
            return replace(seen, reason="DriftCorrected", message=drift)
        return seen

    def _tell_all(self, group: Group, seen: Observation) -> None:
        for want in group.wants.values():
            self._telling.tell(want.level, seen)

    def _tell_cannot(self, group: Group, message: str) -> None:
        self._tell_all(group, Observation("failed", "RuntimeUnavailable", message))
        for want in group.ending:
            self._telling.tell(want.level, Observation("stopped", "Stopped", "nothing of it runs here"))

    def _tell_away(self, group: Group) -> None:
        """The server is away: what runs there runs on, but nobody can say so."""
        told = self._telling.told(group.key.deployment)
        message = f"the API server of cluster {self._ours.cluster} does not answer"
        for want in (*group.wants.values(), *group.ending):
            before = told.get((want.level.node, want.level.replica))
            if before is not None and before.state in _ENDED and before.generation == want.level.generation:
                continue
            state: WorkloadState = "creating" if before is None or before.state == "creating" else "unknown"
            base = before or Observation("creating", "ApiAway")
            self._telling.tell(want.level, replace(base, state=state, reason="ApiAway", message=message))

    def _tell_ending(self, kind: Kind, group: Group, seen: Seen) -> None:
        """Of each level that says so: whether it has stopped."""
        told = seen.told
        left = list(kind.remaining(group, seen)) if group.ending else []
        own = kind.ending(group, seen) if group.ending else {}
        any_left = bool(left) or any(
            not controlled(document) for documents in seen.objects.values() for document in documents
        )
        for want in group.ending:
            level = want.level
            before = told.get((level.node, level.replica))
            if before and before.state in _ENDED and (before.generation or 0) >= level.generation:
                continue
            if (ending := own.get((level.node, level.replica))) is not None:
                self._telling.tell(level, ending)
                continue
            machine = self._machines.by_node(level.node)
            still = [
                reference
                for node, reference in left
                if (machine is not None and node == machine.kubernetes)
                or (before is not None and reference == before.reference)
            ]
            if still or (not group.wants and any_left):
                where = f": {still[0]}" if still else ""
                ending = Observation(
                    "stopping", "Stopping", f"it ends in the cluster{where}", engine=level.engine
                )
                self._telling.tell(level, replace(ending, reference=before.reference if before else None))
            else:
                self._telling.tell(level, Observation("stopped", "Stopped", "nothing of it runs here"))


def _refused(seen: Observation, refusal: Refusal | None) -> Observation:
    """An observation with why the cluster is not as wanted."""
    if refusal is None:
        return seen
    if seen.state == "running":
        return replace(seen, state="degraded", reason=refusal.reason, message=refusal.message)
    if seen.state == "migrating":
        return replace(seen, reason=refusal.reason, message=f"{seen.message}: {refusal.message}")
    if seen.state in ("creating", "starting") and seen.reference is None:
        state: WorkloadState = "failed" if refusal.lasting else "creating"
        return replace(seen, state=state, reason=refusal.reason, message=refusal.message)
    return seen


def _sooner(one: float | None, other: float | None) -> float | None:
    known = [seconds for seconds in (one, other) if seconds is not None]
    return min(known) if known else None
