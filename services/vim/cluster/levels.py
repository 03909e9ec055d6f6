"""What the cluster should run, by deployment: the desired levels of this cluster's nodes, whatever came when.

In: levels from the bus with their revisions. Out: for each deployment and runtime the group of what is wanted,
superseded and ending. A replica that two nodes are told to run is on its way from one to the other: the level
that was written last says where to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from schemas.workload import DesiredWorkload
from services.vim.cluster.kind import Group, Want
from services.vim.cluster.names import Key

#: (node, replica)
Place = tuple[str, int]


class Levels:
    """The desired levels of one cluster.

    Args:
        cluster: whose levels are kept; those of others are not.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._levels: dict[str, dict[Place, Want]] = defaultdict(dict)

    def take(self, level: DesiredWorkload, revision: int) -> set[Key]:
        """A level was written; returns what is concerned."""
        place = (level.node, level.replica)
        before = self._levels[level.deployment].get(place)
        concerned = {Key(level.deployment, before.level.runtime)} if before else set()
        if level.cluster != self._cluster or level.driver != "kubernetes":
            self._levels[level.deployment].pop(place, None)
            return concerned  # it is somebody else's by now
        self._levels[level.deployment][place] = Want(level, revision)
        return {*concerned, Key(level.deployment, level.runtime)}

    def become(self, other: Levels) -> None:
        """What was read anew takes the place of all that was known."""
        self._levels = other._levels

    def keys(self) -> set[Key]:
        """Everything that some level speaks of."""
        return {
            Key(deployment, want.level.runtime)
            for deployment, wants in self._levels.items()
            for want in wants.values()
        }

    def group(self, key: Key) -> Group:
        """What should run of a deployment in one runtime."""
        wants: dict[int, Want] = {}
        superseded: list[Want] = []
        ending: list[Want] = []
        for want in self._of(key):
            if want.level.state == "stopped":
                ending.append(want)
                continue
            other = wants.get(want.level.replica)
            if other is None:
                wants[want.level.replica] = want
            elif _later(want, other):
                wants[want.level.replica] = want
                superseded.append(other)
            else:
                superseded.append(want)
        return Group(key, wants, superseded, ending)

    def others(self, key: Key) -> set[Key]:
        """The other runtimes of the same deployment that some level speaks of."""
        runtimes = {want.level.runtime for want in self._levels.get(key.deployment, {}).values()}
        return {Key(key.deployment, runtime) for runtime in runtimes if runtime != key.runtime}

    def _of(self, key: Key) -> Iterator[Want]:
        for want in self._levels.get(key.deployment, {}).values():
            if want.level.runtime == key.runtime:
                yield want


def _later(one: Want, other: Want) -> bool:
    return (one.level.generation, one.revision) > (other.level.generation, other.revision)
