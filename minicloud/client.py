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
``MINICLOUD_PASSWORD`` (or ``MINICLOUD_PASSWORD_FILE``; with TLS ``MINICLOUD_CA``), else from the data folder
of an embedded stack. Errors are those of ``schemas/errors.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import structlog

from bus.bus import Bus
from bus.lifecycle import lifecycle
from bus.merge import merged
from bus.printed import follow_printed, last_printed
from bus.standing import standing
from bus.streams import stream_of
from bus.watch import WatchItem
from minicloud.connecting import Connecting, while_welcome
from minicloud.site import Site
from schemas.decision import SETTLED_STATES, Decision, DeploymentStatus
from schemas.deployment import Cancellation, DeploymentRequest
from schemas.errors import InvalidDocument, RequestTimeout
from schemas.event import read_document, read_event
from schemas.query import Answer, Query
from schemas.resource import ResourceChange
from schemas.shortform import parse_shortform
from schemas.verbs import Wished

#: What of a deployment is awaited.
Until = Literal["runs", "ends"]

#: States that tell the outcome of a decision.
_DECIDED: Final = frozenset({"scheduled", "unschedulable"})


class Change(NamedTuple):
    """One thing that :meth:`Minicloud.watch` says.

    Attributes:
        kind: ``ITEM`` (a node as it is), ``SYNC`` (that was all of them), ``CHANGE``, or ``BOOKMARK``
            (nothing changed; a revision to resume from).
        revision: watch ``since`` it and nothing is missed.
        change: the node, what changed of it and all its attributes; None for SYNC and BOOKMARK.
    """

    kind: Literal["ITEM", "SYNC", "CHANGE", "BOOKMARK"]
    revision: int
    change: ResourceChange | None


class Match(NamedTuple):
    """One thing that :meth:`Minicloud.watch_query` says.

    Attributes:
        kind: ``ITEM`` (a node that matches), ``SYNC`` (that was all of them), ``ENTER``, ``UPDATE`` or
            ``LEAVE``, ``BOOKMARK`` (nothing changed), or ``RESYNC``: forget what was told, it begins anew.
        revision: watch ``since`` it and nothing is missed.
        node: its attributes, of one that left its name only; None where the kind is about no node.
    """

    kind: Literal["ITEM", "SYNC", "ENTER", "UPDATE", "LEAVE", "BOOKMARK", "RESYNC"]
    revision: int
    node: dict[str, Any] | None


