"""Wishes to migrate, and the moves that they come to.

Pure: in come the wishes that no decision has answered and where everything is, out comes which replica
leaves which node, the last wish about each; and, once places are chosen, the decision that answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.decision import Attempt, Decision, Placement, Rejection
from services.vim.candidates import Found
from services.vim.ledger import Reserved
from services.vim.placement import Choice, place
from services.vim.state import Life, over

_MOST_REASONS: Final = 3


@dataclass(frozen=True)
class Moves:
    """What open wishes ask for.

    Attributes:
        revision: of the last of them, which the decision answers with all before it.
        of: the replicas, by the node that they leave and the one that they go to (None for any other).
    """

    revision: int
    of: dict[tuple[str, str | None], list[int]]

    @property
    def goals(self) -> set[str]:
        """The nodes that are named."""
        return {to for _, to in self.of if to is not None}


def wished(life: Life, decision: Decision) -> Moves | None:
    """The moves that are wished for since the decision, None if nobody wished any."""
    open_wishes = life.open_migrations(decision)
    if not open_wishes:
        return None
    moves: dict[int, tuple[str, str | None]] = {}
    for _, wish in sorted(open_wishes.items()):
        for placement in decision.placements:
            if wish.replica not in (None, placement.replica) or wish.origin not in (None, placement.node):
                continue
            observed = life.seen(placement, decision.generation)
            if wish.to == placement.node or (observed and over(observed, decision.request.restart)):
                moves.pop(placement.replica, None)
            else:
                moves[placement.replica] = (placement.node, wish.to)
    grouped: dict[tuple[str, str | None], list[int]] = {}
    for replica, move in sorted(moves.items()):
        grouped.setdefault(move, []).append(replica)
    return Moves(max(open_wishes), grouped)


def answer(
    decision: Decision,
    moves: Moves,
    found: Found,
    reserved: Mapping[str, Reserved],
    running: Iterable[Placement],
) -> Decision:
    """The decision that answers: whoever finds a place moves there, the others stay and it says why.

    Args:
        decision: the one so far.
        moves: what is wished.
        found: the nodes to choose from.
        reserved: what others hold on each node.
        running: what the deployment runs now, wherever that is.
    """
    placements = {placement.replica: placement for placement in decision.placements}
    current = {(placement.node, placement.replica): placement for placement in running}
    unmoved: list[Attempt] = []
    told: dict[str, Any] = {}
    for (origin, to), replicas in moves.of.items():
        nodes = [node for node in found.nodes if node["name"] != origin and to in (None, node["name"])]
        choice = place(
            decision.request,
            nodes,
            reserved,
            current=current.values(),
            attempts=decision.attempts,
            replicas=replicas,
        )
        for placement in choice.placements:
            reason = f"moved from {origin} as was wished, {placement.reason}"
            there = placement.model_copy(update={"moved_from": origin, "reason": reason})
            placements[placement.replica] = current[placement.node, placement.replica] = there
        why = _why(choice, found.rejected, to)
        unmoved += [
            Attempt(
                replica=replica,
                node=origin,
                runtime=placements[replica].runtime,
                reason="CannotMigrate",
                message=f"it stays on {origin}: {why}",
            )
            for replica in replicas
            if placements[replica].node == origin
        ]
        told = {
            "query": found.query,
            "candidates": choice.candidates,
            "further": choice.further,
            "rejected": [*found.rejected, *_not_asked_for(found, origin, to), *choice.rejected],
            "coverage": found.coverage,
            "considered": found.considered,
        }
    return decision.model_copy(
        update={
            **told,
            "placements": [placements[replica] for replica in sorted(placements)],
            "unmoved": unmoved,
            "migrations": moves.revision,
        }
    )


def _not_asked_for(found: Found, origin: str, to: str | None) -> list[Rejection]:
    names = sorted(str(node["name"]) for node in found.nodes)
    left = [name for name in names if name == origin]
    others = [name for name in names if to is not None and name not in (origin, to)]
    told = (("is the node that is left", left), (f"is not {to}, to which it is to move", others))
    return [
        Rejection(reason=reason, attribute="name", nodes=nodes, count=len(nodes))
        for reason, nodes in told
        if nodes
    ]


def _why(choice: Choice, before: list[Rejection], to: str | None) -> str:
    """Why no place was found, of the node that was named or of them all."""
    groups = [*choice.rejected, *before]
    if to is not None:
        reasons = [group.reason for group in groups if to in group.nodes]
        return f"{to}: {'; '.join(dict.fromkeys(reasons)) or 'is not among the nodes that may run it'}"
    told = [f"{group.count or len(group.nodes)} x {group.reason}" for group in groups[:_MOST_REASONS]]
    return "; ".join(["no other node takes it", *told])
