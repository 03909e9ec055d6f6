"""What the workloads of a cluster printed, from the API: the last lines, or those after a position.

A position is the moment of the last line that was read, as the cluster's nodes stamp it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bus.printed import lines_answered
from schemas.errors import NotFound, Unavailable
from schemas.verbs import LogsRequest
from services.vim.cluster.api import PODS, Api, ApiError, Object
from services.vim.cluster.match import ending
from services.vim.cluster.names import DEPLOYMENT, annotations_of, labels_of, name_of
from services.vim.cluster.pod import MAIN

#: Terminal commands and control characters: what is printed must be safe in somebody's terminal.
_CONTROL: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\^_a-z])|[\x00-\x08\x0b-\x1f\x7f]")
#: On the pod around a virtual machine: the machine.
MACHINE: Final = "vm.kubevirt.io/name"
#: The container beside a virtual machine that prints what its console does.
CONSOLE: Final = "guest-console-log"
_STAMPED: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?(.*)", re.DOTALL
)
_AT_ONCE: Final = 64 * 1024


async def read(api: Api, namespace: str, pod: Object, request: LogsRequest) -> dict[str, Any]:
    """The answer to a request about a pod, as a node's worker would give it."""
    container = _container(pod)
    path = PODS.path(namespace, name_of(pod), "log")
    query = {"container": container, "timestamps": "true", "limitBytes": str(4 * _AT_ONCE)}
    if request.after is None:
        query["tailLines"] = str(request.tail)
    elif request.after:
        query["sinceTime"] = request.after
    try:
        text = await api.text(path, query)
        if not text and _restarts(pod) and request.after is None:
            # It waits to be started again: what its last run said is what is asked about.
            text = await api.text(path, {**query, "previous": "true"})
    except ApiError as error:
        if error.http in (400, 404):
            return lines_answered(request, [], request.after or "", more=False)
        raise Unavailable(f"the cluster does not tell: {error}") from None
    stamped = [match for line in text.splitlines() if (match := _STAMPED.match(line))]
    if request.after:
        stamped = [match for match in stamped if _moment(match[1]) > _moment(request.after)]
    position = stamped[-1][1] if stamped else request.after or ""
    lines = [_CONTROL.sub("", match[2]) for match in stamped]
    more = len(text) >= 4 * _AT_ONCE
    return lines_answered(request, lines, position, more=more)


def pod_of(pods: list[Object], reference: str | None, deployment: str) -> Object:
    """The pod that a workload was last told to be.

    Raises:
        NotFound: there is none.
    """
    name = (reference or "").rpartition("/")[2]
    ours = [pod for pod in pods if annotations_of(pod).get(DEPLOYMENT) == deployment]
    for pod in sorted(ours, key=ending):
        if name in (name_of(pod), labels_of(pod).get(MACHINE)):
            return pod
    raise NotFound(
        f"nothing of {deployment!r} that could have printed is there", expected="a workload that ran"
    )


def _moment(stamp: str) -> tuple[str, str]:
    """Stamps in their order: nanoseconds are written without zeros at their end."""
    seconds, _, fraction = stamp.removesuffix("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def _container(pod: Object) -> str:
    names = [str(one["name"]) for one in pod.get("spec", {}).get("containers") or ()]
    for known in (MAIN, CONSOLE):
        if known in names or not names:
            return known
    return names[0]


def _restarts(pod: Object) -> bool:
    return any(one.get("restartCount") for one in pod.get("status", {}).get("containerStatuses") or ())
