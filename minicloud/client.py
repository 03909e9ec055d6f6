"""The client for users: publish a request and await its end, query, watch resources.

::

    import asyncio, minicloud

    async def main():
        async with minicloud.connect() as cloud:
            status = await cloud.deploy({"name": "hello", "runtimes": ["process"], ...})
            print(status.state, status.replicas[0].endpoints)
            print(await cloud.query("cpu.cores>=4,!battery"))

    asyncio.run(main())

Where the bus is and who we are comes from ``MINICLOUD_BROKER``, ``MINICLOUD_USER`` and
``MINICLOUD_PASSWORD`` (or ``MINICLOUD_PASSWORD_FILE``), else from the data folder of an embedded stack.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from bus.bus import Bus
from bus.merge import merged
from bus.standing import standing
from minicloud.site import Site
from schemas.deployment import (
    SETTLED_STATES,
    Cancellation,
    Decision,
    DeploymentRequest,
    DeploymentStatus,
)
from schemas.errors import InvalidDocument, NotFound, RequestTimeout
from schemas.event import read_document, read_event
from schemas.query import Answer, Query
from schemas.resource import ResourceChange
from schemas.shortform import parse_shortform
from schemas.workload import workload_name


class Minicloud:
    """A connection to one minicloud as a user."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def request(self, document: dict[str, Any] | DeploymentRequest) -> str:
        """Publish a deployment request and return the deployment's id once the bus has stored it.

        Raises:
            InvalidDocument: with every problem by field, before anything is published.
        """
        request = (
            document
            if isinstance(document, DeploymentRequest)
            else read_document(document, DeploymentRequest)
        )
        if request.deployment is None:
            raise InvalidDocument(
                "a deployment needs a name", field="name", expected="a token, such as hello"
            )
        await self.bus.publish(
            self.bus.subjects.request(request.deployment), request, about=request.deployment
        )
        return str(request.deployment)

    async def deploy(
        self,
        document: dict[str, Any] | DeploymentRequest,
        *,
        timeout: float = 300.0,
        on_event: Callable[[DeploymentStatus | Decision], None] | None = None,
    ) -> DeploymentStatus:
        """Publish a request and await that it settles: running, completed, failed, rejected, unschedulable.

        Args:
            document: the request.
            timeout: seconds.
            on_event: called for each status and decision on the way.

        Raises:
            InvalidDocument: the request breaks its schema.
            RequestTimeout: not settled in time; it goes on by itself.
        """
        request = (
            document
            if isinstance(document, DeploymentRequest)
            else read_document(document, DeploymentRequest)
        )
        deployment = request.deployment or ""
        before = await self._last_sequence(deployment)
        await self.request(request)
        last: DeploymentStatus | None = None
        try:
            async with asyncio.timeout(timeout):
                async for event in self.events(deployment, after=before):
                    if on_event:
                        on_event(event)
                    if isinstance(event, DeploymentStatus):
                        last = event
                        if event.spec == request.spec_hash() and self.settled(event):
                            return event
        except TimeoutError:
            state = f"it is {last.state}: {last.message}" if last else "nobody has answered; is vim running?"
            raise RequestTimeout(f"{deployment} has not settled within {timeout:g} s; {state}") from None
        raise RequestTimeout(f"the stream of {deployment} ended")

    @staticmethod
    def settled(status: DeploymentStatus) -> bool:
        """Whether a status answers "did it come up?"."""
        return status.state in SETTLED_STATES or status.reason == "UpdateRejected"

    async def events(
        self, deployment: str, *, after: int | None = None
    ) -> AsyncIterator[DeploymentStatus | Decision]:
        """Statuses and decisions of one deployment as they come.

        Args:
            deployment: its id.
            after: the sequence after which statuses are new; None begins with the last ones.
        """
        subjects = self.bus.subjects
        # Two watches: a user's credential may read one subject of deployments a consumer.
        async with (
            self.bus.watch({subjects.status(deployment): DeploymentStatus}) as statuses,
            self.bus.watch({subjects.decision(deployment): Decision}) as decisions,
            aclosing(merged(decisions, statuses)) as items,
        ):
            fresh = after is None
            async for item in items:
                data = item.event.data if item.event else None
                if isinstance(data, DeploymentStatus):
                    fresh = after is None or data.sequence > after
                if data is not None and (fresh or item.kind == "CHANGE"):
                    yield data

    async def _last_sequence(self, deployment: str) -> int:
        stored = await self.bus.jetstream.last(
            f"{self.bus.minicloud}_deployments", self.bus.subjects.status(deployment)
        )
        return read_event(stored[1], DeploymentStatus).data.sequence if stored else 0

    async def cancel(self, deployment: str, reason: str = "") -> None:
        """Wish that a deployment ends."""
        await self.bus.publish(
            self.bus.subjects.cancel(deployment), Cancellation(reason=reason), about=deployment
        )

    async def deployments(self) -> list[dict[str, Any]]:
        """Every deployment with its state and replicas."""
        answer: dict[str, Any] = await self.bus.request("vim", "list")
        return list(answer["deployments"])

    async def deployment(self, deployment: str) -> dict[str, Any]:
        """One deployment with its last decision and status.

        Raises:
            NotFound: there is none of that id.
        """
        answer: dict[str, Any] = await self.bus.request("vim", "get", {"deployment": deployment})
        return answer

    async def query(self, question: str | dict[str, Any] | Query = "", **more: Any) -> Answer:
        """Ask the resource index, in the short form or as a query document.

        Raises:
            InvalidQuery: names the unknown field or operator and its nearest neighbour.
        """
        if isinstance(question, str):
            question = {"where": parse_shortform(question) if question.strip() else {}, **more}
        query = question if isinstance(question, Query) else read_document(question, Query)
        return Answer.model_validate(await self.bus.request("rid", "query", query, timeout=10.0))

    async def watch(
        self, question: str | dict[str, Any] | None = None, *, since: int | None = None
    ) -> AsyncIterator[tuple[str, int, ResourceChange | dict[str, Any] | None]]:
        """The resource-change log, or a standing query, as ``(kind, revision, what)``.

        Without a question, every change of every node: ITEM… SYNC (CHANGE|BOOKMARK)…. With one, the nodes that
        match and how that changes: ITEM… SYNC (ENTER|UPDATE|LEAVE|BOOKMARK)…, each with the node's attributes
        (of LEAVE its name only); RESYNC says to forget what was told, since it begins anew.

        Raises:
            InvalidQuery: names what is wrong with the question.
            TooOld: ``since`` is no longer kept.
        """
        if question is not None:
            asked = {"where": question} if isinstance(question, str) else question
            async with standing(self.bus, asked, since=since) as told:
                async for one in told:
                    node = {"name": one.node} if one.node and one.attributes is None else one.attributes
                    yield one.kind, one.revision, node
            return
        async with self.bus.watch({self.bus.subjects.resource(): ResourceChange}, since=since) as items:
            async for item in items:
                yield item.kind, item.revision, item.event.data if item.event else None

    async def keep(self, name: str, question: str | dict[str, Any], **more: Any) -> str:
        """Have a query answered for ever, for devices; returns the MQTT topic of its answer, retained.

        Args:
            name: under which name; again under the same name replaces it.
            question: in the short form or as a query document.
            more: ``sort`` and ``limit`` (1 by default).

        Raises:
            InvalidQuery: names what is wrong with it.
        """
        document = {"where": question, **more} if isinstance(question, str) else {**question, **more}
        answer = await self.bus.request("rid", "keep", {"name": name, "query": document})
        return str(answer["topic"])

    async def forget(self, name: str) -> None:
        """Have a kept query answered no more.

        Raises:
            NotFound: none is kept under this name.
        """
        await self.bus.request("rid", "forget", {"name": name})

    async def logs(
        self, deployment: str, *, replica: int | None = None, tail: int = 100
    ) -> dict[str, list[str]]:
        """The last lines of each replica, by workload.

        Raises:
            NotFound: no such deployment or replica.
        """
        known = await self.deployment(deployment)
        chosen = [r for r in known["replicas"] if replica is None or r["replica"] == replica]
        if not chosen:
            raise NotFound(f"{deployment} has no {'replicas' if replica is None else f'replica {replica}'}")
        lines: dict[str, list[str]] = {}
        for entry in chosen:
            workload = workload_name(deployment, entry["replica"])
            answer = await self.bus.request(
                "worker", "logs", {"workload": workload, "tail": tail}, instance=entry["node"]
            )
            lines[workload] = list(answer["lines"])
        return lines


@asynccontextmanager
async def connect(data: Path | str | None = None, *, timeout: float = 5.0) -> AsyncIterator[Minicloud]:
    """Connect as a user: by ``MINICLOUD_*`` settings, else to the embedded stack of a data folder.

    Raises:
        Unavailable: no minicloud is running there.
        Forbidden: the credential is refused.
    """
    site = Site.find(Path(data) if data else None)
    bus = await Bus.connect(site.endpoint(f"user-{os.getpid()}"), site.minicloud, "user", timeout=timeout)
    try:
        yield Minicloud(bus)
    finally:
        await bus.close()
