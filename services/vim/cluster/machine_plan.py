"""The next step that brings one machine nearer to what is wanted.

In: the levels of all nodes for one replica, and what the cluster holds of it. Out: one step, which may be taken
again at any time; nothing is remembered but what lies in the cluster, so that a kill in between loses nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.vim.cluster.machine import HALTED, SETTLED, spec_hash
from services.vim.cluster.machine_view import Level, Object, Patience, View, overdue, phase_of


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the machine as ``level`` says, settled on ``node``; halted if it is to end."""

    level: Level
    node: str
    halted: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Take the machine, of which nothing runs any more, out of the cluster."""


@dataclass(frozen=True, slots=True)
class Tell:
    """PUT one of the subresources ``pause``, ``unpause`` (of the instance) or ``restart`` (of the machine)."""

    what: str


@dataclass(frozen=True, slots=True)
class Migrate:
    """Ask that the running instance moves to ``node``."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a migration away that is over, or that nobody wants any more (which ends it)."""

    name: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or until the next look."""

    why: str = ""


Step = Apply | Delete | Tell | Migrate | Forget | Wait


def wanted(levels: Sequence[Level]) -> Level | None:
    """The level that decides: of those that want it to run, the newest."""
    running = [level for level in levels if level.desired.state != "stopped"]
    return max(running, key=lambda level: (level.desired.generation, level.revision), default=None)


def migration_name(view: View, level: Level) -> str:
    """The name of the one migration that brings this instance to this level: made twice, it is still one."""
    instance = (view.vmi or {}).get("metadata") or {}
    about = f"{instance.get('uid')}/{level.desired.node}/{level.revision}"
    return f"{instance.get('name')}-{hashlib.sha256(about.encode()).hexdigest()[:10]}"


def moving(view: View, level: Level) -> bool:
    """Whether the level was put on another node than the one where the instance lives and was settled.

    An instance that left the node where it was settled was moved by the cluster itself: it is followed.
    """
    return view.node is not None and level.desired.node not in (view.node, view.settled)


def plan(
    levels: Sequence[Level],
    view: View,
    document: Object | None,
    now: datetime,
    patience: Patience,
) -> Step:
    """The next step.

    Args:
        levels: of this replica, on all nodes of the cluster.
        view: what the cluster holds.
        document: the machine as it should be by the level that is wanted; None if none is.
        now: the time by the cluster's clock.
        patience: with migrations.
    """
    level = wanted(levels)
    if level is None:
        return _end(levels, view)
    if view.deleting:
        return Wait("somebody deletes the machine; it is made again when it is gone")
    settled = _settled(view, level)
    if view.vm is None or (document is not None and not _has(view.vm, document, settled)):
        return Apply(level, settled)
    if view.lost is not None:
        return Wait("the node under it is not heard of")
    return (
        _tidy(view, level)
        or _renew(view, level)
        or _pause(view, paused=level.desired.state == "paused")
        or _move(view, level, now, patience)
        or Wait()
    )


def _end(levels: Sequence[Level], view: View) -> Step:
    """First halted, so that the guest shuts down and a wish that comes back finds its machine; then deleted."""
    if view.vm is None or view.deleting:
        return Wait()
    if view.strategy == HALTED:
        return Delete() if view.gone else Wait("the guest shuts down")
    if view.start_wanted:
        return Wait("KubeVirt still carries out a start; a halt now would be turned back")
    last = max(levels, key=lambda level: (level.desired.generation, level.revision))
    return Apply(last, view.settled or last.desired.node, halted=True)


def _settled(view: View, level: Level) -> str:
    """The node that the machine is settled on: a level's own, unless the instance has yet to move there."""
    return view.settled or level.desired.node if moving(view, level) else level.desired.node


def _has(vm: Object, document: Object, settled: str) -> bool:
    """Whether the machine says all that it should; what others added to it is theirs."""
    annotations = {**document["metadata"].get("annotations", {}), SETTLED: settled}
    wish = {"metadata": {"annotations": annotations, "labels": document["metadata"].get("labels", {})}}
    return _within(wish, vm) and _within({"spec": document["spec"]}, vm)


def _within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and _within(value, whole[key]) for key, value in part.items()
        )
    if isinstance(part, list):
        return (
            isinstance(whole, list)
            and len(part) == len(whole)
            and all(_within(one, other) for one, other in zip(part, whole, strict=True))
        )
    return bool(part == whole)


def _tidy(view: View, level: Level) -> Step | None:
    """Migrations of ours that are over or lead elsewhere; those of others are theirs."""
    now_wanted = migration_name(view, level) if view.vmi is not None and moving(view, level) else None
    for one in view.migrations:
        name = one["metadata"]["name"]
        ours = "minicloud.dev/workload" in (one["metadata"].get("labels") or {})
        if ours and name != now_wanted and "deletionTimestamp" not in one["metadata"]:
            return Forget(name)
    return None


def _renew(view: View, level: Level) -> Step | None:
    """An instance that was started for another wish is restarted; KubeVirt changes none as it runs."""
    stale = view.alive and view.hash is not None and view.hash != spec_hash(level.desired)
    if not stale or view.status.get("stateChangeRequests"):
        return None
    return Tell("restart")


def _pause(view: View, *, paused: bool) -> Step | None:
    if not view.alive or view.phase != "Running":
        return None
    if paused and view.paused_by is None:
        return Tell("pause")
    if not paused and view.paused_by == "PausedByUser":
        return Tell("unpause")
    return None


def _move(view: View, level: Level, now: datetime, patience: Patience) -> Step | None:
    if not moving(view, level) or view.phase != "Running":
        return None
    name = migration_name(view, level)
    known = view.migration(name)
    if known is not None:
        if overdue(known, now, patience) or phase_of(known) == "Failed":
            return Wait("its migration failed; where it goes is decided anew")
        return Wait("it migrates")
    if view.in_flight:
        return Wait("another migration of it is under way")
    if view.condition_of_instance("LiveMigratable").get("status") == "False":
        return Wait("it cannot migrate")
    return Migrate(name, level.desired.node)
