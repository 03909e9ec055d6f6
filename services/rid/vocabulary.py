"""Which attributes an index holds, within a bound: attributes are data, and data may run wild."""

from __future__ import annotations

from typing import Final

import structlog

from schemas.attributes import ATTRIBUTES

log = structlog.get_logger("rid")

#: How many attributes that nobody foresaw are held unless a setting says otherwise.
MOST: Final = 512


def foreseen(name: str) -> bool:
    """Whether an attribute is always held: those that are declared, and our own, which no node can name."""
    return name in ATTRIBUTES or name.startswith("@")


class Vocabulary:
    """The bound on attributes beyond those that are foreseen.

    Args:
        most: how many attributes beyond the foreseen ones.

    Attributes:
        refused: values that were left out because their attribute came too late.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._admitted: set[str] = set()
        self._warned: set[str] = set()
        self.refused = 0

    def has_room(self, name: str) -> bool:
        """Whether a value under this name could be kept."""
        return foreseen(name) or name in self._admitted or len(self._admitted) < self._most

    def admits(self, name: str) -> bool:
        """Whether a value under this name may be kept; warned once a name, counted each time."""
        if self.has_room(name):
            if not foreseen(name):
                self._admitted.add(name)
            return True
        self.refused += 1
        if name not in self._warned and len(self._warned) < self._most:
            self._warned.add(name)
            log.warning("attribute refused: too many", attribute=name, most=self._most)
        return False

    def release(self, name: str) -> None:
        """No node has it any more: its place is free."""
        self._admitted.discard(name)
