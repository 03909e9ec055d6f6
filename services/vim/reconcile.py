"""Reconciliation: make the desired state so, whatever happened in between.

:class:`Reconciler` looks at one deployment's whole life and takes whatever step is due; it never
remembers what it was doing. Every step is a compare-and-set write of a level, so it may die
between any two lines: whoever comes next sees the same levels and takes the same step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog

from bus.bus import Bus
from schemas.deployment import (
    Attempt,
    Decision,
    DeploymentRequest,
    DeploymentState,
    DeploymentStatus,
    Placement,
    Rejection,
)
from schemas.errors import Conflict, InvalidDocument, MinicloudError
from schemas.event import now
from services.vim.driver import Driver
from services.vim.enforce import enforcements
from services.vim.ledger import Ledger
from services.vim.lifecycle import HOPELESS, Verdict, judge, judge_stopping
from services.vim.placement import Choice, place, question
from services.vim.state import Life, State

log = structlog.get_logger("vim")


class TellStatus(Protocol):
    """Publishes a status on both sides of the bus and returns its revision."""

    def __call__(self, status: DeploymentStatus) -> Awaitable[int]:
        """Publish ``status``."""


class Reconciler:
    """Takes the due steps of one deployment at a time.

    Args:
        bus: the connection.
        state: what is known.
        ledger: what is reserved.
        driver: makes placements so.
        tell: publishes a status.
        acting: whether we hold the lease at this moment; without it no step is taken.
    """

    def __init__(
        self,
        bus: Bus,
        state: State,
        ledger: Ledger,
        driver: Driver,
        tell: TellStatus,
        acting: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._state = state
        self._ledger = ledger
        self._driver = driver
        self._tell = tell
        self._acting = acting

    def restore_ledger(self) -> None:
        """Reserve what the decisions say, after everything was read."""
        for life in self._state.lives.values():
            self._reserve(life)

    async def step(self, deployment: str) -> None:
        """Bring one deployment as far as it can be brought now."""
        life = self._state.life(deployment)
        if not self._acting():
            return
        if life.request_revision == 0 and life.decision is None:
            await self._end_stray(life)
            return
        if life.cancelled:
            await self._stop(life)
            return
        if life.request is not None and self._is_new(life):
            if not await self._accept(life, life.request):
                return
        elif life.request is None and life.refused:
            await self._refuse(life, life.refused)
        if life.decision is None:
            return
        await self._pursue(life, life.decision)

    # -- accepting -------------------------------------------------------------------------------

    @staticmethod
    def _is_new(life: Life) -> bool:
        if life.decision is None or life.asked_again:
            return (
                life.status is None
                or life.status.spec != life.request_digest
                or life.status.state != "rejected"
            )
        if life.decision.spec == life.request_digest:
            return False
        status = life.status
        return not (status and status.reason == "UpdateRejected" and status.spec == life.request_digest)

    async def _accept(self, life: Life, request: DeploymentRequest) -> bool:
        """Check, place and decide; False if it was refused."""
        if request.id is not None and request.id != life.deployment:
            wrong = InvalidDocument(
                f"the request says {request.id!r} but came for {life.deployment!r}",
                field="id",
                expected=f"{life.deployment!r}, or no id",
            )
            await self._refuse(life, wrong)
            return life.decision is not None
        try:
            enforced = enforcements(request)
        except InvalidDocument as error:
            await self._refuse(life, error)
            return life.decision is not None
        generation = (life.decision.generation if life.decision else 0) + 1
        accepted = Verdict("accepted", "Valid", "every constraint is enforced by something", [])
        await self._say(life, generation, accepted)
        decision = Decision(
            deployment=life.deployment,
            generation=generation,
            spec=life.request_digest,
            outcome="unschedulable",
            request=request,
            enforced=enforced,
            decided_at=now(),
        )
        kept = [] if life.asked_again else life.placements
        await self._decide(life, decision, kept, list(range(request.replicas)))
        return True

    async def _refuse(self, life: Life, error: InvalidDocument) -> None:
        """Say why on the channel that the request came by; what runs goes on."""
        status = life.status
        if (
            status
            and status.spec == life.request_digest
            and status.reason in ("InvalidRequest", "UpdateRejected")
        ):
            return
        problems = error.problems or [
            {"field": error.field, "message": error.message, "expected": error.expected}
        ]
        live = life.decision is not None and not life.asked_again and status is not None
        state: DeploymentState = status.state if live and status else "rejected"
        reason = "UpdateRejected" if live else "InvalidRequest"
        generation = life.decision.generation if life.decision else 0
        verdict = Verdict(state, reason, str(error), status.replicas if live and status else [])
        await self._say(life, generation, verdict, problems=problems)

    # -- deciding --------------------------------------------------------------------------------

    async def _decide(self, life: Life, draft: Decision, kept: list[Placement], replicas: list[int]) -> None:
        """Ask the index, choose, reserve and publish the decision."""
        request = draft.request
        ask = question(request)
        answer: dict[str, Any] = await self._bus.request("rid", "query", ask, timeout=10.0)
        # From here to the reservation nothing is awaited: no other deployment chooses in between.
        others = [placement for placement in kept if placement.replica not in replicas]
        choice = place(
            request,
            answer["nodes"],
            self._ledger.of_nodes(without=life.deployment),
            current=[placement for placement in kept if placement.replica in replicas],
            attempts=draft.attempts,
            replicas=replicas,
        )
        placed = len(choice.placements) == len(replicas)
        decision = draft.model_copy(
            update={
                "outcome": "scheduled" if placed else "unschedulable",
                "message": choice.message,
                "query": ask,
                "candidates": choice.candidates,
                "rejected": [*_unmatched(answer), *choice.rejected],
                "placements": sorted([*others, *choice.placements], key=lambda p: p.replica)
                if placed
                else others,
                "coverage": answer.get("coverage", []),
                "considered": len(answer["nodes"])
                + sum(len(group["nodes"]) for group in answer.get("rejected", [])),
                "decided_at": now(),
            }
        )
        if not placed and life.decision and _same_refusal(life.decision, decision):
            return
        before = life.decision
        life.decision = decision
        self._reserve(life)
        try:
            life.decision_revision = await self._bus.publish(
                self._bus.subjects.decision(life.deployment),
                decision,
                about=life.deployment,
                expect=life.decision_revision,
            )
        except MinicloudError:
            life.decision = before
            self._reserve(life)
            raise
        verdict = _scheduled(choice, decision) if placed else _unschedulable(decision)
        await self._say(life, decision.generation, verdict)

    def _reserve(self, life: Life) -> None:
        if life.decision is None or (life.cancelled and not life.running_desired()) or _ended(life):
            self._ledger.release(life.deployment)
            return
        ports = [port.host_port for port in life.decision.request.ports if port.host_port]
        self._ledger.reserve(life.deployment, life.placements, ports)

    # -- pursuing --------------------------------------------------------------------------------

    async def _pursue(self, life: Life, decision: Decision) -> None:
        if decision.outcome == "unschedulable" and not decision.placements:
            await self._decide(life, decision, [], list(range(decision.request.replicas)))
            if life.decision is None or not life.decision.placements:
                return
            decision = life.decision
        moved = await self._heal(life, decision)
        if moved:
            decision = moved
        await self._driver.apply(life, decision)
        verdict = judge(life, decision, self._state.nodes, datetime.now(UTC))
        if verdict.state != "lost" or life.observed:
            await self._say(life, decision.generation, verdict)
        self._reserve(life)

    async def _heal(self, life: Life, decision: Decision) -> Decision | None:
        """Place anew what can never start where it is, or whose node is lost for too long."""
        request = decision.request
        attempts = list(decision.attempts)
        again: list[int] = []
        for placement in decision.placements:
            observed = life.seen(placement, decision.generation)
            if observed and observed.state == "failed" and observed.reason in HOPELESS:
                tried = {(attempt.node, attempt.runtime) for attempt in attempts}
                if (placement.node, placement.runtime) not in tried:
                    attempts.append(
                        Attempt(
                            replica=placement.replica,
                            node=placement.node,
                            runtime=placement.runtime,
                            reason=observed.reason,
                            message=observed.message,
                        )
                    )
                    again.append(placement.replica)
            elif self._lost_for_long(placement, request):
                again.append(placement.replica)
        if not again:
            return None
        draft = decision.model_copy(update={"attempts": attempts})
        kept = [placement for placement in decision.placements if placement.replica not in again]
        before = life.decision_revision
        await self._decide(life, draft, kept, again)
        return life.decision if life.decision_revision != before else None

    def _lost_for_long(self, placement: Placement, request: DeploymentRequest) -> bool:
        node = self._state.nodes.get(placement.node)
        # A singleton is never replaced while its old self may still run behind a broken cable.
        if node is None or node.online or node.gone_since is None or request.on_loss.singleton:
            return False
        return datetime.now(UTC) - node.gone_since > timedelta(seconds=request.on_loss.replace_after)

    # -- ending ----------------------------------------------------------------------------------

    async def _stop(self, life: Life) -> None:
        if life.decision is None and not life.desired:
            if life.status is None or life.status.state not in ("stopped", "rejected"):
                await self._say(
                    life, 0, Verdict("stopped", "Cancelled", "cancelled before it was decided", [])
                )
            return
        await self._driver.stop(life)
        generation = life.decision.generation if life.decision else 0
        await self._say(life, generation, judge_stopping(life))
        self._reserve(life)

    async def _end_stray(self, life: Life) -> None:
        """What nobody asked for in any kept request, yet some node is told to run: it ends."""
        if life.running_desired():
            log.warning("desired without a request; stopped", deployment=life.deployment)
            await self._driver.stop(life)

    # -- telling ---------------------------------------------------------------------------------

    async def _say(
        self,
        life: Life,
        generation: int,
        verdict: Verdict,
        *,
        problems: list[dict[str, Any]] | None = None,
    ) -> None:
        """Publish a status if it says anything new."""
        last = life.status
        refusal = verdict.reason in ("InvalidRequest", "UpdateRejected")
        if last and not refusal and last.reason == "UpdateRejected" and verdict.state == last.state:
            return  # the refusal stays readable until something changes
        first = verdict.replicas[0] if len(verdict.replicas) == 1 else None
        status = DeploymentStatus(
            deployment=life.deployment,
            generation=generation,
            sequence=(last.sequence if last else 0) + 1,
            previous=last.state if last else "requested",
            state=verdict.state,
            reason=verdict.reason,
            message=verdict.message,
            spec=life.request_digest if refusal else (life.decision.spec if life.decision else None),
            node=first.node if first else None,
            runtime=first.runtime if first else None,
            problems=problems or [],
            replicas=verdict.replicas,
            observed_at=now(),
        )
        if last and _same(last, status):
            return
        if not self._acting():
            raise Conflict("the lease is gone")
        await self._tell(status)
        life.status = status


def _ended(life: Life) -> bool:
    return (
        life.status is not None
        and life.status.state in ("completed", "stopped", "rejected")
        and not life.asked_again
    )


def _same(one: DeploymentStatus, other: DeploymentStatus) -> bool:
    left, right = (
        status.model_dump(exclude={"sequence", "previous", "observed_at"}) for status in (one, other)
    )
    return left == right


def _same_refusal(one: Decision, other: Decision) -> bool:
    return (
        one.outcome == other.outcome == "unschedulable"
        and one.generation == other.generation
        and [(r.reason.split(" ")[0], r.nodes) for r in one.rejected]
        == [(r.reason.split(" ")[0], r.nodes) for r in other.rejected]
    )


def _unmatched(answer: dict[str, Any]) -> list[Rejection]:
    """The nodes that the index left out, grouped by the condition that they failed."""
    return [Rejection.model_validate(group) for group in answer.get("rejected", [])]


def _scheduled(choice: Choice, decision: Decision) -> Verdict:
    where = ", ".join(sorted({f"{p.node} ({p.runtime})" for p in choice.placements}))
    best = f", score {choice.candidates[0].score:g}" if choice.candidates else ""
    nodes = f"{len(choice.candidates)} of {decision.considered} nodes could run it"
    return Verdict(
        "scheduled", "Placed", f"on {where}: {nodes}{best}" if where else "no replicas asked for", []
    )


def _unschedulable(decision: Decision) -> Verdict:
    groups = sorted(decision.rejected, key=lambda group: -len(group.nodes))[:3]
    why = "; ".join(f"{len(group.nodes)} x {group.reason}" for group in groups)
    return Verdict("unschedulable", "NoNodeFits", f"{decision.message}{': ' if why else ''}{why}", [])
