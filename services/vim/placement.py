"""Placement: which node and runtime each replica gets, and why every other node did not.

A pure function of the request, the nodes that the resource index answered with, and the ledger.
The first runtime that fits somewhere wins; among the nodes that can run it the score decides, and
equal scores fall to the name, so that the same facts always give the same decision.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.decision import Attempt, Candidate, Further, Placement, Preempted, Rejection
from schemas.deployment import DeploymentRequest
from schemas.node import RuntimeName
from services.vim.ledger import Reserved
from services.vim.neighbours import Around, Neighbours
from services.vim.room import Refusal, Room, needs
from services.vim.score import rounded, scores

#: Beyond so many different reasons, nodes refused by the same attribute are told together.
_MOST_REASONS: Final = 40
_NOTHING: Final = Reserved()


@dataclass
class Choice:
    """Where replicas go.

    Attributes:
        placements: of every replica that fits somewhere; all of them, or the most that can be had.
        candidates: who could run it in the winning runtime, best first.
        further: who else could, where they are too many to tell what each score is made of.
        rejected: who could not, and why.
        message: why something was not placed, in a sentence.
        preempts: replicas of others that make room for these placements.
    """

    placements: list[Placement] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    further: Further | None = None
    rejected: list[Rejection] = field(default_factory=list)
    message: str = ""
    preempts: list[Preempted] = field(default_factory=list)

    @property
    def able(self) -> int:
        """How many nodes could run it."""
        return len(self.candidates) + (len(self.further.nodes) if self.further else 0)


def place(
    request: DeploymentRequest,
    nodes: list[dict[str, Any]],
    reserved: Mapping[str, Reserved],
    *,
    current: Iterable[Placement] = (),
    attempts: Iterable[Attempt] = (),
    replicas: Iterable[int] | None = None,
    around: Around | None = None,
) -> Choice:
    """Choose for every replica.

    Args:
        request: a request that was accepted.
        nodes: answers of the index to :func:`services.vim.question.question`.
        reserved: what others hold on each node.
        current: what the deployment runs now. Of the replicas to be placed, those that still fit where
            they are stay: nothing healthy is moved. The others keep their room.
        attempts: what was tried and failed; not tried again.
        replicas: which replicas to place; all by default.
        around: who may not run beside whom.
    """
    current = list(current)
    wanted = list(range(request.replicas) if replicas is None else replicas)
    own: dict[str, dict[int, Placement]] = defaultdict(dict)
    for placement in current:
        own[placement.node][placement.replica] = placement
    best = Choice()
    rejected: list[Rejection] = []
    for runtime in request.runtimes:
        neighbours = Neighbours(around, current) if around and not around.free else None
        rooms = {
            node["name"]: Room(
                node,
                reserved.get(node["name"], _NOTHING),
                own.get(node["name"], {}),
                placing=wanted,
                neighbours=neighbours,
            )
            for node in sorted(nodes, key=lambda node: str(node["name"]))
        }
        choice = _place_in(request, runtime, rooms, wanted, list(attempts))
        rejected += choice.rejected
        if len(choice.placements) == len(wanted):
            choice.rejected = rejected
            return choice
        if len(choice.placements) > len(best.placements) or not best.candidates:
            best = choice
    best.rejected = rejected
    if not nodes:
        best.message = "no node matches"
    else:
        of = "the one matching node" if len(nodes) == 1 else f"{len(nodes)} matching nodes"
        some = f"{len(best.placements)} of the " if best.placements else ""
        verb = "can take" if some else "cannot take"
        best.message = f"{of} {verb} {some}{len(wanted)} x {' or '.join(request.runtimes)}"
    return best


def _place_in(
    request: DeploymentRequest,
    runtime: RuntimeName,
    rooms: dict[str, Room],
    wanted: list[int],
    attempts: list[Attempt],
) -> Choice:
    refused: dict[Refusal, list[str]] = {}
    able: list[Room] = []
    for name, room in rooms.items():
        before = _attempted(request, runtime, room, attempts)
        refusal = _tried(before) if before else _refusal(request, runtime, room, wanted)
        if refusal is None:
            able.append(room)
        else:
            refused.setdefault(refusal, []).append(name)
    choice = Choice(
        rejected=rejections(runtime, refused),
        candidates=sorted(
            (
                Candidate(
                    node=name,
                    runtime=runtime,
                    **_by(request, runtime, rooms[name]),
                    score=rounded(sum(parts.values())),
                    scores=parts,
                )
                for name, parts in scores(request, runtime, able).items()
            ),
            key=lambda candidate: (-candidate.score, candidate.node),
        ),
    )
    total = {candidate.node: candidate.score for candidate in choice.candidates}
    choice.placements, missing = fill(request, runtime, able, total, wanted)
    if missing is not None:
        full: dict[Refusal, list[str]] = {}
        for room in able:
            refusal = room.refusal(request, runtime, missing)
            if refusal is not None:
                full.setdefault(refusal, []).append(room.name)
        choice.rejected += rejections(runtime, full)
    return choice


def fill(
    request: DeploymentRequest,
    runtime: RuntimeName,
    able: list[Room],
    total: dict[str, float],
    wanted: list[int],
) -> tuple[list[Placement], int | None]:
    """Put replicas on nodes, one after the other; returns the first that finds none, too.

    Args:
        request: what they are of.
        runtime: how they run.
        able: the nodes that take at least one.
        total: their scores.
        wanted: the replicas.
    """
    placements = []
    moving = []
    missing = None
    stays = {
        replica: room
        for room in able
        for replica, placement in room.own.items()
        if replica in wanted and placement.runtime == runtime
    }
    for replica in wanted:
        here = stays.get(replica)
        if here is not None and here.refusal(request, runtime, replica) is None:
            placements.append(_put(request, runtime, replica, here, "kept"))
        else:
            moving.append(replica)
    line = _Line(request, able, total)
    for replica in moving:
        best = line.best(runtime, replica)
        if best is None:
            missing = replica
            break
        placements.append(_put(request, runtime, replica, best, f"score {total[best.name]:g}"))
        line.put_back(best)
    placements.sort(key=lambda placement: placement.replica)
    return placements, missing


def _attempted(
    request: DeploymentRequest, runtime: RuntimeName, room: Room, attempts: list[Attempt]
) -> Attempt | None:
    """The attempt that failed here; one of a whole cluster failed on each of its nodes."""
    for attempt in reversed(attempts):
        if attempt.runtime != runtime:
            continue
        if attempt.cluster is None and attempt.node == room.name:
            return attempt
        if attempt.cluster is not None and attempt.cluster == room.node.get("cluster.name"):
            by = room.offer(request, runtime)
            if by is not None and by.cluster == attempt.cluster:
                return attempt
    return None


def _by(request: DeploymentRequest, runtime: RuntimeName, room: Room) -> dict[str, Any]:
    by = room.offer(request, runtime)
    return {"driver": by.driver, "cluster": by.cluster, "engine": by.engine} if by else {}


def _tried(attempt: Attempt) -> Refusal:
    return Refusal("tried", None, attempt.reason, attempt.message)


def _refusal(
    request: DeploymentRequest, runtime: RuntimeName, room: Room, wanted: list[int]
) -> Refusal | None:
    """Why no replica fits here; what runs here already may, where a new one does not."""
    refusal = room.refusal(request, runtime)
    if refusal is not None:
        for replica in room.own:
            if replica in wanted and room.refusal(request, runtime, replica) is None:
                return None
    return refusal


def rejections(runtime: RuntimeName, refused: dict[Refusal, list[str]]) -> list[Rejection]:
    """The refusals for people, with the nodes of each; of very many those alike are told together."""
    if len(refused) > _MOST_REASONS:
        groups: dict[tuple[str, str | None, Any], list[Refusal]] = defaultdict(list)
        for refusal in refused:
            groups[refusal.kind, refusal.attribute, refusal.wanted].append(refusal)
    else:
        groups = {(str(number), None, None): [refusal] for number, refusal in enumerate(refused)}
    told = []
    for alike in groups.values():
        first = alike[0]
        had = sorted({refusal.had for refusal in alike if refusal.had is not None})
        names = sorted(name for refusal in alike for name in refused[refusal])
        told.append(
            Rejection(
                reason=first.sentence(had[0], had[-1]) if had else first.sentence(None, None),
                runtime=runtime,
                attribute=first.attribute,
                wanted=None if first.wanted is None else str(first.wanted),
                had=str(had[0]) if len(had) == 1 else None,
                nodes=names,
                count=len(names),
            )
        )
    return told


class _Line:
    """Nodes in the order in which replicas go to them: the least crowded first, then by score and name."""

    def __init__(self, request: DeploymentRequest, able: list[Room], total: dict[str, float]) -> None:
        self._request = request
        self._total = total
        self._over = request.spread.over if request.spread else "name"
        self._heaps: dict[str, list[tuple[int, float, str, Room]]] = defaultdict(list)
        self._crowd: dict[str, int] = defaultdict(int)
        for room in able:
            self._push(room)
            self._crowd[self._group(room)] += room.replicas

    def best(self, runtime: RuntimeName, replica: int) -> Room | None:
        """The next node that takes the replica, out of the line; None if none does."""
        aside: list[Room] = []
        try:
            while self._heaps:
                group = min(self._heaps, key=lambda group: (self._crowd[group], self._heaps[group][0][:3]))
                room = heapq.heappop(self._heaps[group])[3]
                if not self._heaps[group]:
                    del self._heaps[group]
                if room.refusal(self._request, runtime, replica) is None:
                    return room
                if room.own:
                    aside.append(room)  # another replica may fit where it is replaced
            return None
        finally:
            for room in aside:
                self._push(room)

    def put_back(self, room: Room) -> None:
        """It took one."""
        self._crowd[self._group(room)] += 1
        self._push(room)

    def _push(self, room: Room) -> None:
        crowd = 0 if self._request.pack else room.replicas
        heapq.heappush(self._heaps[self._group(room)], (crowd, -self._total[room.name], room.name, room))

    def _group(self, room: Room) -> str:
        """What is spread over; one line for all where that is the node itself."""
        if self._request.pack or self._over == "name":
            return ""
        return str(room.node.get(self._over))


def _put(
    request: DeploymentRequest, runtime: RuntimeName, replica: int, room: Room, reason: str
) -> Placement:
    room.take(request, runtime, replica)
    by = room.offer(request, runtime)
    cpu, memory, overhead = needs(request, runtime, by.engine if by else None, room.node.get("cpu.arch"))
    return Placement(
        replica=replica,
        node=room.name,
        runtime=runtime,
        **_by(request, runtime, room),
        acceleration=by.acceleration if by and runtime in ("vm", "unikernel") else None,
        cpu=cpu,
        memory=memory,
        memory_overhead=overhead,
        reason=f"{reason}; {by.reason}" if by and by.reason else reason,
    )
