"""The story of a deployment in lines, as ``deploy``, ``why`` and the tour tell it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from schemas.decision import Decision, DeploymentStatus

_COLOURS = {
    "running": "green",
    "completed": "green",
    "paused": "yellow",
    "rejected": "red",
    "failed": "red",
    "lost": "red",
}


def status_line(status: DeploymentStatus) -> str:
    """One status: when, which state, why."""
    colour = _COLOURS.get(status.state)
    state = click.style(f"{status.state:<13}", fg=colour, bold=True)
    return f"{_clock(status.observed_at)}  {state} {status.reason}: {status.message}".rstrip(": ")


def decision_lines(decision: Decision, *, most: int = 5) -> Iterator[str]:
    """A decision: placements, the best candidates with their scores, why the others were rejected.

    Args:
        decision: what was decided.
        most: how many candidates and names a line are spelt out.
    """
    yield f"{_clock(decision.decided_at)}  {'decided':<13} {decision.outcome}, {decision.considered} nodes considered"
    for placement in decision.placements:
        engine = f" by {placement.acceleration}" if placement.acceleration else ""
        moved = f", moved from {placement.moved_from}" if placement.moved_from else ""
        yield f"              replica {placement.replica} on {placement.node} as {placement.runtime}{engine}{moved}"
    for candidate in decision.candidates[:most]:
        parts = ", ".join(f"{name} {value:g}" for name, value in candidate.scores.items())
        yield f"              candidate {candidate.node} ({candidate.runtime}): {candidate.score:g} = {parts}"
    able = len(decision.candidates) + (len(decision.further.nodes) if decision.further else 0)
    if able > most:
        yield f"              and {able - most} more candidates"
    for stays in decision.unmoved:
        yield f"              replica {stays.replica}: {stays.message}"
    for attempt in decision.attempts:
        yield f"              tried {attempt.node} ({attempt.runtime}): {attempt.reason}: {attempt.message}"
    for group in decision.rejected:
        names = ", ".join(group.nodes[:most]) + (", ..." if len(group.nodes) > most else "")
        runtime = f" as {group.runtime}" if group.runtime else ""
        yield f"              rejected {len(group.nodes)}{runtime}: {group.reason} ({names})"


def decided_lines(decision: Decision) -> Iterator[str]:
    """A decision at length, with what holds each field of its request to its word."""
    yield from decision_lines(decision, most=20)
    if decision.message:
        yield f"              {decision.message}"
    for held in decision.enforced:
        yield f"              {held.field}: enforced by {held.by}"


def endpoint_lines(status: DeploymentStatus) -> Iterator[str]:
    """Where the replicas answer."""
    for replica in status.replicas:
        for endpoint in replica.endpoints:
            where = endpoint.get("url") or f"{endpoint['address']}:{endpoint['port']}"
            yield f"              {endpoint['name']} of replica {replica.replica}: {where}"


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
