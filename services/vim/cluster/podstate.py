"""What a pod's status means in our words: its state, the reason, how often it was started again, how it ended.

The container's own state is read before the pod's phase, which lags behind it by more than a second, and stays
Running while a container crashes again and again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from schemas.workload import Exit, WorkloadState
from services.vim.cluster.api import Object
from services.vim.cluster.match import condition, ending, is_ready, node_of
from services.vim.cluster.pod import MAIN

_LONGEST: Final = 1000
#: Words of container runtimes and registries: the image is not there, whenever it is asked for.
_NO_IMAGE: Final = re.compile(
    r"not found|does not exist|manifest unknown|no such image|name unknown|repository name not known",
    re.IGNORECASE,
)
_NOT_ALLOWED: Final = re.compile(r"unauthorized|authentication required|denied|forbidden", re.IGNORECASE)
_NO_COMMAND: Final = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
_NOT_EXECUTABLE: Final = re.compile(r"permission denied|exec format error", re.IGNORECASE)
_AS_ROOT: Final = re.compile(r"runAsNonRoot|run as root|runAsUser", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod in our words.

    Attributes:
        state: of the workload.
        reason: a CamelCase word; those that a node's worker says mean the same here.
        message: a sentence.
        restarts: how often its container was started again.
        exit: how it ended last, if it did.
        started_at: when it was started last.
        trouble: whether the cluster's events may say more.
    """

    state: WorkloadState
    reason: str
    message: str = ""
    restarts: int = 0
    exit: Exit | None = None
    started_at: str | None = None
    trouble: bool = False


def pod_state(pod: Object, *, node_ready: bool = True, served: bool = False, job: bool = False) -> PodState:
    """The state of a pod.

    Args:
        pod: as the API describes it.
        node_ready: whether its node is there.
        served: whether it served before.
        job: whether it is expected to end.
    """
    status = pod.get("status", {})
    container = _container(status)
    restarts = int(container.get("restartCount") or 0)
    last = _terminated(container.get("lastState"))
    exit_ = _exit(last) if last else None
    if node_of(pod) and not node_ready:
        return PodState("unknown", "NodeLost", f"{node_of(pod)} does not answer the cluster", restarts, exit_)
    if ending(pod):
        return PodState("stopping", "Stopping", "", restarts, exit_)
    return _by_phase(pod, status, container, restarts, exit_, served=served, job=job)


def _by_phase(
    pod: Object,
    status: Object,
    container: Object,
    restarts: int,
    exit_: Exit | None,
    *,
    served: bool,
    job: bool,
) -> PodState:
    now: dict[str, Any] = container.get("state") or {}
    ended = _terminated(now)
    if ended:
        return _ended(ended, restarts, job=job)
    if status.get("phase") in ("Failed", "Succeeded"):
        # The pod as a whole: evicted by its node, or ended before its container was seen.
        good = status["phase"] == "Succeeded"
        reason = str(status.get("reason") or ("Completed" if good else "Failed"))
        return PodState(
            "completed" if good else "failed", reason, _text(status.get("message")), restarts, exit_
        )
    if waiting := now.get("waiting"):
        return _waiting(waiting, restarts, exit_, container)
    if running := now.get("running"):
        started = running.get("startedAt")
        if is_ready(pod):
            return PodState("running", "Started", "", restarts, exit_, started)
        if container.get("started") is False or not served:
            return PodState("starting", "Started", "it does not serve yet", restarts, exit_, started)
        return PodState("degraded", "HealthCheckFailed", "its probe fails", restarts, exit_, started)
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        reason = "Unschedulable" if scheduled.get("reason") == "Unschedulable" else "Scheduling"
        return PodState("creating", reason, _text(scheduled.get("message")))
    if status.get("phase") == "Running":  # a node that tells no more of its containers, as KWOK's
        if is_ready(pod):
            return PodState("running", "Started", "", restarts, exit_, status.get("startTime"))
        return PodState("starting", "Started", "it does not serve yet", restarts, exit_)
    where = f"{node_of(pod)} prepares it" if node_of(pod) else "the cluster's scheduler looks for a node"
    return PodState(
        "creating", "Preparing" if node_of(pod) else "Scheduling", where, trouble=bool(node_of(pod))
    )


