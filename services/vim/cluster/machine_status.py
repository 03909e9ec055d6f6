"""What a machine of KubeVirt is doing, in our words: the observed state of one of its levels.

In: the level that is wanted, or that none is, and what the cluster holds. Out: state, reason and a sentence.
KubeVirt's one printed word is never believed alone: it says Stopped in
passing, Running of what is not ready, and Running for ever of what was on a node that died.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from schemas.workload import Exit, WorkloadState
from services.vim.cluster.inventory import OUT_OF_SERVICE
from services.vim.cluster.machine import spec_hash
from services.vim.cluster.machine_plan import migration_name, moving
from services.vim.cluster.machine_refusal import failure_of
from services.vim.cluster.machine_view import (
    Level,
    Object,
    Patience,
    View,
    moment,
    overdue,
    phase_of,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The observed state of one level.

    Attributes:
        state: of ours.
        reason: one word.
        message: a sentence.
        moved_to: the node where the cluster itself put it.
        addresses: where its ports are reached.
        exit: how it ended, where it ended by itself.
    """

    state: WorkloadState
    reason: str
    message: str = ""
    moved_to: str | None = None
    addresses: tuple[str, ...] = ()
    exit: Exit | None = None


#: Printed words that mean one thing: the state, the reason (the word itself unless another is given).
_PLAIN: Final[dict[str, tuple[WorkloadState, str]]] = {
    "Provisioning": ("creating", "Provisioning"),
    "WaitingForVolumeBinding": ("creating", "WaitingForVolumeBinding"),
    "WaitingForReceiver": ("starting", "WaitingForReceiver"),
    "Starting": ("starting", "Starting"),
    "ErrorUnschedulable": ("creating", "Unschedulable"),
    "ErrorPvcNotFound": ("failed", "VolumeNotFound"),
    "DataVolumeError": ("failed", "VolumeFailed"),
    "ErrImagePull": ("creating", "ErrImagePull"),
    "ImagePullBackOff": ("failed", "ImagePullFailed"),
    "CrashLoopBackOff": ("degraded", "CrashLoopBackOff"),
    "Stopping": ("starting", "Restarting"),
    "Terminating": ("starting", "Terminating"),
}
#: Reasons for which an instance is not ready because it has not come up yet.
_NOT_YET: Final = frozenset({"", "VMIConditionMissing", "VMINotExists", "GuestNotRunning", "PodNotExists"})
_WAS_UP: Final = frozenset({"running", "degraded", "paused", "migrating"})


def observe(level: Level, view: View, now: datetime, patience: Patience, before: str | None = None) -> Seen:
    """How a level that wants its machine to run is.

    Args:
        level: of those that want it to run, the one that was written last.
        view: what the cluster holds.
        now: the time by the cluster's clock.
        patience: with what KubeVirt gives no reason for.
        before: the state that was last observed there.
    """
    if view.vm is None:
        return Seen("creating", "Creating", "the machine is being made")
    if moving(view, level):
        return _migrating(level, view, now, patience)
    here = _instance(level, view, now, patience, before)
    elsewhere = view.node is not None and view.node != level.desired.node
    return replace(here, moved_to=view.node) if elsewhere else here


def observe_end(view: View) -> Seen | None:
    """How a machine is whose levels all say "stopped"; None where no more can be said than that it ends."""
    if view.lost is not None:
        return Seen("stopping", "NodeLost", _fencing(view))
    if view.vm is None and view.vmi is not None:
        return Seen("stopping", "Orphaned", "its machine was deleted and left the instance running")
    if view.start_wanted:
        return Seen(
            "stopping", "StartUnderWay", "KubeVirt still carries out a start, which would undo a halt"
        )
    return None


def _instance(level: Level, view: View, now: datetime, patience: Patience, before: str | None) -> Seen:
    """How it does, wherever it is."""
    if view.lost is not None:
        if view.lost.fenced:
            return Seen("starting", "Fenced", f"{view.lost.node} was fenced; it starts on another node")
        return Seen("unknown", "NodeLost", _fencing(view))
    paused = view.paused_by
    if view.alive and paused == "PausedByUser":
        return Seen("paused", "Paused", "its processors stand still", addresses=tuple(view.addresses))
    if view.alive and paused is not None:
        return Seen("degraded", paused, "KubeVirt itself stopped its processors")
    printed = str(view.status.get("printableStatus") or "")
    if printed in ("Running", "Migrating", "Paused"):
        return _up(level, view, before)
    if printed in ("Stopped", ""):
        return _stopped(level, view, now, patience, before)
    if printed in _PLAIN:
        state, reason = _PLAIN[printed]
        return Seen(state, reason, _why(view, printed))
    return Seen("unknown", "Unknown", f"KubeVirt prints {printed!r}")


