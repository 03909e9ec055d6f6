"""Preemption: whose replicas of lower priority make room for a request that fits nowhere else.

Pure: in come the nodes, what is reserved and what could be stopped; out goes the choice and the replicas that
must go for it, those of the lowest priority first and never more than it needs. Equals are never preempted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from services.vim.ledger import Held, Reserved
from services.vim.placement import Choice


class Prey(NamedTuple):
    """A replica that could be stopped, and what it holds."""

    priority: int
    deployment: str
    replica: int
    held: Held


#: Chooses for a request among some nodes (all of them for None), with that reserved by others.
Attempting = Callable[[Mapping[str, Reserved], set[str] | None], Choice]


def preempting(
    attempt: Attempting, reserved: Mapping[str, Reserved], prey: Iterable[Prey], replicas: int
) -> tuple[Choice, list[Prey]] | None:
    """The choice for all ``replicas`` and who must go for it; None where even that makes no room.

    Args:
        attempt: chooses.
        reserved: what others hold on each node, the prey included.
        prey: what could be stopped, all of lower priority than the request.
        replicas: how many are to be placed.
    """
    prey = sorted(prey)
    for limit in sorted({one.priority for one in prey}):
        gone = [one for one in prey if one.priority <= limit]
        choice = attempt(without(reserved, gone), None)
        if len(choice.placements) == replicas:
            return _spared(attempt, reserved, gone, choice)
    return None


def _spared(
    attempt: Attempting, reserved: Mapping[str, Reserved], gone: list[Prey], choice: Choice
) -> tuple[Choice, list[Prey]]:
    """Of all that could go only those that must: whoever fits beside the request stays, the highest first."""
    chosen = {placement.node for placement in choice.placements}
    going = [one for one in gone if one.held.node in chosen]
    for one in sorted(going, key=lambda one: (-one.priority, one.deployment, one.replica)):
        fewer = [other for other in going if other is not one]
        beside = attempt(without(reserved, fewer), chosen)
        if len(beside.placements) == len(choice.placements):
            going, placements = fewer, beside.placements
            chosen = {placement.node for placement in placements}
            choice.placements = placements
    return choice, [one for one in going if one.held.node in chosen]


def without(reserved: Mapping[str, Reserved], gone: Iterable[Prey]) -> dict[str, Reserved]:
    """What is reserved once some replicas are gone."""
    left = dict(reserved)
    for _, deployment, _, held in gone:
        before = left.get(held.node, Reserved())
        ports = {
            port: who for port, who in before.ports.items() if not (port in held.ports and who == deployment)
        }
        # Cores are fractions: what is left of them is never less than nothing.
        left[held.node] = Reserved(
            max(0.0, before.cpu - held.cpu), max(0, before.memory - held.memory), ports
        )
    return left
