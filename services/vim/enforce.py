"""Enforce or reject: every field of a request is held to its word by something named, or refused.

In: a valid request. Out: the list of what enforces each field that was given, for the decision; or
an :class:`InvalidDocument` that names the field, the reason and what would be accepted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from schemas.decision import Enforcement
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument, InvalidQuery
from schemas.query import parse_query
from services.vim.offer import beyond_a_disk
from services.vim.preferences import place_of, sort_key
from services.vim.question import narrowed

_BY_THE_NODE = "the node's worker"


class _Findings:
    """What holds each field, and what is wrong."""

    def __init__(self, seen: Collection[str]) -> None:
        self.seen = seen
        self.held: list[Enforcement] = []
        self.problems: list[dict[str, str | None]] = []

    def hold(self, field: str, by: str) -> None:
        self.held.append(Enforcement(field=field, by=by))

    def refuse(self, field: str, message: str, expected: str | None) -> None:
        self.problems.append({"field": field, "message": message, "expected": expected})

    def ask(self, field: str, query: dict[str, object], by: str, expected: str) -> None:
        """Hold ``field`` by the index, if it understands the query that the field makes."""
        try:
            parse_query(query, self.seen)
        except InvalidQuery as error:
            where = error.field if field == "where" and error.field else field
            self.refuse(where, error.message, error.expected)
        except (ValueError, ArithmeticError, RecursionError) as error:
            self.refuse(field, str(error).splitlines()[0][:200], expected)
        else:
            self.hold(field, by)


def enforcements(
    request: DeploymentRequest, seen: Collection[str] = (), *, preemption: str = "asked"
) -> list[Enforcement]:
    """What enforces each given field.

    Args:
        request: a request that its schema allows.
        seen: attributes that nodes have though nobody foresaw them.
        preemption: the site's word on whether those of lower priority make room: asked, always or never.

    Raises:
        InvalidDocument: a field that nothing here enforces, or a constraint that cannot be read.
    """
    found = _Findings(seen)
    _what(request, found)
    _where(request, found)
    _beside_whom(request, found)
    _how(request, found)
    _in_which_order(request, found, preemption)
    if found.problems:
        first = found.problems[0]
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise InvalidDocument(
            f"{first['message']}{more}",
            field=first["field"],
            expected=first["expected"],
            problems=found.problems,
        )
    return found.held


def _what(request: DeploymentRequest, found: _Findings) -> None:
    """Whose it is, what runs and what it is given."""
    if request.id is not None:
        found.hold("id", "the bus: it is the deployment's name in every subject")
    if request.name is not None:
        found.hold("name", "the decision and its request carry it")
    found.hold("runtimes", "placement: the first runtime that fits on some node wins")
    for runtime in request.runtimes:
        found.hold(f"images.{runtime}", f"{_BY_THE_NODE}: it runs this image, or fails and says why")
    _unikernel(request, found)
    if set(request.runtimes) == {"vm"}:
        for beyond in beyond_a_disk(request):
            found.refuse(beyond.field, beyond.message, beyond.expected)
    if request.env:
        found.hold("env", f"{_BY_THE_NODE}: the environment of the workload")
    if request.files:
        found.hold("files", f"{_BY_THE_NODE}: they lie in the workload's folder before it starts")
    if request.ports:
        found.hold("ports", f"{_BY_THE_NODE}: a host port for each, free or as pinned")
    if any(port.host_port for port in request.ports):
        found.hold("ports.hostPort", "reservation: one deployment a port and node")
    if request.user == "root":
        found.hold("user", "placement: only nodes whose settings allow root")
    if request.data:
        found.refuse("data", "no storage service serves buckets in this minicloud", "a request without data")


def _unikernel(request: DeploymentRequest, found: _Findings) -> None:
    """What a unikernel can have, and what it cannot."""
    unikernel = request.images.unikernel
    if unikernel and unikernel.folders:
        found.hold("images.unikernel.folders", f"{_BY_THE_NODE}: mounted where its settings offer the folder")
    if unikernel and unikernel.disk:
        found.refuse("images.unikernel.disk", "a unikernel has no disk", "files or folders")


def _where(request: DeploymentRequest, found: _Findings) -> None:
    """Which nodes may run it, and which of them should."""
    limits = "reservation, and the kernel where the node's worker may set limits (observed.limits says)"
    if request.resources.cpu is not None:
        found.hold("resources.cpu", limits)
    if request.resources.memory is not None:
        found.hold("resources.memory", limits)
    if request.where:
        found.ask(
            "where",
            {"where": request.where},
            "the resource index: only nodes that match are candidates",
            "conditions of the query language",
        )
        if not found.problems:
            _with_ours(request, found)
    for number, asked in enumerate(request.prefer):
        field = f"prefer.{number}"
        preference = sort_key(asked)
        if len(preference) != 1 or "near" in preference:
            found.refuse(field, *_no_preference(preference))
            continue
        if place := place_of(asked):
            found.ask(
                f"{field}.near",
                {"sort": [preference]},
                f"the score of each candidate: latency.{place} as it is measured; nodes without it come last",
                "the name of a place to which latency.<place> is measured, such as near: {place: athens}",
            )
            continue
        ((attribute, direction),) = preference.items()
        if direction not in ("asc", "desc"):
            found.refuse(
                f"{field}.{attribute[:80]}", f"{str(direction)[:80]!r} is no direction", "asc or desc"
            )
            continue
        found.ask(
            f"{field}.{attribute[:80]}",
            {"sort": [preference]},
            "the score of each candidate",
            "an attribute of the query language",
        )
    if request.spread:
        found.ask(
            "spread.over",
            {"fields": [request.spread.over]},
            f"placement: replicas are balanced over {request.spread.over}",
            "an attribute of the query language, such as name or rack",
        )
    if request.pack:
        found.hold("pack", "the score of each candidate: the fullest node that fits")


def _no_preference(preference: dict[str, Any]) -> tuple[str, str]:
    """What is wrong with a preference that is neither an attribute nor a place, and what would be right."""
    near = preference.get("near")
    if isinstance(near, dict) and "bucket" in near:
        # Where objects lie becomes known with the storage service.
        return "nothing here knows where data lies", "near: {place: NAME}, or one attribute with asc or desc"
    if "near" in preference:
        return "near speaks of no place", "near: {place: NAME}, where nodes measure latency.NAME"
    return "not one attribute", "one attribute with asc or desc, such as load.5m: asc"


def _beside_whom(request: DeploymentRequest, found: _Findings) -> None:
    """Which other deployments may be near, which must, and which taints do not matter."""
    if request.labels:
        found.hold("labels", "placement: the rules of others about neighbours go by them")
    for name, by in (
        ("apart", "placement: no node where one of them runs, whoever came first"),
        ("together", "placement: only where one of them runs"),
    ):
        for number, rule in enumerate(getattr(request, name)):
            found.ask(
                f"{name}.{number}",
                {"fields": [rule.over]},
                f"{by}, over {rule.over}",
                "over an attribute of the query language, such as name or rack",
            )
    if request.tolerations:
        found.hold("tolerations", "placement, and the cluster's scheduler: these taints do not keep it away")


def _with_ours(request: DeploymentRequest, found: _Findings) -> None:
    """The conditions together with those that placement adds must be a query, too."""
    try:
        parse_query({"where": narrowed(request, request.runtimes[0])["where"]}, found.seen)
    except InvalidQuery as error:
        found.refuse("where", error.message, f"a little less than that ({error.expected})")


def _how(request: DeploymentRequest, found: _Findings) -> None:
    """How many, for how long, and what happens when something fails."""
    found.hold("replicas", "reconciliation: one workload a replica")
    found.hold("restart", _BY_THE_NODE)
    if request.health:
        found.hold("health", f"{_BY_THE_NODE}: probes, and restarts what fails")
    found.hold("onLoss.replaceAfter", "reconciliation: a replica whose node is lost for so long is replaced")
    if request.on_loss.singleton:
        found.hold(
            "onLoss.singleton", "reconciliation: never started before the last one is known to have ended"
        )
    if request.paused:
        found.hold(
            "paused",
            "placement: only engines that can; then the kernel freezes it, or QEMU or KubeVirt stops its machine",
        )


def _in_which_order(request: DeploymentRequest, found: _Findings, preemption: str) -> None:
    """Who comes first, and whether others make room."""
    stops = preemption == "always" or (preemption == "asked" and request.preempt == "lower")
    if request.priority:
        found.hold(
            "priority",
            "the order in which waiting deployments are placed"
            + ("" if stops else "; nothing is preempted for it"),
        )
    if request.preempt == "lower" and preemption == "never":
        found.refuse("preempt", "this site preempts nobody (setting preemption: never)", "preempt: never")
    elif request.preempt == "lower":
        found.hold("preempt", "placement: replicas of lower priority make room where there is none")