def _up(level: Level, view: View, before: str | None) -> Seen:
    stale = view.hash is not None and view.hash != spec_hash(level.desired)
    if stale:
        return Seen("starting", "Updating", "it still runs what was wished before, until it is restarted")
    if view.status.get("ready") is True:
        return Seen("running", "Started", "", addresses=tuple(view.addresses))
    ready = view.condition("Ready")
    reason = str(ready.get("reason") or "")
    if reason in _NOT_YET or before not in _WAS_UP:
        return Seen(
            "starting", "NotReady", f"the guest runs and is not ready yet ({reason or 'no reason yet'})"
        )
    message = str(ready.get("message") or f"KubeVirt says {reason}")
    return Seen("degraded", reason, message, addresses=tuple(view.addresses))


def _stopped(level: Level, view: View, now: datetime, patience: Patience, before: str | None) -> Seen:
    """Never the end by itself: every start and restart shows it in passing."""
    failure = view.condition("Failure")
    if failure.get("status") == "True":
        refusal = failure_of(failure)
        return Seen("failed", refusal.reason, refusal.message)
    if level.desired.restart != "always" and view.phase == "Succeeded":
        return Seen("completed", "Completed", "the guest shut down", exit=Exit(code=0))
    if level.desired.restart == "never" and view.phase == "Failed":
        return Seen("failed", "GuestFailed", "the guest ended in failure", exit=Exit())
    passed = view.condition("Ready").get("lastTransitionTime") or (view.vm or {})["metadata"].get(
        "creationTimestamp"
    )
    if passed and now - moment(passed) > patience.start:
        return Seen(
            "unknown", "NotStarted", f"KubeVirt has not started it since {passed} and gives no reason"
        )
    if before in _WAS_UP:
        return Seen("starting", "Restarting", "the guest ended and is started again")
    return Seen("creating", "Starting", "KubeVirt is about to start it")


def _migrating(level: Level, view: View, now: datetime, patience: Patience) -> Seen:
    """On its way from the node where it lives to the one of its level."""
    goal, origin = level.desired.node, view.node
    if view.lost is not None:
        return Seen("creating", "FencingNeeded", _fencing(view))
    if view.condition_of_instance("LiveMigratable").get("status") == "False":
        condition = view.condition_of_instance("LiveMigratable")
        why = condition.get("message") or condition.get("reason") or "KubeVirt gives no reason"
        return Seen("failed", "NotMigratable", f"it stays on {origin}: {why}")
    known = view.migration(migration_name(view, level))
    if known is None:
        others = [one["metadata"]["name"] for one in view.in_flight]
        return Seen(
            "migrating",
            "MigrationWaits" if others else "Migrating",
            f"from {origin} to {goal}" + (f"; first {', '.join(others)} has to end" if others else ""),
        )
    if stuck := overdue(known, now, patience):
        return Seen("failed", "MigrationStuck", f"from {origin} to {goal}: {stuck}; it runs on, on {origin}")
    if phase_of(known) == "Failed":
        return Seen("failed", "MigrationFailed", f"it stays on {origin}: {_failure(known)}")
    return Seen("migrating", "Migrating", f"from {origin} to {goal}: {phase_of(known) or 'asked for'}")


def _failure(migration: Object) -> str:
    state = (migration.get("status") or {}).get("migrationState") or {}
    return str(state.get("failureReason") or "the migration failed and KubeVirt gives no reason")


def _fencing(view: View) -> str:
    """That somebody has to say that nothing runs there any more, and how."""
    lost = view.lost
    if lost is None:
        return ""
    return (
        f"{lost.node} is not heard of and may still run it, so it is started nowhere else. When that machine "
        f"surely is off, say so: kubectl taint nodes {view.host} {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
    )


def _why(view: View, printed: str) -> str:
    """What KubeVirt says about it, in the condition that it uses for this word."""
    kinds = {
        "ErrorUnschedulable": ("PodScheduled",),
        "ErrorPvcNotFound": ("Synchronized",),
        "DataVolumeError": ("DataVolumesReady", "Synchronized"),
    }.get(printed, ("Failure", "Synchronized"))
    for kind in kinds:
        for condition in (view.condition(kind), view.condition_of_instance(kind)):
            if condition.get("message") and condition.get("status") == (
                "True" if kind == "Failure" else "False"
            ):
                return str(condition["message"])
    if printed == "CrashLoopBackOff":
        failure = view.status.get("startFailure") or {}
        return (
            f"it failed to start {failure.get('consecutiveFailCount', 'several')} times; "
            f"next try at {failure.get('retryAfterTimestamp', 'a time that KubeVirt does not tell')}"
        )
    if printed == "Stopping":
        return "the guest shuts down, and starts again"
    if printed == "Terminating":
        return "somebody deletes it; it is made again when it is gone"
    return f"KubeVirt prints {printed}"
