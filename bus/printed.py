"""What the replicas of a deployment print, read over the bus from the workers of their nodes.

In: a deployment, or one of its replicas. Out: the last lines of each, and what they say from then on. vim
knows where the replicas are; each node's worker has their lines, or that of the cluster that they run in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from bus.bus import Bus
from schemas.decision import FINAL_STATES
from schemas.errors import NotFound, Unavailable
from schemas.verbs import LogsRequest
from schemas.workload import workload_name

#: Bytes of lines in one answer.
_ANSWER_LIMIT: Final = 256 * 1024


class Printed(NamedTuple):
    """Lines that a workload printed, the oldest first."""

    workload: str
    lines: list[str]


async def last_printed(
    bus: Bus, deployment: str, *, replica: int | None = None, tail: int = 100
) -> list[Printed]:
    """The last lines of each replica.

    Raises:
        NotFound: no such deployment or replica.
        Unavailable: no vim answers, or the worker of a node does not.
    """
    found = []
    for entry in replicas_of(await _known(bus, deployment), replica):
        workload = workload_name(deployment, entry["replica"])
        answer = await _ask(bus, workload, entry, tail=tail)
        found.append(Printed(workload, list(answer["lines"])))
    return found


async def follow_printed(
    bus: Bus, deployment: str, *, replica: int | None = None, tail: int = 100, every: float = 0.5
) -> AsyncIterator[Printed]:
    """The last lines of each replica, then what they say, until the deployment ends.

    Args:
        bus: the connection.
        deployment: its id.
        replica: only this one.
        tail: lines of each to begin with.
        every: seconds between two looks.

    Raises:
        NotFound: no such deployment or replica.
        Unavailable: no vim answers.
    """
    read_to: dict[tuple[str, str], str] = {}
    chosen = replicas_of(await _known(bus, deployment), replica)
    while True:
        more = False
        known = await _known(bus, deployment)
        chosen = [r for r in known["replicas"] if replica is None or r["replica"] == replica] or chosen
        for entry in chosen:
            workload, node = workload_name(deployment, entry["replica"]), str(entry["node"])
            after = read_to.get((workload, node))
            try:
                answer = await _ask(bus, workload, entry, tail=tail, after=after)
            except (NotFound, Unavailable):
                continue  # not there yet, or its node is away: the next look tells
            read_to[workload, node] = answer["position"]
            more = more or answer["more"]
            if answer["lines"]:
                yield Printed(workload, list(answer["lines"]))
        if known["state"] in FINAL_STATES and not more:
            return
        if not more:
            await asyncio.sleep(every)


def lines_answered(request: LogsRequest, lines: list[str], position: str, *, more: bool) -> dict[str, Any]:
    """What a worker answers who is asked for lines: as many of the last as one message should hold."""
    size, kept = 0, []
    for line in reversed(lines):
        size += len(line.encode()) + 8
        if size > _ANSWER_LIMIT:
            break
        kept.append(line)
    return {
        "workload": request.workload,
        "lines": kept[::-1],
        "truncated": len(kept) < len(lines),
        "position": position,
        "more": more,
    }


async def _known(bus: Bus, deployment: str) -> dict[str, Any]:
    answer: dict[str, Any] = await bus.request("vim", "get", {"deployment": deployment})
    return answer


async def _ask(bus: Bus, workload: str, entry: dict[str, Any], **which: Any) -> dict[str, Any]:
    """Ask whoever runs it: the worker of its cluster, else its node's."""
    wanted = {name: value for name, value in which.items() if value is not None}
    cluster = entry.get("cluster")
    service, instance = ("cluster", cluster) if cluster else ("worker", entry["node"])
    answer: dict[str, Any] = await bus.request(
        service, "logs", {"workload": workload, **wanted}, instance=instance
    )
    return answer


def replicas_of(known: dict[str, Any], replica: int | None) -> list[dict[str, Any]]:
    """The replicas of a deployment that is known, or the one that is meant.

    Raises:
        NotFound: there are none, or not this one; names those that there are.
    """
    chosen = [r for r in known["replicas"] if replica is None or r["replica"] == replica]
    if not chosen:
        have = ", ".join(str(r["replica"]) for r in known["replicas"])
        raise NotFound(
            f"{known['deployment']} is {known['state']} and has "
            f"{'no replicas' if replica is None else f'no replica {replica}'}",
            expected=f"one of {have}" if have else None,
        )
    return chosen
