"""Standing queries: whoever asked once is told what comes, changes and goes (``schemas/standing.py``).

The sieve marks nodes, a :class:`Watcher` looks at each marked node when its reader has room for it, and
compares with what it told before. So of a node that changes often only the newest is told, a slow reader
costs nobody anything, and what a reader holds is the query's answer, however much was left out between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from schemas.attributes import Value
from schemas.errors import Conflict, InvalidQuery
from schemas.flatten import may_be_metric
from schemas.predicate import Predicate, conditions, matches
from schemas.query import Query
from schemas.standing import StandingItem, StandingKind
from services.rid.fresh import HEARD, aged, rewritten
from services.rid.index import Index
from services.rid.noting import Noting
from services.rid.sieve import BOUND, Interest, RowSieve, Sieve

#: Seconds between two siftings: what is written between them is sifted together.
_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
#: A pause is so many times as long as the sifting before it took, so that there is always time for others.
_REST: Final = 6
#: How many standing queries there may be.
MOST: Final = 10_000
_AGE: Final = "age"
_MEAN: Final = ".mean."


class Watcher:
    """One standing query and its reader: what it was told, what it is to be told.

    Attributes:
        revision: of the resource-change log; whoever was told SYNC and resumes after it misses nothing.
        timed: whether the mere passing of time changes what matches.
        on_means: whether a mean over time is asked about.
        lasting: whether each change of what matches is in the resource-change log: no metric is asked about.
    """

    def __init__(
        self, standing: Standing, interest: Interest, predicate: Predicate, fields: list[str] | None
    ) -> None:
        self._standing = standing
        self._interest = interest
        self._predicate = predicate
        self._fields = fields
        #: What the reader holds: a mark of each node's attributes, None where they are not known.
        self._told: dict[str, int | None] = {}
        self._backlog: deque[str] = deque()
        self._again: deque[str] = deque()
        self._opening = True
        self._announce = False
        self._opened_at = 0
        self._news = asyncio.Event()
        self._closed = False
        asked = {condition.attribute for condition in conditions(predicate)}
        self.timed = _AGE in asked
        self.on_means = any(_MEAN in name for name in asked.union(fields or ()))
        self.lasting = not self.timed and not any(map(may_be_metric, asked))
        #: What a look has to read: what is told, and what decides.
        self._needed = None if fields is None else list(dict.fromkeys([*fields, *asked, HEARD]))
        self.revision = 0

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to come."""
        return self._closed

    def begin(self, *, anew: bool = False) -> None:
        """Tell all that match, from the beginning.

        Args:
            anew: the reader holds something that it must forget.
        """
        self._announce = anew
        self._backlog = deque(self._interest.begin())
        self._told.clear()
        self._again.clear()
        self._opening, self._opened_at = True, self._standing.settled

    def look_again(self) -> None:
        """More changed than is worth marking node by node: look at all that the reader holds."""
        self._again = deque(self._told)
        self._news.set()

    def resume(self, since: int, touched: Iterable[str]) -> None:
        """The reader holds what matched at revision ``since``; ``touched`` are the nodes in the log after it."""
        self.revision = since
        members = self._interest.begin()
        self._backlog.clear()
        self._again = deque(dict.fromkeys(touched))
        # What exactly it was told of them is not known: only that it holds them.
        self._told = dict.fromkeys(members)
        for node in self._again:
            self._told[node] = None
        self._opening, self._opened_at = True, self._standing.settled

    def close(self) -> None:
        """Tell no more."""
        if not self._closed:
            self._closed = True
            self._standing.forget(self)
            self._news.set()

    def wake(self) -> None:
        """There may be news."""
        if self._interest.waiting:
            self._news.set()

    def retime(self) -> None:
        """Time has passed."""
        self._standing.sieve.again(self._interest, rewritten(self._predicate, self._standing.now()))
        self.wake()

    async def news(self, within: float) -> None:
        """Wait until there is something to tell, for ``within`` seconds at most."""
        if not self.behind:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), within)

    @property
    def behind(self) -> bool:
        """Whether there is something to tell now."""
        return self._opening or self._closed or bool(self._again) or self._interest.waiting

    def bookmark(self) -> StandingItem:
        """Where the reader stands."""
        if not self.behind:
            self.revision = max(self.revision, self._standing.sifted)
        return self._item("BOOKMARK")

    def pull(self, most: int) -> list[StandingItem]:
        """What there is to tell, at most about that many nodes; possibly nothing."""
        items: list[StandingItem] = []
        if self._interest.overflown and not self._opening:
            self.begin(anew=True)
        if self._announce:
            self._announce = False
            items.append(self._item("RESYNC"))
        if self._opening:
            self._open(items, most)
            return items
        sifted = self._standing.sifted
        while self._again and len(items) < most:
            items.extend(self._look(self._again.popleft()))
        for node in self._interest.take(max(0, most - len(items))):
            items.extend(self._look(node))
        if sifted > self.revision and not self._again and not self._interest.waiting:
            self.revision = sifted
            if items:
                items[-1].revision = sifted
        return items

    def _open(self, items: list[StandingItem], most: int) -> None:
        """The present state, in parts; then SYNC."""
        if self._interest.overflown:
            # More changed than may wait, while we are still telling the beginning: look at all of it again.
            self._backlog = deque(node for node in self._interest.begin() if node not in self._told)
            self._again = deque(self._told)
        while self._backlog and len(items) < most:
            node = self._backlog.popleft()
            if node not in self._told:
                items.extend(self._look(node, "ITEM"))
        while self._again and len(items) < most:
            items.extend(self._look(self._again.popleft()))
        if not self._backlog and not self._again:
            self._opening = False
            self.revision = max(self.revision, self._opened_at)
            items.append(self._item("SYNC"))

    def _look(self, node: str, entering: StandingKind = "ENTER") -> list[StandingItem]:
        """What to tell of a node after looking at it now."""
        row = self._standing.index.get(node, self._needed)
        now = self._standing.now()
        predicate = rewritten(self._predicate, now) if self.timed else self._predicate
        member = row is not None and matches(predicate, row)
        self._interest.settle(node, member=member)
        if row is None or not member:
            if node not in self._told:
                return []
            del self._told[node]
            return [self._item("LEAVE", node)]
        attributes = self._document(row, now)
        mark = _mark(attributes)
        if node not in self._told:
            self._told[node] = mark
            return [self._item(entering, node, attributes)]
        if self._told[node] == mark:
            return []
        self._told[node] = mark
        return [self._item("UPDATE", node, attributes)]

    def _document(self, row: dict[str, Value], now: float) -> dict[str, Any]:
        whole = aged(row, now)
        if self._fields is None:
            return whole
        return {name: whole[name] for name in self._fields if name in whole}

    def _item(
        self, kind: StandingKind, node: str | None = None, attributes: dict[str, Any] | None = None
    ) -> StandingItem:
        return StandingItem(kind=kind, revision=self.revision, node=node, attributes=attributes)


