"""Decisions: ask the index, choose, reserve, and publish where a deployment runs and why.

One deployment chooses at a time, the first in priority first. From the answer of the index to the
reservation nothing is awaited, and the decision itself is a compare-and-set write.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from bus.bus import Bus
from schemas.decision import Attempt, Decision, Placement
from schemas.errors import Unavailable
from schemas.event import now
from services.vim.agenda import Having, Turn
from services.vim.candidates import Candidates, Found
from services.vim.ledger import Held, Ledger
from services.vim.lifecycle import STAYED, Verdict
from services.vim.migrate import Moves, answer
from services.vim.placement import Choice, place
from services.vim.state import Life
from services.vim.voice import Voice

#: What an event needs around its data.
_ENVELOPE: Final = 4096
#: The reasons why something cannot be placed follow the fleet's load; they are told anew this seldom.
_RETOLD_AFTER: Final = timedelta(seconds=30)


class Decider:
    """Chooses nodes for one deployment after the other.

    Args:
        bus: the connection.
        ledger: what is reserved.
        voice: tells statuses.
        freed: called when a deployment leaves room that it took before.
    """

    def __init__(self, bus: Bus, ledger: Ledger, voice: Voice, freed: Callable[[], None]) -> None:
        self._bus = bus
        self._ledger = ledger
        self._voice = voice
        self._freed = freed
        self._turn = Turn()
        self.candidates = Candidates(bus)

    def reserve(self, life: Life) -> None:
        """Hold in the ledger what a deployment takes now, wherever that is."""
        if self._ledger.reserve(life.deployment, held(life)):
            self._freed()

    async def begin(self, life: Life, draft: Decision) -> None:
        """Decide a new generation: all replicas find a place, or none moves."""
        replicas = list(range(draft.request.replicas))
        current = [] if life.asked_again else list(running(life).values())
        async with self._turn.of(draft.request.priority) as turn:
            try:
                found, choice = await self._choose(life, draft, current, replicas, turn)
            except Unavailable:
                why = "the resource index does not answer; nodes are chosen when it does"
                await self._voice.say(life, draft.generation, Verdict("accepted", "IndexAway", why, []))
                raise
            whole = len(choice.placements) == len(replicas)
            decision = self._made(draft, found, choice, choice.placements if whole else [], whole=whole)
            before = self._claim(life, decision)
        await self._publish(life, decision, before)
        await self._say_scheduled(life, decision, choice)

    async def follow(self, life: Life, decision: Decision, moved: dict[int, str]) -> Decision:
        """Take over where a cluster's scheduler put replicas; return the decision that holds.

        Args:
            life: whose.
            decision: the one so far.
            moved: the node that each of these replicas runs on by now.
        """
        placements = [
            placement.model_copy(
                update={
                    "node": moved[placement.replica],
                    "reason": f"the scheduler of cluster {placement.cluster} chose it",
                }
            )
            if placement.replica in moved
            else placement
            for placement in decision.placements
        ]
        new = decision.model_copy(update={"placements": placements, "decided_at": now()})
        await self._publish(life, new, self._claim(life, new))
        return new

    async def migrate(self, life: Life, decision: Decision, moves: Moves) -> Decision:
        """Answer wishes to migrate: move whoever finds a place; return the decision that holds."""
        async with self._turn.of(decision.request.priority) as turn:
            found = Found({})
            if moves.of:
                current = {node for node, _ in running(life)} | moves.goals
                found = await self._ask(life, decision, current, turn)
            taken = self._ledger.of_nodes(without=life.deployment)
            new = answer(decision, moves, found, taken, running(life).values())
            new = self._fitting(new.model_copy(update={"decided_at": now()}))
            before = self._claim(life, new)
        await self._publish(life, new, before)
        return new

    async def would(self, life: Life, draft: Decision) -> Decision:
        """The decision that :meth:`begin` would take now; nothing is reserved, published or waited for.

        Raises:
            Unavailable: the index does not answer now.
        """
        replicas = list(range(draft.request.replicas))
        current = [] if life.asked_again or life.cancelled else list(running(life).values())
        found, choice = await self._choose(life, draft, current, replicas)
        return self._made(
            draft, found, choice, choice.placements, whole=len(choice.placements) == len(replicas)
        )

    async def again(
        self, life: Life, decision: Decision, attempts: list[Attempt], drifting: list[Attempt]
    ) -> Decision:
        """Place anew what has no place, was tried in vain or drifted; return the decision that holds.

        Args:
            life: whose.
            decision: the one so far.
            attempts: placements that can never work.
            drifting: placements that are better replaced but stay where nothing else is to be had.
        """
        over = {attempt.replica for attempt in attempts}
        loose = {attempt.replica for attempt in drifting}
        kept = [p for p in decision.placements if p.replica not in over | loose]
        replicas = sorted(set(range(decision.request.replicas)) - {p.replica for p in kept})
        tried = _joined(decision.attempts, attempts)
        never_ran = not decision.placements and not tried
        # What was tried in vain or lost does not stay where it is.
        leaving = {(attempt.node, attempt.replica) for attempt in (*attempts, *drifting)}
        avoiding = decision.model_copy(update={"attempts": [*tried, *drifting]})
        async with self._turn.of(decision.request.priority) as turn:
            current = [placement for where, placement in running(life).items() if where not in leaving]
            found, choice = await self._choose(life, avoiding, current, replicas, turn)
            placed = {placement.replica: placement for placement in choice.placements}
            if never_ran and len(placed) < len(replicas):
                placed = {}  # a generation begins whole
            stay = [p for p in decision.placements if p.replica in loose and p.replica not in placed]
            moved = [attempt for attempt in drifting if attempt.replica in placed]
            stayed = [attempt for attempt in attempts if attempt.reason in STAYED]
            draft = decision.model_copy(update={"attempts": _joined(tried, moved), "unmoved": stayed})
            placements = sorted([*kept, *stay, *placed.values()], key=lambda placement: placement.replica)
            whole = len(placements) == decision.request.replicas
            new = self._made(draft, found, choice, placements, whole=whole)
            if not _worth_telling(decision, new):
                return decision
            before = self._claim(life, new)
        await self._publish(life, new, before)
        await self._say_scheduled(life, new, choice)
        return new

    async def _choose(
        self,
        life: Life,
        draft: Decision,
        current: list[Placement],
        replicas: list[int],
        turn: Having | None = None,
    ) -> tuple[Found, Choice]:
        found = await self._ask(life, draft, {placement.node for placement in current}, turn)
        # From here to the reservation nothing is awaited: no other deployment chooses in between.
        choice = place(
            draft.request,
            found.nodes,
            self._ledger.of_nodes(without=life.deployment),
            current=current,
            attempts=draft.attempts,
            replicas=replicas,
        )
        return found, choice

    async def _ask(self, life: Life, draft: Decision, current: set[str], turn: Having | None) -> Found:
        """What the index says, and the turn after whoever is more urgent and came meanwhile."""
        request = draft.request
        pinned = {port.host_port for port in request.ports if port.host_port}
        taken = self._ledger.of_nodes(without=life.deployment)
        found = await self.candidates.ask(
            request,
            current=current,
            attempts=draft.attempts,
            taken=[node for node, reserved in taken.items() if pinned & reserved.ports.keys()],
        )
        if turn is not None:
            await turn.to_the_first()
        return found

    def _made(
        self, draft: Decision, found: Found, choice: Choice, placements: list[Placement], *, whole: bool
    ) -> Decision:
        decision = draft.model_copy(
            update={
                "outcome": "scheduled" if whole else "unschedulable",
                "message": "" if whole else choice.message,
                "query": found.query,
                "candidates": choice.candidates,
                "rejected": [*found.rejected, *choice.rejected],
                "placements": placements,
                "coverage": found.coverage,
                "considered": found.considered,
                "decided_at": now(),
            }
        )
        return self._fitting(decision)

    def _fitting(self, decision: Decision) -> Decision:
        return fitting(decision, self._bus.wire.max_payload - _ENVELOPE)

    def _claim(self, life: Life, decision: Decision) -> Decision | None:
        """Reserve what it takes; returns the decision before."""
        before, life.decision = life.decision, decision
        self.reserve(life)
        return before

    async def _publish(self, life: Life, decision: Decision, before: Decision | None) -> None:
        try:
            revision = await self._bus.publish(
                self._bus.subjects.decision(life.deployment),
                decision,
                about=life.deployment,
                expect=life.decision_revision,
            )
        except BaseException:
            if life.decision is decision:  # else the watch has read what is there
                life.decision = before
                self.reserve(life)
            raise
        life.decision_revision = life.decided_revision = max(revision, life.decision_revision)

    async def _say_scheduled(self, life: Life, decision: Decision, choice: Choice) -> None:
        if decision.outcome == "scheduled":
            await self._voice.say(life, decision.generation, _scheduled(choice, decision))


def running(life: Life) -> dict[tuple[str, int], Placement]:
    """What the nodes are told to run and what is decided, as placements; a replica at its decided place."""
    found = {
        (node, replica): Placement(
            replica=replica,
            node=node,
            runtime=level.runtime,
            driver=level.driver,
            cluster=level.cluster,
            engine=level.engine,
            acceleration=level.acceleration,
            cpu=level.cpu or 0.0,
            memory=level.memory or 0,
            memory_overhead=level.memory_overhead,
        )
        for (node, replica), level in life.desired.items()
        if not life.ended((node, replica))
    }
    found.update({(p.node, p.replica): p for p in life.placements if not life.ended((p.node, p.replica))})
    return found


def held(life: Life) -> list[Held]:
    """What a deployment takes: where it is decided to run, and wherever something has not yet ended."""
    pinned = life.decision.request.ports if life.decision else []
    wanted = {} if life.cancelled else {(p.node, p.replica): p for p in life.placements}
    places = {place: p for place, p in running(life).items() if place in wanted or place in life.desired}
    taken = []
    for place_, placement in sorted(places.items()):
        level = life.desired.get(place_)
        ports = pinned if place_ in wanted or level is None else level.ports
        taken.append(
            Held(
                placement.node,
                placement.cpu,
                placement.memory + placement.memory_overhead,
                tuple(port.host_port for port in ports if port.host_port),
            )
        )
    return taken


def fitting(decision: Decision, most: int) -> Decision:
    """The decision in at most so many bytes: of very many nodes the last names go, never the counts."""
    keep = 1000
    while keep and len(decision.model_dump_json(by_alias=True).encode()) > most:
        keep //= 4
        decision = decision.model_copy(
            update={
                "candidates": decision.candidates[:keep],
                "rejected": [
                    group.model_copy(
                        update={"nodes": group.nodes[:keep], "count": group.count or len(group.nodes)}
                    )
                    for group in decision.rejected[: max(keep, 20)]
                ],
            }
        )
    return decision


def _joined(attempts: list[Attempt], more: list[Attempt]) -> list[Attempt]:
    known = {(a.replica, a.node, a.runtime, a.cluster) for a in attempts}
    return [*attempts, *(a for a in more if (a.replica, a.node, a.runtime, a.cluster) not in known)]


def _worth_telling(before: Decision, after: Decision) -> bool:
    """Whether a decision moves anything, or says something new of why nothing moves."""
    if before.placements != after.placements or before.attempts != after.attempts:
        return True
    if before.outcome != after.outcome or after.outcome == "scheduled":
        return before.outcome != after.outcome
    return _reasons(before) != _reasons(after) and _old(before, after.decided_at)


def _old(decision: Decision, moment: datetime) -> bool:
    return moment - decision.decided_at > _RETOLD_AFTER


def _reasons(decision: Decision) -> set[tuple[str | None, str, str]]:
    """Who lacks what; how much of it changes all the time."""
    return {
        (group.runtime, group.attribute or group.reason, node)
        for group in decision.rejected
        for node in group.nodes
    }


def _scheduled(choice: Choice, decision: Decision) -> Verdict:
    where = ", ".join(sorted({f"{p.node} ({p.runtime})" for p in choice.placements})[:20])
    best = f", score {choice.candidates[0].score:g}" if choice.candidates else ""
    nodes = f"{len(choice.candidates)} of {decision.considered} nodes could run it"
    return Verdict(
        "scheduled", "Placed", f"on {where}: {nodes}{best}" if where else "no replicas asked for", []
    )
