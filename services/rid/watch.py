"""The resource-change log: which changes of which nodes are worth an event, and when.

In: notes that a node changed. Out: the changes that are due, each with the revision that it must
follow, so that of two writers one wins and the other learns. What was published last of each node is
remembered, also over a restart: a change is the difference to it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from schemas.attributes import Value
from schemas.event import now
from schemas.flatten import may_be_metric
from schemas.resource import ChangeKind, ResourceChange


@dataclass(frozen=True, slots=True)
class Published:
    """The last event of a node.

    Attributes:
        revision: in the log; 0 where there is none.
        attributes: what it said.
        at: when we sent or saw it, seconds on a monotonic clock.
        observed: when what it says was so, seconds since the epoch.
    """

    revision: int = 0
    attributes: Mapping[str, Any] | None = None
    at: float = float("-inf")
    observed: float = 0.0


@dataclass(frozen=True, slots=True)
class Due:
    """A change to publish, right after revision ``follows`` of its node."""

    change: ResourceChange
    follows: int


#: What a node is now: its attributes without its age, and whether its agent went in order; None if unknown.
Look = Callable[[str], tuple[dict[str, Value], bool] | None]


class ChangeLog:
    """What was published and what is to be.

    Args:
        look: what a node is now.
        metrics_every: seconds between events of a node for its metrics alone.
        material: the part by which a metric must have moved to be worth an event.
        clock: monotonic seconds.

    Attributes:
        revision: the last one seen in the log.
    """

    def __init__(
        self,
        look: Look,
        metrics_every: float = 30.0,
        material: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._metrics_every = metrics_every
        self._material = material
        self._clock = clock
        self._published: dict[str, Published] = {}
        self._urgent: dict[str, None] = {}
        self._measured: dict[str, None] = {}
        self._times: list[tuple[float, str]] = []
        self.revision = 0

    def note(self, node: str, urgent: bool) -> None:
        """A node changed; ``urgent`` if perhaps by more than its metrics."""
        if urgent:
            self._urgent[node] = None
        elif node not in self._measured:
            self._measured[node] = None
            heapq.heappush(self._times, (self.last(node).at + self._metrics_every, node))

    def seen(self, change: ResourceChange, revision: int) -> None:
        """An event of the log, ours or another's."""
        self.revision = max(self.revision, revision)
        if revision > self.last(change.node).revision:
            self._published[change.node] = Published(
                revision, change.attributes, self._clock(), change.observed_at.timestamp()
            )

    def restore(self, node: str, published: Published) -> None:
        """What was published last of a node when that was last kept."""
        self._published[node] = replace(published, at=self._clock())
        self.revision = max(self.revision, published.revision)

    def begin_anew(self) -> None:
        """The log is another one: what was published before is not in it, so all is news."""
        for node in self._published:
            self._urgent[node] = None
        self._published.clear()
        self.revision = 0

    def dropped(self, node: str) -> None:
        """The log no longer keeps the last event of a node; what that said stays said."""
        self._published[node] = replace(self.last(node), revision=0)

    def everything(self) -> Mapping[str, Published]:
        """The last event of every node."""
        return self._published

    def last(self, node: str) -> Published:
        """The last event of a node."""
        return self._published.get(node, Published())

    def reset(self, node: str, revision: int) -> None:
        """The log's last revision of a node is another than we knew; what it says is not known."""
        self._published[node] = Published(revision, None, self._clock())

    def due(self, most: int = 1_000_000) -> list[Due]:
        """The changes to publish now; each is handed out once, so what fails must be noted again.

        Args:
            most: how many nodes to look at; the rest stays for the next call.
        """
        changes = []
        for node in self._ripe(most):
            due = self._change(node)
            if due is None:
                continue
            if not self._by_metrics_alone(due.change):
                changes.append(due)
            elif self._clock() - self.last(node).at < self._metrics_every:
                self.note(node, urgent=False)
            elif self._is_material(due.change):
                changes.append(due)
        return changes

    @property
    def pending(self) -> bool:
        """Whether some node is to be looked at now."""
        return bool(self._urgent) or bool(self._times and self._times[0][0] <= self._clock())

    def _ripe(self, most: int) -> list[str]:
        """Up to ``most`` nodes to look at, the urgent ones first."""
        nodes = list(islice(self._urgent, most))
        for node in nodes:
            del self._urgent[node]
        moment = self._clock()
        while len(nodes) < most and self._times and self._times[0][0] <= moment:
            _, node = heapq.heappop(self._times)
            del self._measured[node]
            nodes.append(node)
        return list(dict.fromkeys(nodes))

    def _change(self, node: str) -> Due | None:
        present = self._look(node)
        if present is None:
            return None
        attributes, left = present
        last = self.last(node)
        before = last.attributes or {}
        changed: dict[str, Any] = {
            name: value for name, value in attributes.items() if before.get(name) != value
        }
        changed.update(dict.fromkeys(before.keys() - attributes.keys()))
        if not changed and last.attributes is not None:
            return None
        kind = _kind(last.attributes, attributes, left=left)
        change = ResourceChange(
            node=node, kind=kind, changed=changed, attributes=attributes, observed_at=now()
        )
        return Due(change, last.revision)

    def _by_metrics_alone(self, change: ResourceChange) -> bool:
        return self.last(change.node).attributes is not None and all(map(may_be_metric, change.changed))

    def _is_material(self, change: ResourceChange) -> bool:
        before = self.last(change.node).attributes or {}
        return any(
            not isinstance(value, (int, float))
            or not isinstance(before.get(name), (int, float))
            or abs(value - before[name]) > self._material * max(abs(value), abs(before[name]))
            for name, value in change.changed.items()
        )


def _kind(before: Mapping[str, Any] | None, after: Mapping[str, Any], *, left: bool) -> ChangeKind:
    if before is None:
        return "joined"
    was, now_is = before.get("state"), after.get("state")
    if was == now_is:
        return "changed"
    if now_is == "lost":
        return "left" if left else "lost"
    return "stale" if now_is == "stale" else "returned"
