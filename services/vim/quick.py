"""The quick way to a node: vim's own view of the fleet, once the index has said that it is fresh.

In: changes of nodes and reservations. Out: a choice for a new deployment that fits, or nothing, and then the index is
asked as for everything else. Before each choice the index answers a small question that was asked after the
request came: what of the fleet was heard lately. So an index that is away is noticed, what moves all the time is
as fresh as its own, and many that wait share one question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidQuery
from services.vim.candidates import Candidates
from services.vim.ledger import Reserved

if TYPE_CHECKING:
    from services.vim.fleet import Fleet, Picked

#: Seconds by which what was heard lately overlaps with what was asked before.
_OVERLAP: Final = 1.0
#: Nodes told in one answer; of more the freshest.
_MOST: Final = 10_000
#: How long the change log may take to bring what the index has already published.
_PATIENCE: Final = 1.0
_LIVE: Final = ["memory.available", "load.1m"]


def new_fleet() -> Fleet | None:
    """An empty view; None where there is no NumPy, and every choice asks the index."""
    try:
        from services.vim.fleet import Fleet  # noqa: PLC0415 - NumPy may be missing
    except ImportError:
        return None
    return Fleet()


class Quick:
    """Chooses from vim's own view.

    Args:
        candidates: asks the index.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._fleet = new_fleet()
        self._asking: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None
        self._asked_at: float | None = None
        self._revision = 0
        self._moved = asyncio.Event()
        self.coverage: list[dict[str, Any]] = []

    def put(self, node: str, attributes: Mapping[str, Any], revision: int) -> None:
        """What the change log says of a node."""
        if self._fleet is not None:
            self._fleet.put(node, attributes)
        self._revision = max(self._revision, revision)
        self._moved.set()

    def reserve(self, node: str, reserved: Reserved) -> None:
        """What all deployments hold on a node."""
        if self._fleet is not None:
            self._fleet.reserve(node, reserved)

    async def ready(self, request: DeploymentRequest) -> bool:
        """Whether it may choose for this request now.

        Raises:
            Unavailable: the index does not answer.
        """
        if self._fleet is None or not self._fleet.answers(request):
            return False
        if self._next is None:
            self._next = asyncio.create_task(self._ask(self._asking))
        return await asyncio.shield(self._next)

    def choose(self, request: DeploymentRequest) -> Picked | None:
        """A place for every replica of a new deployment, by what is known now; None where not all find one."""
        return None if self._fleet is None else self._fleet.choose(request)

    async def _ask(self, before: asyncio.Task[bool] | None) -> bool:
        """Ask what was heard lately, for everybody who came until now; whether the view is as fresh."""
        if before is not None:
            await asyncio.wait([before])
        self._asking, self._next = self._next, None
        begun = time.monotonic()
        lately = {"age": {"$lte": begun - self._asked_at + _OVERLAP}} if self._asked_at is not None else {}
        ask = {
            "where": lately,
            "fields": _LIVE,
            "sort": [{"age": "asc"}],
            "limit": _MOST,
            "explain": False,
            "scope": {"mode": "local"},
        }
        try:
            answer = await self._candidates.answer(ask)
        except InvalidQuery:
            return False
        fresh = await self._reached(answer["revision"]) and self._take(answer["nodes"])
        self._asked_at, self.coverage = begun, answer.get("coverage", [])
        return fresh

    def _take(self, nodes: list[dict[str, Any]]) -> bool:
        fleet = self._fleet
        if fleet is None:
            return False
        for node in nodes:
            if node["name"] not in fleet:
                return False  # it is on its way
            fleet.measure(node["name"], node)
        return True

    async def _reached(self, revision: int) -> bool:
        """Wait until the change log was read as far as the index had written it."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._revision < revision:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True
