"""Windows over metrics: mean, maximum and rate of 5, 10 and 15 minutes per node (seed, Table 1).

Samples in, by the moment at which they were taken, in any order. A window of 5 minutes is the minute at hand
and the five before, so any engine that sorts samples into whole minutes gives the same answer. Of each minute
only count, sum, maximum and the first sample are kept: 768 bytes a metric of a node, whatever it sends.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.attributes import WINDOWS

MINUTE: Final = 60.0
#: Whole minutes of the longest window, and the one at hand.
SLOTS: Final = max(WINDOWS.values()) + 1
#: A minute: which one it is, how many samples, their sum, the largest, and when and what the first was.
_WIDTH: Final = 6
_EMPTY: Final = array("d", [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0] * SLOTS)


@dataclass(frozen=True, slots=True)
class Figures:
    """One metric over one window.

    Attributes:
        mean: of the samples.
        maximum: the largest.
        rate: change a second from the first sample to the last; None where they are one.
        samples: how many there were.
    """

    mean: float
    maximum: float
    rate: float | None
    samples: int


class _Series:
    """The last minutes of one metric of one node."""

    __slots__ = ("cells", "last_at", "last_value")

    def __init__(self) -> None:
        self.cells = _EMPTY[:]
        self.last_at = float("-inf")
        self.last_value = 0.0

    def add(self, at: float, value: float) -> None:
        minute = at // MINUTE
        cells, base = self.cells, int(minute) % SLOTS * _WIDTH
        held = cells[base]
        if held != minute:
            if held > minute:
                return  # older than every window
            cells[base] = minute
            cells[base + 1], cells[base + 2] = 1.0, value
            cells[base + 3], cells[base + 4], cells[base + 5] = value, at, value
        else:
            cells[base + 1] += 1.0
            cells[base + 2] += value
            cells[base + 3] = max(cells[base + 3], value)
            if at < cells[base + 4]:
                cells[base + 4], cells[base + 5] = at, value
        if at > self.last_at:
            self.last_at, self.last_value = at, value

    def over(self, minutes: int, now: float) -> Figures | None:
        cells = self.cells
        newest = now // MINUTE
        count = total = 0.0
        largest = float("-inf")
        first_at, first_value = float("inf"), 0.0
        for back in range(minutes + 1):
            minute = newest - back
            base = int(minute) % SLOTS * _WIDTH
            if cells[base] != minute:
                continue
            count += cells[base + 1]
            total += cells[base + 2]
            largest = max(largest, cells[base + 3])
            if cells[base + 4] < first_at:
                first_at, first_value = cells[base + 4], cells[base + 5]
        if not count:
            return None
        passed = self.last_at - first_at
        rate = (self.last_value - first_value) / passed if passed > 0 else None
        return Figures(total / count, largest, rate, int(count))


class Windows:
    """The windows of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, _Series]] = {}

    def add(self, node: str, at: float, values: Mapping[str, float]) -> None:
        """Take in a sample of a node, taken at ``at`` seconds since the epoch and no later than now."""
        held = self._nodes.get(node)
        if held is None:
            held = self._nodes[node] = {}
        for metric, value in values.items():
            series = held.get(metric)
            if series is None:
                series = held[metric] = _Series()
            series.add(at, value)

    def mean(self, node: str, metric: str, window: str, now: float) -> float | None:
        """The mean of one metric of a node; None where there was no sample."""
        series = self._nodes.get(node, {}).get(metric)
        found = series.over(WINDOWS[window], now) if series else None
        return found.mean if found else None

    def of(self, node: str, window: str, now: float) -> Iterator[tuple[str, Figures]]:
        """Every metric of a node that had samples within a window, by name.

        Args:
            node: whose.
            window: one of :data:`schemas.attributes.WINDOWS`.
            now: seconds since the epoch, no earlier than any sample.
        """
        for metric, series in sorted(self._nodes.get(node, {}).items()):
            found = series.over(WINDOWS[window], now)
            if found is not None:
                yield metric, found

    def sweep(self, now: float) -> None:
        """Let go of metrics that no window holds any more."""
        oldest = now - SLOTS * MINUTE
        for node, held in list(self._nodes.items()):
            gone = [metric for metric, series in held.items() if series.last_at < oldest]
            for metric in gone:
                del held[metric]
            if not held:
                del self._nodes[node]
