"""Enforce or reject: every field of a request is held to its word by something named, or refused.

In: a valid request. Out: the list of what enforces each field that was given, for the decision; or
an :class:`InvalidDocument` that names the field, the reason and what would be accepted.
"""

from __future__ import annotations

from schemas.deployment import DeploymentRequest, Enforcement
from schemas.errors import InvalidDocument, InvalidQuery
from schemas.query import Query


def enforcements(request: DeploymentRequest) -> list[Enforcement]:
    """What enforces each given field.

    Raises:
        InvalidDocument: a field that nothing here enforces, or a constraint that cannot be read.
    """
    problems: list[dict[str, str | None]] = []
    held: list[Enforcement] = []

    def hold(field: str, by: str) -> None:
        held.append(Enforcement(field=field, by=by))

    def refuse(field: str, message: str, expected: str) -> None:
        problems.append({"field": field, "message": message, "expected": expected})

    hold("runtimes", "placement: the first runtime that fits on some node wins")
    hold(
        "images", "the node's worker: the image of the chosen runtime, or the workload fails with the reason"
    )
    if request.env:
        hold("env", "the node's worker: the workload's environment, and nothing of the worker's own")
    if request.files:
        hold("files", "the node's worker: written before the workload starts")
    if request.resources.cpu is not None:
        hold("resources.cpu", "reservation, and the kernel's CPU quota on the node")
    if request.resources.memory is not None:
        hold("resources.memory", "reservation, and the kernel's memory limit on the node")
    if request.where:
        try:
            Query.model_validate({"where": request.where})
        except (InvalidQuery, ValueError) as error:
            refuse("where", _say(error), "conditions of the query language")
        else:
            hold("where", "the resource index: only nodes that match are candidates")
    for number, preference in enumerate(request.prefer):
        field = f"prefer.{number}"
        if len(preference) != 1 or "near" in preference:
            refuse(
                field,
                "nothing here knows where data lies",
                "one attribute with asc or desc, such as load.5m: asc",
            )
            continue
        ((attribute, direction),) = preference.items()
        if direction not in ("asc", "desc"):
            refuse(field, f"{direction!r} is no direction", "asc or desc")
            continue
        try:
            Query.model_validate({"sort": [preference]})
        except (InvalidQuery, ValueError) as error:
            refuse(f"{field}.{attribute}", _say(error), "an attribute of the query language")
        else:
            hold(field, "the score of each candidate")
    if request.data:
        refuse("data", "no storage service serves buckets in this minicloud", "a request without data")
    if request.spread:
        hold("spread", f"placement: replicas are balanced over {request.spread.over}")
    if request.pack:
        hold("pack", "the score of each candidate: the fullest node that fits")
    if request.ports:
        hold("ports", "the node's worker: a host port for each, free or as pinned")
    if request.health:
        hold("health", "the node's worker: probes, and restarts what fails")
    if request.user == "root":
        hold("user", "placement: only nodes whose settings allow root")
    if request.priority:
        hold("priority", "the order in which waiting deployments are placed; nothing is preempted")
    hold("replicas", "reconciliation: one workload a replica")
    hold("restart", "the node's worker")
    hold("onLoss", "reconciliation when a node is lost")
    if problems:
        first = problems[0]
        raise InvalidDocument(
            str(first["message"]), field=first["field"], expected=first["expected"], problems=problems
        )
    return held


def _say(error: Exception) -> str:
    return str(error).splitlines()[0]
