"""The rank of each row by its node's name, so that a tie or an unsorted answer has one order.

One node that joins or leaves shifts the ranks above it in place; many at once are ranked anew when
somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np
import numpy.typing as npt

_FEW: Final = 64


class NameOrder:
    """Ranks by name, kept while rows come and go."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rank = np.zeros(0, np.float64)
        self._pending: dict[str, int] = {}
        self._rows: dict[str, int] = {}

    def add(self, name: str, row: int) -> None:
        """A node joined."""
        self._rows[name] = row
        self._pending[name] = row

    def discard(self, name: str) -> None:
        """A node left."""
        del self._rows[name]
        if self._pending.pop(name, None) is None:
            at = bisect_left(self._names, name)
            del self._names[at]
            self._rank[self._rank > at] -= 1

    def ranks(self, capacity: int) -> npt.NDArray[np.float64]:
        """The rank of each of ``capacity`` rows, exact for those that are in use."""
        if len(self._rank) < capacity:
            self._rank = np.concatenate([self._rank, np.zeros(capacity - len(self._rank))])
        if len(self._pending) > _FEW:
            self._names = sorted(self._rows)
            rows = np.fromiter((self._rows[name] for name in self._names), np.intp, len(self._names))
            self._rank[rows] = np.arange(len(rows))
        else:
            for name, row in self._pending.items():
                at = bisect_left(self._names, name)
                self._names.insert(at, name)
                self._rank[self._rank >= at] += 1
                self._rank[row] = at
        self._pending.clear()
        return self._rank
