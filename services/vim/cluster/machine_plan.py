"""The next step that brings one machine nearer to what is wanted.

In: the level that is wanted, or that none is, and what the cluster holds. Out: one step, which may be taken
again at any time; nothing is remembered but what lies in the cluster, so that a kill in between loses nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from services.vim.cluster.machine import HALTED, STRATEGIES, spec_hash
from services.vim.cluster.machine_view import Level, Patience, View, overdue, phase_of


@dataclass(frozen=True, slots=True)
class Write:
    """Make the machine as its level says."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Let the guest shut down, and stay so."""


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


Step = Write | Halt | Delete | Tell | Migrate | Forget | Wait


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


def plan(level: Level, view: View, now: datetime, patience: Patience) -> Step:
    """The next step for a machine that is wanted.

    Args:
        level: of those that want it to run, the one that was written last.
        view: what the cluster holds.
        now: the time by the cluster's clock.
        patience: with migrations.
    """
    if view.deleting:
        return Wait("somebody deletes the machine; it is made again when it is gone")
    if not _current(view, level, settled_on(view, level)):
        return Write()
    if view.lost is not None:
        return Wait("the node under it is not heard of")
    return (
        _tidy(view, level)
        or _renew(view, level)
        or _pause(view, paused=level.desired.state == "paused")
        or _move(view, level, now, patience)
        or Wait()
    )


def plan_end(view: View) -> Step:
    """The next step for a machine that is not wanted.

    First it is halted, so that the guest shuts down and a wish that comes back finds its machine; then deleted.
    """
    if view.vm is None or view.deleting:
        return Wait()
    if view.strategy == HALTED:
        return Delete() if view.gone else Wait("the guest shuts down")
    if view.start_wanted:
        return Wait("KubeVirt still carries out a start; a halt now would be turned back")
    return Halt()


def settled_on(view: View, level: Level) -> str:
    """The node that the machine is settled on: a level's own, unless the instance has yet to move there."""
    return (view.settled or level.desired.node) if moving(view, level) else level.desired.node


def _current(view: View, level: Level, settled: str) -> bool:
    """Whether the machine was last written for this level; that all of it is as wanted is the writer's affair."""
    written = (view.wish, view.settled, view.strategy)
    return written == (spec_hash(level.desired), settled, STRATEGIES[level.desired.restart])


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
