"""Running means of the foreseen metrics over 5, 10 and 15 minutes (seed, Table 1).

Every few seconds the present value of every node that is alive is added to the minute's sum: a mean over
time, whole columns at once, at no cost to an update. A mean of 5 minutes is that of the minute at hand
and the five before; after a restart, of what was heard since.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.attributes import METRICS, WINDOWS, mean_of
from services.rid.column import Column, Mask
from services.rid.column_numbers import Numbers

_MINUTE: Final = 60.0
#: Whole minutes of the longest window, and the one at hand.
SLOTS: Final = max(WINDOWS.values()) + 1


class _Ring:
    """One metric of all rows: sum and count a minute, 80 bytes a row."""

    def __init__(self, capacity: int) -> None:
        self.sums = np.zeros((SLOTS, capacity), np.float32)
        self.counts = np.zeros((SLOTS, capacity), np.uint8)

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        for name in ("sums", "counts"):
            held: npt.NDArray[Any] = getattr(self, name)
            grown = np.zeros((SLOTS, capacity), held.dtype)
            grown[:, : held.shape[1]] = held
            setattr(self, name, grown)


class Means:
    """The sums of all metrics, and the columns of their means."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}
        self._minute = 0

    def sampling(
        self, now: float, columns: MutableMapping[str, Column], alive: Mask, capacity: int
    ) -> Iterator[None]:
        """Add the present values and bring the means up to date, in steps, so that others get a turn.

        Args:
            now: seconds since the epoch.
            columns: the attributes; the columns of means are made among them.
            alive: the rows whose values count.
            capacity: how many rows there is room for.
        """
        slot = self._turn(int(now // _MINUTE))
        size = len(alive)
        for metric in METRICS:
            held = columns.get(metric)
            if held is None:
                continue
            ring = self._rings.get(metric)
            if ring is None:
                ring = self._rings[metric] = _Ring(capacity)
            values = held.keys(slice(0, size))
            counted = alive & ~np.isnan(values)
            np.add(
                ring.sums[slot, :size], values, out=ring.sums[slot, :size], where=counted, casting="same_kind"
            )
            ring.counts[slot, :size] += counted
            yield
            for window, minutes in WINDOWS.items():
                _column(columns, mean_of(metric, window), capacity).assign(self._mean(ring, minutes, size))
                yield

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        for ring in self._rings.values():
            ring.grow(capacity)

    def forget(self, row: int) -> None:
        """The node of a row left."""
        for ring in self._rings.values():
            ring.sums[:, row] = 0
            ring.counts[:, row] = 0

    def _turn(self, minute: int) -> int:
        """The slot of this minute, with those of the minutes gone by since emptied; time never turns back."""
        self._minute = self._minute or minute
        for gone in range(max(self._minute + 1, minute - SLOTS + 1), minute + 1):
            for ring in self._rings.values():
                ring.sums[gone % SLOTS] = 0
                ring.counts[gone % SLOTS] = 0
        self._minute = max(self._minute, minute)
        return self._minute % SLOTS

    def _mean(self, ring: _Ring, minutes: int, size: int) -> npt.NDArray[np.float32]:
        sums = np.zeros(size, np.float32)
        counts = np.zeros(size, np.uint16)
        for minute in range(self._minute - minutes, self._minute + 1):
            sums += ring.sums[minute % SLOTS, :size]
            counts += ring.counts[minute % SLOTS, :size]
        means = np.full(size, np.nan, np.float32)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means


def _column(columns: MutableMapping[str, Column], name: str, capacity: int) -> Numbers:
    held = columns.get(name)
    if not isinstance(held, Numbers) or not held.narrow:
        held = columns[name] = Numbers(capacity, narrow=True)
    return held