class Standing:
    """The standing queries of one rid.

    Args:
        index: what they ask.
        revision: the last revision of the resource-change log that is part of the index.
        whole: the predicate of a query with what goes without saying, such as that lost nodes are left out.
        clock: seconds since the epoch.
        bound: how many marked nodes one reader may have waiting; beyond, it is told RESYNC.

    Attributes:
        index: the index itself.
        sieve: what concerns whom.
        written: the index for its writer.
        settled: a revision that everything up to has surely been written and sifted.
        sifted: the same, as of the last sifting.
    """

    def __init__(
        self,
        index: Index,
        revision: Callable[[], int],
        whole: Callable[[Query], Predicate],
        clock: Callable[[], float] = time.time,
        bound: int = BOUND,
    ) -> None:
        self.index = index
        self.sieve: Sieve = _sieve(index)
        self.written = Noting(index, self.sieve, self._on_write)
        self.now = clock
        self.settled = 0
        self.sifted = 0
        self._newest = 0
        self._revision = revision
        self._whole = whole
        self._bound = bound
        self._dirty = asyncio.Event()
        self._sifting = False
        self._watchers: dict[Watcher, Interest] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def add(self, query: Query) -> Watcher:
        """A standing query; its reader begins with all that match now.

        Raises:
            InvalidQuery: it has parts that mean nothing for a standing query.
            Conflict: there are too many.
        """
        for part in ("sort", "limit", "explain"):
            if part in query.model_fields_set:
                raise InvalidQuery(
                    "a standing query tells of every node that matches, in no order",
                    field=part,
                    expected="where, fields and scope",
                )
        if len(self._watchers) >= MOST:
            raise Conflict("there are too many standing queries here", expected=f"at most {MOST}")
        predicate = self._whole(query)
        fields = None if query.fields is None else list(dict.fromkeys(["name", *query.fields]))
        told = None if fields is None else frozenset(fields) - {_AGE, HEARD}
        interest = self.sieve.add(rewritten(predicate, self.now()), told, self._bound)
        watcher = Watcher(self, interest, predicate, fields)
        watcher.begin()
        self._watchers[watcher] = interest
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """Its reader went."""
        interest = self._watchers.pop(watcher, None)
        if interest is not None:
            self.sieve.drop(interest)

    def close(self) -> None:
        """Every reader comes to its end."""
        for watcher in list(self._watchers):
            watcher.close()

    def settle(self) -> None:
        """Called each second: the log as it was a second ago is surely part of the index by now.

        Another rid may have written it, from events that reach us a little later.
        """
        self.settled, self._newest = self._newest, self._revision()
        for watcher in list(self._watchers):
            if watcher.timed:
                watcher.retime()
        if not self._dirty.is_set() and not self._sifting:
            self.sifted = self.settled

    def sampled(self) -> None:
        """The means over time were written, of every node at once."""
        for watcher in list(self._watchers):
            if watcher.on_means:
                watcher.retime()
                watcher.look_again()

    def whole_since(self, revision: int) -> None:
        """The index was read back, this revision included."""
        self.settled = self.sifted = self._newest = revision

    def sift(self) -> None:
        """Mark for all that was written, at once."""
        self._dirty.clear()
        settled = self.settled
        for _ in self.sieve.sift():
            pass
        self._sifted(settled)

    async def run(self) -> None:
        """Sift what is written, for ever."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._sifting, settled = True, self.settled
            busy, begun = 0.0, time.perf_counter()
            steps = self.sieve.sift()
            try:
                for _ in steps:
                    busy += time.perf_counter() - begun
                    await asyncio.sleep(0)
                    begun = time.perf_counter()
            finally:
                for _ in steps:  # cut short: what was written before is not forgotten
                    pass
            self._sifting = False
            self._sifted(settled)
            await asyncio.sleep(min(_LONGEST_PAUSE, max(_PAUSE, _REST * busy)))

    def _sifted(self, settled: int) -> None:
        self.sifted = max(self.sifted, settled)
        for watcher in list(self._watchers):
            watcher.wake()

    def _on_write(self) -> None:
        self._dirty.set()


def asks_for_age(predicate: Predicate, order: Iterable[tuple[str, bool]]) -> bool:
    """Whether an answer changes by the mere passing of time."""
    asked = {condition.attribute for condition in conditions(predicate)}
    return _AGE in asked.union(name for name, _ in order)


def _sieve(index: Index) -> Sieve:
    try:
        from services.rid.columns import ColumnIndex  # noqa: PLC0415 - NumPy may be missing
        from services.rid.sieve_columns import ColumnSieve  # noqa: PLC0415
    except ImportError:
        return RowSieve(index)
    return ColumnSieve(index) if isinstance(index, ColumnIndex) else RowSieve(index)


def _mark(attributes: dict[str, Any]) -> int:
    """What tells one document from another, in little room; the age is no difference."""
    return hash(
        frozenset(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in attributes.items()
            if name != _AGE
        )
    )