def _ended(ended: Object, restarts: int, *, job: bool) -> PodState:
    exit_ = _exit(ended)
    reason, message = _why(ended, exit_)
    started = ended.get("startedAt")
    if exit_.code == 0 and not exit_.oom:
        if job:
            return PodState("completed", "Completed", "", restarts, exit_, started)
        return PodState(
            "starting", "Completed", "it exited with 0; it is started again", restarts, exit_, started
        )
    if job:
        return PodState("failed", reason, message, restarts, exit_, started)
    return PodState("starting", reason, f"{message}; it is started again", restarts, exit_, started)


def _why(ended: Object, exit_: Exit) -> tuple[str, str]:
    said = _text(ended.get("message"))
    if exit_.oom:
        return "OOMKilled", "it needed more than its limit of memory"
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        return _start_reason(said), said
    if exit_.signal is not None:
        return "ExitedWithError", f"it was ended by signal {exit_.signal}{f': {said}' if said else ''}"
    return "ExitedWithError", f"it exited with {exit_.code}{f': {said}' if said else ''}"


def _waiting(waiting: Object, restarts: int, exit_: Exit | None, container: Object) -> PodState:
    reason, message = str(waiting.get("reason") or ""), _text(waiting.get("message"))
    match reason:
        case "CrashLoopBackOff":
            last = _terminated(container.get("lastState")) or {}
            why, how = _why(last, exit_ or Exit()) if last else ("ExitedWithError", message)
            if why in ("CommandNotFound", "CommandNotExecutable"):
                return PodState("failed", why, how, restarts, exit_)
            told = f"{how}; restart {restarts + 1} waits"
            return PodState(
                "starting", why if why == "OOMKilled" else "CrashLoopBackOff", told, restarts, exit_
            )
        case "InvalidImageName":
            return PodState("failed", "ImageInvalid", message)
        case "ErrImageNeverPull":
            return PodState("failed", "ImageNotFound", message)
        case "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError":
            if _NO_IMAGE.search(message) and not _NOT_ALLOWED.search(message):
                return PodState("failed", "ImageNotFound", message)
            return PodState(
                "creating", "ImagePullFailed", message or "the image cannot be pulled", trouble=True
            )
        case "CreateContainerConfigError" if _AS_ROOT.search(message):
            return PodState("failed", "NeedsRoot", message)
        case "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError":
            start = _start_reason(message)
            state: WorkloadState = "failed" if start != "CannotStart" else "creating"
            return PodState(state, start, message, restarts, exit_, trouble=state == "creating")
        case "" | "ContainerCreating" | "PodInitializing":
            return PodState("creating", "Preparing", message, restarts, exit_, trouble=True)
        case _:
            return PodState("creating", reason, message, restarts, exit_, trouble=True)


def _start_reason(message: str) -> str:
    if _NO_COMMAND.search(message):
        return "CommandNotFound"
    if _NOT_EXECUTABLE.search(message):
        return "CommandNotExecutable"
    return "CannotStart"


def _container(status: Object) -> Object:
    for one in status.get("containerStatuses") or ():
        if one.get("name") == MAIN:
            found: Object = one
            return found
    return next(iter(status.get("containerStatuses") or ()), {})


def _terminated(state: Any) -> Object | None:
    return (state or {}).get("terminated")


def _exit(ended: Object) -> Exit:
    code = ended.get("exitCode")
    signal = ended.get("signal") or (code - 128 if isinstance(code, int) and 128 < code < 128 + 65 else None)
    return Exit(code=code, signal=signal or None, oom=ended.get("reason") == "OOMKilled")


def _text(message: Any) -> str:
    return str(message or "")[:_LONGEST]
