"""rid, wired: five watches in; answers over the bus and HTTP, and the resource-change log out.

Every rid of a minicloud indexes and answers; the one that holds the lease writes the log, and the
others follow it, so that any of them can go on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import BaseModel, RootModel

from bus.bus import Bus
from bus.follow import check_speaker, follow
from bus.frame import Frame
from bus.streams import stream_of
from bus.watch import WatchItem
from schemas.attributes import Value
from schemas.cluster import ClusterNode
from schemas.errors import Conflict, InvalidDocument, InvalidQuery, MinicloudError, Unavailable
from schemas.event import Event, EventData, read_event
from schemas.explained import Explanation
from schemas.liveness import Thresholds
from schemas.node import Characterization, Measurement, Presence
from schemas.query import Answer
from schemas.resource import ResourceChange
from schemas.sample import Sample, read_sample
from schemas.verbs import Nothing, QueryParts, WhichNode
from schemas.workload import DesiredWorkload, WorkerStatus
from services.rid.answer import Answers
from services.rid.api import from_parts, routes
from services.rid.deliver import Deliveries
from services.rid.federation import Federation
from services.rid.fresh import lasting
from services.rid.history import History
from services.rid.index import Index
from services.rid.ingest import Ingest
from services.rid.kept import KeptQueries
from services.rid.profile import profile
from services.rid.recovery import Recovery
from services.rid.rows import RowIndex
from services.rid.settings import RidSettings
from services.rid.standing import Standing, Watcher
from services.rid.subscribe import begin
from services.rid.watch import ChangeLog, Due

if TYPE_CHECKING:
    from bus.mqtt import MqttBus

log = structlog.get_logger("rid")
_TICK: Final = 1.0
_TOGETHER: Final = 32
_LOOKED_AT: Final = 4
#: So many events are taken in before others get a turn: a fifth of a millisecond of work.
_AT_ONCE: Final = 16


class _Ask(RootModel[dict[str, Any]]):
    """A query as it came; :func:`schemas.query.parse_query` reads it, knowing what the index holds."""


def new_index(settings: RidSettings) -> Index:
    """The engine that the settings name; without NumPy, rows."""
    if settings.engine != "rows":
        try:
            from services.rid.columns import ColumnIndex  # noqa: PLC0415 - NumPy may be missing
        except ImportError:
            if settings.engine == "columns":
                raise
            log.warning("no NumPy here: the plain-dict engine is fine to about a thousand nodes")
        else:
            return ColumnIndex(settings.most_attributes)
    return RowIndex(settings.most_attributes)


class Rid:
    """One rid."""

    def __init__(self, frame: Frame[RidSettings]) -> None:
        settings = frame.settings
        self._frame = frame
        self._bus: Bus = frame.bus
        self._lease = frame.bus.lease("rid", settings.instance)
        self._wake = asyncio.Event()
        self._whole = False
        self.index = new_index(settings)
        self.changes = ChangeLog(self._look, settings.metrics_every, settings.material)
        thresholds = Thresholds(settings.stale_after, settings.lost_after)
        self.answers = Answers(
            self.index,
            settings.minicloud,
            lambda: self.ingest.heard,
            lambda: self.changes.revision,
            began=time.time() if settings.means_every else None,
        )
        self.federation = Federation(frame, self.index, self.answers, lambda: self.changes.revision)
        self.standing = Standing(self.index, lambda: self.changes.revision, self.answers.whole)
        self.deliveries = Deliveries(self._bus, self.standing)
        self.kept = KeptQueries(
            self._bus, self.standing, self.answers.whole, self._connect_mqtt, lambda: self.publishing
        )
        self.history = History(self._bus, lambda: new_index(settings), self.changes.everything)
        self.ingest = Ingest(self.standing.written, thresholds, self._on_change)
        self._asked = frame.counter("rid_queries_total", "Queries answered or refused", "outcome")
        self._wrote = frame.counter("rid_changes_total", "Resource-change events published", "kind")
        nodes = frame.gauge("rid_nodes", "Nodes in the index")
        nodes.set_function(lambda: float(len(self.index)))
        refused = frame.gauge("rid_refused_values", "Values beyond the bound on attributes")
        refused.set_function(lambda: float(self.index.refused))
        self.recovery = Recovery(frame, self.ingest, self.changes)

    @property
    def publishing(self) -> bool:
        """Whether it is ours to write the resource-change log."""
        return self._lease.held

    async def run(self) -> None:
        """Read the levels back, then answer until asked to stop."""
        s = self._bus.subjects
        self._frame.routes += routes(self.answers, self._answer, self._begin, lambda: self._whole)
        gc.disable()  # what is read back stays: looking through it again and again would double the time
        try:
            await self.recovery.load()
            # The log first: what was published decides how a silent node is judged from the start.
            await self._follow({s.resource(): ResourceChange})
            await asyncio.gather(
                self._follow({s.characterization(): Characterization}),
                self._follow({s.presence(): Presence, s.worker(): WorkerStatus, s.cluster(): ClusterNode}),
                self._follow({s.desired(): DesiredWorkload}),
                self._follow({s.metrics(): Measurement}, read_sample),
            )
        finally:
            gc.enable()
        if self._frame.stopping.is_set():
            return  # told to stop, or a watch failed: the index is not whole
        self.recovery.adopt()
        await self._bus.serve("rid", "query", _Ask, self._query)
        await self._bus.serve("rid", "node", WhichNode, self._node)
        await self._bus.serve("rid", "nodes", QueryParts, self._nodes)
        await self._bus.serve("rid", "attributes", Nothing, self._attributes)
        await self._bus.serve("rid", "explain", _Ask, self._explain)
        self.standing.whole_since(self.changes.revision)
        await self.deliveries.start()
        await self.kept.start(self._frame.spawn)
        self._frame.spawn(self.standing.run())
        self._frame.spawn(self._tick())
        self._frame.spawn(self._sample(self._frame.settings.means_every))
        self._frame.spawn(self._hold_lease())
        self._frame.spawn(self._publish())
        self._frame.spawn(self.recovery.keep(lambda: self.publishing))
        await self.federation.start(lambda: new_index(self._frame.settings), lambda: self.publishing)
        # What was read back lives long: kept out of the collector, it costs no query a pause.
        gc.collect()
        gc.freeze()
        self._whole = True
        self._frame.say_ready()
        try:
            await self._frame.stopping.wait()
        finally:
            await self.recovery.close(lambda: self.publishing)
            await self.federation.stop()
            self.standing.close()
            await self.deliveries.stop()
            await self.kept.close()
            await self._lease.release()

    async def _follow(
        self, kinds: dict[str, type[EventData]], quick: Callable[[bytes], Sample | None] | None = None
    ) -> None:
        """Return once the present state is in; go on with what changes."""
        kept = stream_of(next(iter(kinds)))

        def take(event: Event[Any] | Sample, item: WatchItem[Any]) -> None:
            self.recovery.took(kept, self._take(event, item), item.revision)

        since = await self.recovery.since(kept)
        # In small parts, so that a query does not wait for the rest of a burst.
        await follow(self._frame, kinds, take, since=since, quick=quick, at_once=_AT_ONCE)

    def _take(self, event: Event[Any] | Sample, item: WatchItem[Any]) -> str:
        """Take in what came; the name of the node that it is about."""
        live = item.kind == "CHANGE"
        told = event if isinstance(event, Sample) else event.data
        node: str = told.node
        check_speaker(item.subject, node)
        if isinstance(event, Sample):
            self.ingest.sample(event, live=live)
        elif isinstance(told, ResourceChange):
            self.changes.seen(told, item.revision)
            if not live and told.attributes.get("state") in ("alive", "stale", "lost"):
                self.ingest.recall(node, told.attributes["state"])
        else:
            self.ingest.take(event, live=live)
        return node

    def _look(self, node: str) -> tuple[dict[str, Value], bool] | None:
        found = self.index.get(node)
        return (lasting(found), self.ingest.left(node)) if found is not None else None

    def _on_change(self, node: str, urgent: bool) -> None:
        self.changes.note(node, urgent)
        self.recovery.touch(node, urgent)
        self.federation.changed(node, urgent)
        if urgent:
            self._wake.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            for _ in self.ingest.ticking():
                await asyncio.sleep(0)
            self.standing.settle()

    async def _sample(self, every: float) -> None:
        while every:
            await asyncio.sleep(every)
            for _ in self.index.sampling(time.time()):
                await asyncio.sleep(0)
            self.standing.sampled()

    # -- answering -------------------------------------------------------------------------------

    async def _answer(self, document: Any) -> Answer:
        """The answer to a query document, now or as of a past moment."""
        if isinstance(document, dict) and document.get("at") is not None:
            return await self.history.query(document)
        return await self.federation.query(document)

    async def _begin(self, document: Any, since: int | None) -> Watcher:
        return await begin(self.standing, self._bus, document, since)

    async def _connect_mqtt(self) -> MqttBus:
        from bus.mqtt import MqttBus  # noqa: PLC0415 - only kept queries speak MQTT

        settings = self._frame.settings
        client = f"rid-{settings.minicloud}-{os.urandom(4).hex()}"
        return await MqttBus.connect(settings.mqtt, settings.endpoint("rid"), client, timeout=5.0)

    async def _query(self, ask: _Ask) -> bytes:
        try:
            answer = self._fitting(await self._answer(ask.root))
        except MinicloudError:
            self._asked.labels("refused").inc()
            raise
        self._asked.labels("answered").inc()
        return answer

    def _fitting(self, answer: BaseModel) -> bytes:
        """The answer as one message of the bus."""
        payload = answer.model_dump_json().encode()
        most = self._bus.wire.max_payload
        if len(payload) > most:
            raise InvalidQuery(
                f"the answer has {len(payload)} bytes, the broker takes {most}",
                field="limit",
                expected="fewer fields or a lower limit",
            )
        return payload

    async def _nodes(self, parts: QueryParts) -> bytes:
        return await self._query(_Ask(from_parts(list(parts.root.items()))))

    async def _node(self, which: WhichNode) -> dict[str, Any]:
        return self.answers.node(which.node)

    async def _attributes(self, _: Nothing) -> bytes:
        return self._fitting(self.answers.attributes())

    async def _explain(self, ask: _Ask) -> Explanation:
        return profile(self.answers, ask.root)

    # -- the change log --------------------------------------------------------------------------

    async def _hold_lease(self) -> None:
        while True:
            await self._lease.acquire()
            log.info("writing the resource-change log")
            self._wake.set()
            await self._lease.lost.wait()

    async def _publish(self) -> None:
        settled = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):  # wait_for of Python 3.11 may lose a cancellation
                    await self._wake.wait()
            self._wake.clear()
            while self.publishing and self.changes.pending:
                # Looked at a few at a time, so that no query waits for a fleet that joins.
                async with asyncio.TaskGroup() as sending:
                    for _ in range(_TOGETHER // _LOOKED_AT):
                        for one in self.changes.due(_LOOKED_AT):
                            sending.create_task(self._publish_one(one))
                        await asyncio.sleep(0)
            if self.publishing and not settled:
                settled = True
                gc.freeze()  # what was published of each node lives long, too

    async def _publish_one(self, due: Due) -> None:
        change = due.change
        subject = self._bus.subjects.resource(change.node)
        try:
            revision = await self._bus.publish(subject, change, about=change.node, expect=due.follows)
        except Conflict:
            # Another rid wrote it, or the log dropped what we followed: learn what is there, then look again.
            await self._learn(change.node, subject)
            self._on_change(change.node, urgent=True)
        except MinicloudError as error:
            log.warning("change not published yet", node=change.node, error=str(error))
            self.changes.note(change.node, urgent=True)
        else:
            self.changes.seen(change, revision)
            self._wrote.labels(change.kind).inc()

    async def _learn(self, node: str, subject: str) -> None:
        """Take in what the log says last of a node."""
        name = stream_of(subject).name(self._bus.minicloud)
        with contextlib.suppress(Unavailable):
            stored = await self._bus.jetstream.last(name, subject)
            if stored is None:
                self.changes.dropped(node)
                return
            try:
                self.changes.seen(read_event(stored[1], ResourceChange).data, stored[0])
            except InvalidDocument:
                self.changes.reset(node, stored[0])


async def serve(frame: Frame[RidSettings]) -> None:
    """Index and answer until asked to stop."""
    await frame.bus.ensure_streams()
    await Rid(frame).run()
