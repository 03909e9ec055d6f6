"""What vim tells about a deployment: one status a new fact, numbered, and never more than fits.

In: verdicts. Out: statuses on both sides of the bus; what was said already is not said again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from schemas.decision import DeploymentStatus
from schemas.errors import Conflict
from schemas.event import now
from services.vim.lifecycle import Verdict
from services.vim.state import Life

#: What an event needs around its data.
_ENVELOPE: Final = 4096
_REFUSALS: Final = ("InvalidRequest", "UpdateRejected")
_LONGEST_MESSAGE: Final = 4096


class TellStatus(Protocol):
    """Publishes a status on both sides of the bus and returns its revision."""

    def __call__(self, status: DeploymentStatus) -> Awaitable[int]:
        """Publish ``status``."""


class Voice:
    """Tells statuses.

    Args:
        tell: publishes one.
        acting: whether we hold the lease at this moment; without it nothing is told.
        most: bytes of one message.
    """

    def __init__(self, tell: TellStatus, acting: Callable[[], bool], most: int) -> None:
        self._tell = tell
        self._acting = acting
        self._most = most - _ENVELOPE

    async def say(
        self,
        life: Life,
        generation: int,
        verdict: Verdict,
        *,
        digest: str | None = None,
        problems: list[dict[str, Any]] | None = None,
    ) -> None:
        """Publish a status if it says anything new.

        Args:
            life: whose.
            generation: which one it speaks of.
            verdict: what it says.
            digest: the identity of the request that it refuses; else that of the decision is told.
            problems: what is wrong with that request.
        """
        last = life.status
        refusal = verdict.reason in _REFUSALS
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
            message=verdict.message[:_LONGEST_MESSAGE],
            spec=digest or (life.decision.spec if life.decision else None),
            node=first.node if first else None,
            runtime=first.runtime if first else None,
            problems=problems or [],
            replicas=verdict.replicas,
            observed_at=now(),
        )
        status = fitting(status, self._most)
        if last and _same(last, status) and not life.status_spoiled:
            return
        if not self._acting():
            raise Conflict("the lease is gone")
        await self._tell(status)
        life.status, life.status_spoiled = status, False


def fitting(status: DeploymentStatus, most: int) -> DeploymentStatus:
    """The status in at most so many bytes: of very many replicas the details go, then the replicas."""
    if len(status.replicas) < 2 or _size(status) <= most:
        return status
    replicas = [replica.model_copy(update={"message": "", "endpoints": []}) for replica in status.replicas]
    status = status.model_copy(update={"replicas": replicas})
    while status.replicas and _size(status) > most:
        status = status.model_copy(update={"replicas": status.replicas[: len(status.replicas) // 2]})
    return status


def _size(status: DeploymentStatus) -> int:
    return len(status.model_dump_json(by_alias=True).encode())


def _same(one: DeploymentStatus, other: DeploymentStatus) -> bool:
    left, right = (
        status.model_dump(exclude={"sequence", "previous", "observed_at"}) for status in (one, other)
    )
    return left == right