class Minicloud:
    """A connection to one minicloud as a user; :func:`connect` makes it.

    Attributes:
        bus: the verbs below this, for what is not here.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def request(self, document: dict[str, Any] | DeploymentRequest) -> str:
        """Publish a deployment request and return the deployment's id once the bus has stored it.

        Raises:
            InvalidDocument: with every problem by field, before anything is published.
            Unavailable: the bus did not acknowledge it; it may still arrive, and may be sent again.
        """
        request, deployment = _read(document)
        await self.bus.publish(self.bus.subjects.request(deployment), request, about=deployment)
        return deployment

    async def deploy(
        self,
        document: dict[str, Any] | DeploymentRequest,
        *,
        until: Until = "runs",
        timeout: float = 300.0,
        on_event: Callable[[DeploymentStatus | Decision], None] | None = None,
    ) -> DeploymentStatus:
        """Publish a request and await that it runs, or cannot: the first of these states is returned.

        ``running``, ``paused``, ``completed``, ``failed``, ``rejected``, ``unschedulable``, or ``stopped`` where
        somebody cancelled it; until it ``ends``, any of these but ``running`` and ``paused``. A request that is
        there already, with
        the same content, changes nothing: its status is returned.

        Args:
            document: the request.
            until: ``runs``, or ``ends`` for a job.
            timeout: seconds.
            on_event: called for each status and decision on the way.

        Raises:
            InvalidDocument: the request breaks its schema; with every problem by field.
            RequestTimeout: not settled in time; it goes on by itself.
            Unavailable: the bus did not acknowledge it.
        """
        request, deployment = _read(document)
        before = await self._last_status(deployment)
        same = before is not None and before.spec == request.spec_hash()
        ended = same and before is not None and before.state in ("stopping", "stopped")
        if before is not None and same and not ended and self.settled(before, until):
            await self.request(request)
            if on_event:
                on_event(before)
            return before
        sequence, generation = (before.sequence, before.generation) if before else (0, 0)
        last: DeploymentStatus | None = None
        try:
            # Watched before it is published, or its first steps would be over before we look.
            async with asyncio.timeout(timeout), self._story(deployment, sequence, generation) as story:
                await self.request(request)
                async for event in story:
                    if on_event:
                        on_event(event)
                    if isinstance(event, DeploymentStatus):
                        last = event
                        # What was cancelled comes back in another generation; its old end is not ours.
                        ours = not ended or event.generation > generation
                        if event.spec == request.spec_hash() and ours and self.settled(event, until):
                            return event
        except TimeoutError:
            state = f"it is {last.state}: {last.message}" if last else "nobody has answered; is vim running?"
            raise RequestTimeout(f"{deployment} has not settled within {timeout:g} s; {state}") from None
        raise RequestTimeout(f"the stream of {deployment} ended")

    @staticmethod
    def settled(status: DeploymentStatus, until: Until = "runs") -> bool:
        """Whether a status answers "did it come up?", or "how did it end?"."""
        states = SETTLED_STATES if until == "runs" else SETTLED_STATES - {"running", "paused"}
        return status.state in states or status.reason == "UpdateRejected"

    async def events(
        self, deployment: str, *, after: int | None = None
    ) -> AsyncIterator[DeploymentStatus | Decision]:
        """Statuses and decisions of one deployment as they come, for ever.

        Args:
            deployment: its id.
            after: the sequence after which statuses are new; None begins with the last ones.
        """
        async with self._story(deployment, after, None if after is None else 0) as story:
            async for event in story:
                yield event

    @asynccontextmanager
    async def _story(
        self, deployment: str, sequence: int | None, generation: int | None
    ) -> AsyncIterator[AsyncIterator[DeploymentStatus | Decision]]:
        """Statuses after ``sequence`` and decisions after ``generation``, each decision before its outcome."""
        subjects = self.bus.subjects
        # Two watches: a user's credential may read one subject of deployments a consumer.
        async with (
            self.bus.watch({subjects.status(deployment): DeploymentStatus}) as statuses,
            self.bus.watch({subjects.decision(deployment): Decision}) as decisions,
            aclosing(merged(decisions, statuses)) as items,
        ):
            yield _in_order(items, sequence, generation)

    async def _last_status(self, deployment: str) -> DeploymentStatus | None:
        subject = self.bus.subjects.status(deployment)
        stored = await self.bus.jetstream.last(stream_of(subject).name(self.bus.minicloud), subject)
        return read_event(stored[1], DeploymentStatus).data if stored else None

    async def cancel(self, deployment: str, reason: str = "") -> None:
        """Wish that a deployment ends; whether it has, :meth:`events` tells.

        Raises:
            InvalidName: that is no id.
            Unavailable: the bus did not acknowledge it.
        """
        await self.bus.publish(
            self.bus.subjects.cancel(deployment), Cancellation(reason=reason), about=deployment
        )

    async def scale(self, deployment: str, replicas: int) -> Wished:
        """Wish for another number of replicas; nothing else of the request changes, whoever else changes it.

        Raises:
            NotFound: there is none of that id; names those that are like it.
            Conflict: it was cancelled.
            Unavailable: no vim answers.
        """
        return await self._wish("scale", deployment, replicas=replicas)

    async def pause(self, deployment: str) -> Wished:
        """Wish that every replica stands still where it is; raises as :meth:`scale`."""
        return await self._wish("pause", deployment)

    async def resume(self, deployment: str) -> Wished:
        """Wish that every replica goes on; raises as :meth:`scale`."""
        return await self._wish("resume", deployment)

    async def migrate(
        self,
        deployment: str,
        *,
        replica: int | None = None,
        origin: str | None = None,
        to: str | None = None,
        reason: str = "",
    ) -> Wished:
        """Wish that replicas run on another node; raises as :meth:`scale`, also for a replica or node that is not there.

        Args:
            deployment: its id.
            replica: which one; all unless given.
            origin: only what runs there.
            to: the node to which; any other that fits unless given.
            reason: why, for whoever reads it.
        """
        more = {"replica": replica, "from": origin, "to": to, "reason": reason or None}
        return await self._wish(
            "migrate", deployment, **{name: value for name, value in more.items() if value is not None}
        )

    async def _wish(self, verb: str, deployment: str, **more: Any) -> Wished:
        answer = await self.bus.request("vim", verb, {"deployment": deployment, **more}, timeout=10.0)
        return Wished.model_validate(answer)

    async def whatif(self, document: dict[str, Any] | DeploymentRequest) -> Decision:
        """What would be decided of a request now, with every candidate and rejection; nothing is done.

        Raises:
            InvalidDocument: it would be rejected; with every problem by field.
            Unavailable: no vim answers, or the resource index does not.
        """
        request = (
            document
            if isinstance(document, DeploymentRequest)
            else read_document(document, DeploymentRequest)
        )
        return Decision.model_validate(await self.bus.request("vim", "whatif", request, timeout=15.0))

    async def life(
        self, deployment: str, *, since: int | None = None, follow: bool = False
    ) -> AsyncGenerator[tuple[int, DeploymentStatus | Decision], None]:
        """The statuses and decisions of a deployment from its beginning, as far as they are kept, in order.

        Args:
            deployment: its id.
            since: only those after this revision.
            follow: go on with what comes, for ever.

        Yields:
            The revision of each, and what it says.

        Raises:
            TooOld: ``since`` is no longer kept.
        """
        async with aclosing(lifecycle(self.bus, deployment, since=since)) as told:
            async for one in told:
                if one.kind is None and not follow:
                    return
                # Something else may lie there; whoever met it first buried it.
                with suppress(InvalidDocument):
                    if one.kind == "status":
                        yield one.revision, read_event(one.payload, DeploymentStatus).data
                    elif one.kind == "decision":
                        yield one.revision, read_event(one.payload, Decision).data

    async def deployments(self) -> list[dict[str, Any]]:
        """Every deployment with its state and replicas.

        Raises:
            Unavailable: no vim answers.
        """
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            answer = await self.bus.request("vim", "list", {"after": after})
            found += answer["deployments"]
            after = answer["next"]
        return found

    async def deployment(self, deployment: str) -> dict[str, Any]:
        """One deployment with its last decision and status.

        Raises:
            NotFound: there is none of that id; names those that are like it.
            Unavailable: no vim answers.
        """
        answer: dict[str, Any] = await self.bus.request("vim", "get", {"deployment": deployment})
        return answer

    async def query(self, question: str | dict[str, Any] | Query = "", **more: Any) -> Answer:
        """Ask the resource index, in the short form or as a query document.

        Args:
            question: ``"cpu.cores>=4,!battery"``, ``{"where": {...}, "limit": 3}``, or a Query.
            more: other parts of the query beside a short form: ``limit=3, fields=["name"]``.

        Raises:
            InvalidQuery: names the unknown field or operator and its nearest neighbour.
            Unavailable: no rid answers.
        """
        if isinstance(question, str):
            question = {"where": parse_shortform(question) if question.strip() else {}, **more}
        query = question if isinstance(question, Query) else read_document(question, Query)
        return Answer.model_validate(await self.bus.request("rid", "query", query, timeout=10.0))

    async def watch(self, *, since: int | None = None) -> AsyncIterator[Change]:
        """Resource changes: ``ITEM… SYNC (CHANGE|BOOKMARK)…``, without a gap and for ever.

        Args:
            since: a revision to resume after, from an earlier watch or an answer.

        Raises:
            TooOld: ``since`` is no longer kept.
        """
        async with self.bus.watch({self.bus.subjects.resource(): ResourceChange}, since=since) as items:
            async for item in items:
                yield Change(item.kind, item.revision, item.event.data if item.event else None)

    async def watch_query(
        self, question: str | dict[str, Any], *, since: int | None = None
    ) -> AsyncIterator[Match]:
        """A standing query: ``ITEM… SYNC (ENTER|UPDATE|LEAVE|BOOKMARK)…``, without a gap and for ever.

        Args:
            question: in the short form or as a query document.
            since: a revision to resume after, from an earlier watch or an answer.

        Raises:
            InvalidQuery: names what is wrong with the question.
            TooOld: ``since`` is no longer kept.
        """
        asked = {"where": question} if isinstance(question, str) else question
        async with standing(self.bus, asked, since=since) as told:
            async for one in told:
                gone = {"name": one.node} if one.node else None
                yield Match(one.kind, one.revision, one.attributes if one.attributes is not None else gone)

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
        found = await last_printed(self.bus, deployment, replica=replica, tail=tail)
        return {one.workload: one.lines for one in found}

    async def follow_logs(
        self, deployment: str, *, replica: int | None = None, tail: int = 100, every: float = 0.5
    ) -> AsyncIterator[tuple[str, list[str]]]:
        """The last lines of each replica, then what they say, as ``(workload, lines)``, until the deployment ends.

        Args:
            deployment: its id.
            replica: only this one.
            tail: lines of each to begin with.
            every: seconds between two looks.

        Raises:
            NotFound: no such deployment or replica.
            Unavailable: no vim answers.
        """
        following = follow_printed(self.bus, deployment, replica=replica, tail=tail, every=every)
        async for workload, lines in following:
            yield workload, lines


def _read(document: dict[str, Any] | DeploymentRequest) -> tuple[DeploymentRequest, str]:
    """The request and the deployment that it is for."""
    request = (
        document if isinstance(document, DeploymentRequest) else read_document(document, DeploymentRequest)
    )
    if request.deployment is None:
        raise InvalidDocument("a deployment needs a name", field="name", expected="a token, such as hello")
    return request, request.deployment


async def _in_order(
    items: AsyncIterator[WatchItem[Any]], sequence: int | None, generation: int | None
) -> AsyncIterator[DeploymentStatus | Decision]:
    """What is new of two watches as it was published: accepted, decided, scheduled.

    Two watches keep no order between them, so a decision waits for a status of its generation, and a status
    that tells an outcome for the decision.
    """
    decided, told = 0, 0  # generations
    decision: Decision | None = None
    held: list[DeploymentStatus] = []
    async for item in items:
        data = item.event.data if item.event else None
        if isinstance(data, Decision):
            decided = data.generation
            if generation is None or data.generation > generation or item.kind == "CHANGE":
                decision = data
        elif isinstance(data, DeploymentStatus):
            told = max(told, data.generation)
            if sequence is None or data.sequence > sequence:
                held.append(data)
        if held and held[0].state == "accepted":
            yield held.pop(0)
        if decision and decision.generation <= told:
            yield decision
            decision = None
        while held and not (held[0].state in _DECIDED and held[0].generation > decided):
            yield held.pop(0)


def connect(data: Path | str | None = None, *, timeout: float = 2.0) -> Connecting[Minicloud]:
    """Connect as a user: to the stack of a data folder, or where ``MINICLOUD_*`` settings say.

    ::

        async with minicloud.connect() as cloud:
            ...

    Args:
        data: the data folder; by default ``MINICLOUD_BROKER`` decides, then ``MINICLOUD_DATA``, then ``.data``.
        timeout: seconds to wait for a broker that does not answer.

    Raises:
        Unavailable: no minicloud is running there, or its certificate cannot be checked.
        Forbidden: the credential is refused; or, at any time inside, it is revoked.
        InvalidDocument: a setting cannot be used.
    """
    return Connecting(_connected(Path(data) if data else None, timeout))


@asynccontextmanager
async def _connected(data: Path | None, timeout: float) -> AsyncIterator[Minicloud]:
    if not structlog.is_configured():  # a library keeps quiet on standard output
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    site = Site.find(data)
    bus = await Bus.connect(site.endpoint(f"user-{os.getpid()}"), site.minicloud, "user", timeout=timeout)
    try:
        async with while_welcome(bus, site):
            yield Minicloud(bus)
    finally:
        await bus.close()
