"""Decisions: ask the index, choose, reserve, and publish where a deployment runs and why.

One deployment chooses at a time, the first in priority first. From the answer of the index to the
reservation nothing is awaited, and the decision itself is a compare-and-set write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

from bus.bus import Bus
from schemas.decision import Attempt, Decision, Placement, Preempted
from schemas.deployment import DeploymentRequest
from schemas.errors import Unavailable
from schemas.event import now
from services.vim.agenda import Having, Turn
from services.vim.candidates import Candidates, Found
from services.vim.ledger import Held, Ledger, Reserved
from services.vim.lifecycle import STAYED, Verdict
from services.vim.migrate import Moves, answer
from services.vim.neighbours import Around, Other, around, reaches
from services.vim.placement import Choice, place
from services.vim.preempt import Prey, preempting
from services.vim.question import question
from services.vim.quick import Quick
from services.vim.state import Life, State
from services.vim.voice import Voice

#: Whether replicas of lower priority make room: where a request asks for it, for every request, or never.
Preemption = Literal["asked", "always", "never"]
#: What an event needs around its data.
_ENVELOPE: Final = 4096
#: The reasons why something cannot be placed follow the fleet's load; they are told anew this seldom.
_RETOLD_AFTER: Final = timedelta(seconds=30)


class Others(Protocol):
    """Whoever looks at deployments."""

    def freed(self) -> None:
        """A deployment leaves room that it took before."""

    def look(self, deployment: str) -> None:
        """This one should be looked at."""


class Decider:
    """Chooses nodes for one deployment after the other.

    Args:
        bus: the connection.
        voice: tells statuses.
        state: what is known of everybody.
        others: told whose deployments should be looked at.
        preemption: whether those of lower priority make room: where a request asks for it, always or never.
    """

    def __init__(
        self,
        bus: Bus,
        voice: Voice,
        state: State,
        others: Others,
        preemption: Preemption = "asked",
    ) -> None:
        self._bus = bus
        self._state = state
        self._others = others
        self._preemption = preemption
        #: Those that have rules about neighbours, and those for which others make room.
        self._particular: set[str] = set()
        self._takers: set[str] = set()
        self._voice = voice
        self._turn = Turn()
        self.candidates = Candidates(bus)
        self._quick = Quick(self.candidates)
        self._ledger = Ledger(self._quick.reserve)
        state.follow(self._quick.put)

    def reserve(self, life: Life) -> None:
        """Hold in the ledger what a deployment takes now, wherever that is."""
        rules = life.decision.request.apart if life.decision else []
        takes = bool(life.decision and life.decision.preempts)
        (self._particular.add if rules else self._particular.discard)(life.deployment)
        (self._takers.add if takes else self._takers.discard)(life.deployment)
        if self._ledger.reserve(life.deployment, held(life)):
            self._others.freed()

    async def begin(self, life: Life, draft: Decision) -> None:
        """Decide a new generation: all replicas find a place, or none moves."""
        replicas = list(range(draft.request.replicas))
        current = [] if life.asked_again else list(running(life).values())
        try:
            quick = self._is_new(life, current) and await self._quick.ready(draft.request)
            async with self._turn.of(draft.request.priority) as turn:
                found, choice = (self._pick(life, draft) if quick else None) or await self._choose(
                    life, draft, current, replicas, turn
                )
                whole = len(choice.placements) == len(replicas)
                draft = self._with_prey(life, draft, choice)
                decision = self._made(draft, found, choice, choice.placements if whole else [], whole=whole)
                before = self._claim(life, decision)
        except Unavailable:
            why = "the resource index does not answer; nodes are chosen when it does"
            await self._voice.say(life, draft.generation, Verdict("accepted", "IndexAway", why, []))
            raise
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
        draft = draft.model_copy(update={"preempts": choice.preempts})
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
        never_ran = not decision.placements and not tried and not decision.preempted
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
            draft = self._with_prey(life, draft, choice if placed else Choice())
            placements = sorted([*kept, *stay, *placed.values()], key=lambda placement: placement.replica)
            whole = len(placements) == decision.request.replicas
            new = self._made(draft, found, choice, placements, whole=whole)
            if not _worth_telling(decision, new):
                return decision
            before = self._claim(life, new)
        await self._publish(life, new, before)
        await self._say_scheduled(life, new, choice)
        return new

    def _is_new(self, life: Life, current: list[Placement]) -> bool:
        """Whether nothing of it runs or is held anywhere."""
        return not current and not self._ledger.of(life.deployment)

    def _pick(self, life: Life, draft: Decision) -> tuple[Found, Choice] | None:
        """The choice by our own view of the fleet; None where the index must be asked."""
        if not self._around(life, draft.request).free:
            return None
        picked = self._quick.choose(draft.request)
        if picked is None:
            return None
        found = Found(
            question(draft.request),
            rejected=picked.unmatched(),
            coverage=self._quick.coverage,
            known=picked.considered,
        )
        return found, picked.explained()

    async def _choose(
        self,
        life: Life,
        draft: Decision,
        current: list[Placement],
        replicas: list[int],
        turn: Having | None = None,
    ) -> tuple[Found, Choice]:
        where = {placement.node for placement in current}
        if self._may_preempt(draft.request):
            where |= {one.held.node for one in self._prey(life, draft.request)}
        found = await self._ask(life, draft, where, turn)
        # From here to the reservation nothing is awaited: no other deployment chooses in between.
        near = self._around(life, draft.request)

        def attempt(reserved: Mapping[str, Reserved], among: set[str] | None) -> Choice:
            nodes = found.nodes if among is None else [one for one in found.nodes if one["name"] in among]
            return place(
                draft.request,
                nodes,
                reserved,
                current=current,
                attempts=draft.attempts,
                replicas=replicas,
                around=near,
            )

        reserved = self._ledger.of_nodes(without=life.deployment)
        choice = attempt(reserved, None)
        if len(choice.placements) < len(replicas) and self._may_preempt(draft.request):
            prey = self._prey(life, draft.request)
            if instead := preempting(attempt, reserved, prey, len(replicas)):
                instead[0].preempts = [
                    Preempted(
                        deployment=one.deployment,
                        replica=one.replica,
                        node=one.held.node,
                        priority=one.priority,
                        since=now(),
                    )
                    for one in instead[1]
                ]
                choice = instead[0]
        return found, choice

    def _may_preempt(self, request: DeploymentRequest) -> bool:
        asked = request.preempt == "lower" and self._preemption == "asked"
        return asked or self._preemption == "always"

    def _prey(self, life: Life, request: DeploymentRequest) -> list[Prey]:
        """Replicas of lower priority, where they are decided to run."""
        return [
            Prey(other.decision.request.priority, other.deployment, one.replica, one)
            for other in self._state.lives.values()
            if other is not life and other.decision and other.decision.request.priority < request.priority
            for one in self._ledger.of(other.deployment)
            if any((place.node, place.replica) == (one.node, one.replica) for place in other.placements)
        ]

    def _with_prey(self, life: Life, draft: Decision, choice: Choice) -> Decision:
        """The decision with those that make room now, those that still do, and what it gave way to itself."""
        lives = self._state.lives
        before = life.decision
        still = [
            one
            for one in (before.preempts if before else ())
            if (other := lives.get(one.deployment)) and gives(other, one)
        ]
        gave = [one for one in (before.preempted if before else ()) if _stands(one, life, lives)]
        return draft.model_copy(update={"preempts": [*still, *choice.preempts], "preempted": gave})

    def _around(self, life: Life, request: DeploymentRequest) -> Around:
        """What the rules about neighbours forbid."""
        # Whoever has no rules matters to those only that have.
        names = self._state.lives.keys() if reaches(request) else self._particular
        others = (
            Other(name, other.decision.request, [one.node for one in self._ledger.of(name)])
            for name in names
            if name != life.deployment and (other := self._state.lives.get(name)) and other.decision
        )
        return around(life.deployment, request, others, self._state.attribute)

    def to_give(self, life: Life) -> list[Preempted]:
        """The replicas whose room others have taken and that are still to leave it, with who took it."""
        takers = [self._state.lives[name] for name in sorted(self._takers) if name in self._state.lives]
        return to_give(life, takers) if takers else []

    async def give_way(self, life: Life, decision: Decision, taken: list[Preempted]) -> Decision:
        """Leave the room that others of higher priority have taken; return the decision that holds."""
        gone = {(one.node, one.replica) for one in taken}
        new = decision.model_copy(
            update={
                "outcome": "unschedulable",
                "message": "",
                "placements": [p for p in decision.placements if (p.node, p.replica) not in gone],
                "preempted": [*decision.preempted, *taken],
                "decided_at": now(),
            }
        )
        await self._publish(life, new, self._claim(life, new))
        return new

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
            over=self._over(request),
        )
        if turn is not None:
            await turn.to_the_first()
        return found

    def _over(self, request: DeploymentRequest) -> list[str]:
        """The attributes over which the rules reach that may concern it."""
        theirs = (self._state.lives[name].decision for name in self._particular if name in self._state.lives)
        rules = [*reaches(request), *(over for other in theirs if other for over in reaches(other.request))]
        return list(dict.fromkeys(rules))

    def _made(
        self, draft: Decision, found: Found, choice: Choice, placements: list[Placement], *, whole: bool
    ) -> Decision:
        decision = draft.model_copy(
            update={
                "outcome": "scheduled" if whole else "unschedulable",
                "message": "" if whole else choice.message,
                "query": found.query,
                "candidates": choice.candidates,
                "further": choice.further,
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
        for deployment in {one.deployment for one in decision.preempts}:
            self._others.look(deployment)

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
                place_[1],
            )
        )
    return taken


def to_give(life: Life, takers: Iterable[Life]) -> list[Preempted]:
    """The replicas whose room others have taken and that are still to leave it, with who took it."""
    decision = life.decision
    if decision is None or life.cancelled:
        return []
    gave = {(one.deployment, one.replica, one.node, one.since) for one in decision.preempted}
    places = {(placement.node, placement.replica) for placement in decision.placements}
    return [
        Preempted(
            deployment=other.deployment,
            replica=one.replica,
            node=one.node,
            priority=other.priority,
            since=one.since,
        )
        for other in takers
        if other.decision and not other.cancelled
        for one in other.decision.preempts
        if one.deployment == life.deployment
        and (one.node, one.replica) in places
        and (other.deployment, one.replica, one.node, one.since) not in gave
        and any(placement.node == one.node for placement in other.placements)
    ]


def gives(life: Life, taken: Preempted) -> bool:
    """Whether a replica that is to make room for somebody still runs there."""
    place_ = (taken.node, taken.replica)
    placed = any((placement.node, placement.replica) == place_ for placement in life.placements)
    return (placed or place_ in life.desired) and not life.ended(place_)


def _stands(gave: Preempted, life: Life, lives: Mapping[str, Life]) -> bool:
    """Whether who took the room still says so, so that it must be known that it was given."""
    other = lives.get(gave.deployment)
    said = other.decision.preempts if other and other.decision else ()
    token = (life.deployment, gave.replica, gave.node, gave.since)
    return any((one.deployment, one.replica, one.node, one.since) == token for one in said)


def fitting(decision: Decision, most: int) -> Decision:
    """The decision in at most so many bytes: of very many nodes the last names go, never the counts."""
    keep = 1000
    while keep and len(decision.model_dump_json(by_alias=True).encode()) > most:
        keep //= 4
        decision = decision.model_copy(
            update={
                "candidates": decision.candidates[:keep],
                "further": None,
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
    nodes = f"{choice.able} of {decision.considered} nodes could run it"
    return Verdict(
        "scheduled", "Placed", f"on {where}: {nodes}{best}" if where else "no replicas asked for", []
    )
