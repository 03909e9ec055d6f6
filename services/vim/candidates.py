"""The nodes that may run a request, out of the resource index, however many there are.

In: a request and what is known of it. Out: what the index said, as much of it as one message
holds. An index that is away is asked once a second for everybody, so that nobody queues for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from bus.bus import Bus
from schemas.decision import Attempt, Rejection
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidQuery, Unavailable
from services.vim.question import narrowed, question, these

_PATIENCE: Final = 5.0
_PAUSE: Final = 1.0


@dataclass
class Found:
    """What the index said.

    Attributes:
        query: what it was asked first.
        nodes: to choose from.
        rejected: the others, by the condition that they fail.
        coverage: how complete and fresh it is.
        known: how many nodes were looked at, where they are not told one by one.
    """

    query: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    coverage: list[dict[str, Any]] = field(default_factory=list)
    known: int = 0

    @property
    def considered(self) -> int:
        """How many nodes were looked at."""
        return self.known or len(self.nodes) + sum(group.count or len(group.nodes) for group in self.rejected)


class Candidates:
    """Asks the resource index."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._silent_until = 0.0

    async def ask(
        self,
        request: DeploymentRequest,
        *,
        current: Collection[str] = (),
        attempts: Collection[Attempt] = (),
        taken: Collection[str] = (),
        over: Collection[str] = (),
    ) -> Found:
        """The nodes to choose from.

        Args:
            request: what is to run.
            current: where it runs now.
            attempts: what was tried in vain.
            taken: nodes whose pinned ports others hold.
            over: attributes over which rules about neighbours reach.

        Raises:
            Unavailable: the index does not answer now.
            InvalidQuery: it does not know something that the request names.
        """
        ask = question(request, over=over)
        answer = await self._query(ask)
        found = Found(ask, answer["nodes"], _rejections(answer), answer.get("coverage", []))
        if answer["total"] <= len(found.nodes):
            return found
        # More match than were told: those with room are what matters.
        nodes: dict[str, dict[str, Any]] = {}
        for runtime in request.runtimes:
            tried = {attempt.node for attempt in attempts if attempt.runtime == runtime}
            part = await self._query(narrowed(request, runtime, {*taken, *tried}, over))
            nodes.update({node["name"]: node for node in part["nodes"]})
            found.rejected += [
                group.model_copy(update={"runtime": runtime})
                for group in _rejections(part)
                if group.attribute in ("allocatable.cpu", "allocatable.memory", "name") or not group.attribute
            ]
        if current:
            nodes.update(
                {node["name"]: node for node in (await self._query(these(request, current, over)))["nodes"]}
            )
        found.nodes = list(nodes.values())
        return found

    async def known(self) -> list[str]:
        """The names of all attributes that some node has."""
        answer = await self._request("attributes", {})
        return [attribute["name"] for attribute in answer["attributes"]]

    async def answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The answer of the index to a query of one's own.

        Raises:
            Unavailable: the index does not answer now.
            InvalidQuery: it does not take it.
        """
        return await self._query(ask)

    async def _query(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The answer, of fewer nodes where so many do not fit into a message."""
        while True:
            try:
                return await self._request("query", ask)
            except InvalidQuery as error:
                if error.field != "limit" or ask["limit"] <= 1:
                    raise
                # The reasons go first, then every second node.
                ask = {
                    **ask,
                    "explain": False,
                    "limit": ask["limit"] if ask["explain"] else ask["limit"] // 2,
                }

    async def _request(self, verb: str, document: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until:
            raise Unavailable("the resource index does not answer", expected="to be asked again")
        try:
            answer: dict[str, Any] = await self._bus.request("rid", verb, document, timeout=_PATIENCE)
        except Unavailable:
            self._silent_until = loop.time() + _PAUSE
            raise
        return answer


def _rejections(answer: dict[str, Any]) -> list[Rejection]:
    return [Rejection.model_validate(group) for group in answer.get("rejected", [])]
