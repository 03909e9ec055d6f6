"""Reconciliation: make the desired state so, whatever happened in between.

:class:`Reconciler` looks at one deployment's whole life and takes whatever step is due; it never
remembers what it was doing. Every step is a compare-and-set write of a level, so it may die
between any two lines: whoever comes next sees the same levels and takes the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from bus.bus import Bus
from schemas.decision import Decision, DeploymentState, Enforcement
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument, MinicloudError, Unavailable
from schemas.event import now
from schemas.workload import workload_name
from services.vim.decide import Decider, Others, Preemption, gives
from services.vim.driver import Driver
from services.vim.enforce import enforcements
from services.vim.lifecycle import Verdict, adrift, hopeless, judge, judge_stopping, moved
from services.vim.migrate import wished
from services.vim.state import Life, State
from services.vim.voice import TellStatus, Voice

log = structlog.get_logger("vim")
_LONGEST_TOKEN: Final = 64
#: Of a message, what the request may take: its decision holds it, too, and a placement for each replica.
_DECISION: Final = 64 * 1024
_PLACEMENT: Final = 300
#: Fields that name attributes of nodes.
_ASKED_OF_NODES: Final = ("where", "prefer", "spread", "apart", "together")


class Reconciler:
    """Takes the due steps of one deployment at a time.

    Args:
        bus: the connection.
        state: what is known.
        driver: makes placements so.
        tell: publishes a status.
        acting: whether we hold the lease at this moment; without it no step is taken.
        others: told whose deployments should be looked at.
        preemption: whether those of lower priority make room.
    """

    def __init__(
        self,
        bus: Bus,
        state: State,
        driver: Driver,
        tell: TellStatus,
        acting: Callable[[], bool],
        others: Others,
        preemption: Preemption = "asked",
    ) -> None:
        self._most = bus.wire.max_payload
        self._state = state
        self._driver = driver
        self._acting = acting
        self._voice = Voice(tell, acting, self._most)
        self._preemption = preemption
        self._decider = Decider(bus, self._voice, state, others, preemption)

    def restore_ledger(self) -> None:
        """Reserve what is decided and what runs, after everything was read."""
        for life in self._state.lives.values():
            self._decider.reserve(life)

    async def step(self, deployment: str) -> None:
        """Bring one deployment as far as it can be brought now."""
        life = self._state.life(deployment)
        if not self._acting():
            return
        if life.request_revision == 0 and life.decision is None:
            await self._without_request(life)
            return
        if life.cancelled:
            await self._stop(life)
            return
        if life.request is None and life.refused:
            await self._refuse(life, life.refused, life.request_digest)
        elif life.request is not None and _is_new(life):
            await self._accept(life, life.request, life.request_digest)
        if life.cancelled:
            return  # meanwhile; it is looked at again
        if life.asked_again:
            # What was asked since the cancellation was refused, so it still is the last wish.
            await self._driver.stop(life)
            self._decider.reserve(life)
        elif life.decision is not None:
            await self._pursue(life, life.decision)

    async def whatif(self, request: DeploymentRequest) -> Decision:
        """What would be decided of a request at this moment; nothing is done, said or reserved.

        Raises:
            InvalidDocument: it would be rejected; says every field that nothing enforces.
            Unavailable: the index does not answer now.
        """
        deployment = request.deployment or "whatif"
        # Of one that is there it would be an update, to which its own room is free.
        life = self._state.lives.get(deployment if request.deployment else "") or Life(deployment)
        self._check(life, request)
        decision = Decision(
            deployment=deployment,
            generation=_next(life),
            spec=request.spec_hash(),
            outcome="unschedulable",
            request=request,
            enforced=await self._enforceable(request),
            decided_at=now(),
        )
        return await self._decider.would(life, decision)

    async def trouble(self, deployment: str, error: Exception) -> None:
        """Tell that a step failed for a reason that waiting does not cure."""
        life = self._state.life(deployment)
        code = error.code if isinstance(error, MinicloudError) else "InternalError"
        why = str(error) if isinstance(error, MinicloudError) else f"{type(error).__name__}: {error}"
        last = life.status
        generation = life.decision.generation if life.decision else 0
        await self._voice.say(life, generation, Verdict("unknown", code, why, last.replicas if last else []))

    # -- accepting -------------------------------------------------------------------------------

    async def _accept(self, life: Life, request: DeploymentRequest, digest: str) -> None:
        """Check, place and decide, or refuse. The request may be overtaken by another meanwhile."""
        generation = _next(life)
        try:
            self._check(life, request)
            enforced = await self._enforced(life, request, generation)
        except InvalidDocument as error:
            await self._refuse(life, error, digest)
            return
        why = "every constraint is enforced by something"
        if not (life.status and life.status.reason == "IndexAway" and life.status.generation == generation):
            await self._voice.say(life, generation, Verdict("accepted", "Valid", why, []))
        decision = Decision(
            deployment=life.deployment,
            generation=generation,
            spec=digest,
            outcome="unschedulable",
            request=request,
            enforced=enforced,
            # Wishes that are open stay so; those of an earlier life are no longer anybody's.
            migrations=life.decision.migrations
            if life.decision and not life.asked_again
            else life.request_revision,
            decided_at=now(),
        )
        await self._decider.begin(life, decision)

    async def _enforced(self, life: Life, request: DeploymentRequest, generation: int) -> list[Enforcement]:
        """What enforces each field; told where nobody can say it yet."""
        try:
            return await self._enforceable(request)
        except Unavailable:
            why = "the resource index does not answer; whether the request can be enforced is not known yet"
            await self._voice.say(life, generation, Verdict("requested", "IndexAway", why, []))
            raise

    async def _enforceable(self, request: DeploymentRequest) -> list[Enforcement]:
        """What enforces each field; the index is asked only about names that nobody foresaw."""
        try:
            return enforcements(request, preemption=self._preemption)
        except InvalidDocument as error:
            if not any(str(problem["field"]).startswith(_ASKED_OF_NODES) for problem in error.problems):
                raise
            return enforcements(request, await self._decider.candidates.known(), preemption=self._preemption)

    def _check(self, life: Life, request: DeploymentRequest) -> None:
        """What a request must be beside its own schema."""
        if request.id is not None and request.id != life.deployment:
            raise InvalidDocument(
                f"the request says {request.id!r} but came for {life.deployment!r}",
                field="id",
                expected=f"{life.deployment!r}, or no id",
            )
        longest = len(workload_name(life.deployment, max(0, request.replicas - 1)))
        if longest > _LONGEST_TOKEN:
            raise InvalidDocument(
                f"with the number of a replica the id has {longest} letters",
                field="id",
                expected=f"at most {_LONGEST_TOKEN - longest + len(life.deployment)} letters",
            )
        size = len(request.model_dump_json(by_alias=True).encode())
        room = self._most - _DECISION - _PLACEMENT * request.replicas
        if size > room:
            raise InvalidDocument(
                f"the request has {size} bytes; its decision would not fit into a message",
                field="files" if request.files else "request",
                expected=f"at most {room} bytes in all; a large file belongs into the image",
            )

    async def _refuse(self, life: Life, error: InvalidDocument, digest: str) -> None:
        """Say why on the channel that the request came by; what runs goes on."""
        status = life.status
        if status and status.spec == digest and status.reason in ("InvalidRequest", "UpdateRejected"):
            return
        problems = error.problems or [
            {"field": error.field, "message": error.message, "expected": error.expected}
        ]
        live = life.decision is not None and not life.asked_again and status is not None
        state: DeploymentState = status.state if live and status else "rejected"
        reason = "UpdateRejected" if live else "InvalidRequest"
        generation = life.decision.generation if life.decision else 0
        verdict = Verdict(state, reason, str(error), status.replicas if live and status else [])
        await self._voice.say(life, generation, verdict, digest=digest, problems=problems)

    # -- pursuing --------------------------------------------------------------------------------

    async def _pursue(self, life: Life, decision: Decision) -> None:
        """Place what is due, make it so, and say how it is."""
        if elsewhere := moved(life, decision):
            decision = await self._decider.follow(life, decision, elsewhere)
        if taken := self._decider.to_give(life):
            decision = await self._decider.give_way(life, decision, taken)
        attempts = hopeless(life, decision)
        drifting = adrift(life, decision, self._state, now())
        missing = decision.request.replicas - len(decision.placements)
        if attempts or drifting or missing:
            decision = await self._decider.again(life, decision, attempts, drifting)
        await self._make_so(life, decision)
        # Last, since it may have to wait for the index, and what runs must not.
        if moves := wished(life, decision):
            await self._make_so(life, await self._decider.migrate(life, decision, moves))

    async def _make_so(self, life: Life, decision: Decision) -> None:
        await self._driver.apply(life, self._with_room(decision))
        await self._voice.say(life, decision.generation, judge(life, decision, self._state, now()))
        self._decider.reserve(life)

    def _with_room(self, decision: Decision) -> Decision:
        """The decision without the placements whose room others still have to leave."""
        taken = {
            one.node
            for one in decision.preempts
            if (other := self._state.lives.get(one.deployment))
            and not self._state.lost(one.node)
            and gives(other, one)
        }
        if not taken:
            return decision
        placements = [placement for placement in decision.placements if placement.node not in taken]
        return decision.model_copy(update={"placements": placements})

    # -- ending ----------------------------------------------------------------------------------

    async def _stop(self, life: Life) -> None:
        if life.decision is None and not life.desired:
            if life.status is None or life.status.state not in ("stopped", "rejected"):
                verdict = Verdict("stopped", "Cancelled", "cancelled before it was decided", [])
                await self._voice.say(life, 0, verdict)
            return
        await self._driver.stop(life)
        generation = life.decision.generation if life.decision else 0
        await self._voice.say(life, generation, judge_stopping(life, self._state))
        self._decider.reserve(life)

    async def _without_request(self, life: Life) -> None:
        """A cancellation of nothing; or what no request is kept of, yet some node is told to run.

        The log may have dropped its beginning, so that is no reason to stop anything.
        """
        if life.running_desired() and not life.cancel_revision:
            why = "its request and decision are no longer kept; it runs on until it is cancelled or requested again"
            last = life.status
            await self._voice.say(
                life, life.generation, Verdict("unknown", "DecisionLost", why, last.replicas if last else [])
            )
        elif life.desired and life.cancel_revision:
            await self._stop(life)
        elif life.cancel_revision and life.status is None:
            why = "no deployment of this name was requested"
            await self._voice.say(life, 0, Verdict("stopped", "NotRequested", why, []))


def _next(life: Life) -> int:
    """The generation of a new request; one that was told but not yet decided is taken up again."""
    if life.decision is not None:
        return life.decision.generation + 1
    told = life.status
    if told is not None and told.state in ("requested", "accepted") and told.generation:
        return told.generation
    return life.generation + 1


def _is_new(life: Life) -> bool:
    """Whether the last request was neither decided nor refused."""
    status = life.status
    if life.decision is None or life.asked_again:
        return status is None or status.spec != life.request_digest or status.state != "rejected"
    if life.decision.spec == life.request_digest:
        return False
    return not (status and status.reason == "UpdateRejected" and status.spec == life.request_digest)
