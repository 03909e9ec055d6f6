"""Which nodes changed since when: what lets a copy of the index catch up without reading it whole.

In: a note for each change. Out: numbered blocks of a few hundred nodes. A node is in the block of its last
change only, once for all of it and once for its metrics, so that a slow reader gets newest states, no node
twice, and the journal is never larger than the index.
"""

from __future__ import annotations

from typing import Final

from schemas.event import new_id

#: Nodes a block: what one message carries with ease.
BLOCK: Final = 400


class _Lane:
    """Nodes in the numbered block of their last change of one kind."""

    def __init__(self) -> None:
        self.open: dict[str, None] = {}
        self.blocks: dict[int, dict[str, None]] = {}
        self._home: dict[str, dict[str, None]] = {}

    def move(self, node: str) -> None:
        home = self._home.get(node)
        if home is self.open:
            return
        if home is not None:
            del home[node]
        self.open[node] = None
        self._home[node] = self.open

    def drop(self, node: str) -> None:
        home = self._home.pop(node, None)
        if home is not None:
            del home[node]

    def close(self, number: int) -> None:
        if self.open:
            self.blocks[number] = self.open
            self.open = {}

    def forget_empty(self) -> None:
        for number in [number for number, block in self.blocks.items() if not block]:
            del self.blocks[number]

    def later(self, number: int) -> list[int]:
        """The numbers of the blocks after one, newest first."""
        found = []
        for at in reversed(self.blocks):
            if at <= number:
                break
            found.append(at)
        return found


class Journal:
    """The blocks of one life of a rid.

    Attributes:
        epoch: names that life; block numbers of another mean nothing.
        sequence: the last block that is closed; 0 before there is any.
    """

    def __init__(self) -> None:
        self.epoch = new_id()[:16]
        self.sequence = 0
        self._whole = _Lane()
        self._metrics = _Lane()

    def note(self, node: str, whole: bool) -> None:
        """A node changed; ``whole`` if by more than its metrics."""
        if whole:
            self._whole.move(node)
            self._metrics.drop(node)
        elif node not in self._whole.open:
            # It stays in the block of its last whole change, too: who has not read that yet must get it all.
            self._metrics.move(node)
        if len(self._whole.open) + len(self._metrics.open) >= BLOCK:
            self.close()

    def close(self) -> int:
        """Close the open block, if anything is in it; the number of the last closed one."""
        if self._whole.open or self._metrics.open:
            self.sequence += 1
            self._whole.close(self.sequence)
            self._metrics.close(self.sequence)
        return self.sequence

    def since(self, number: int, most: int = BLOCK) -> tuple[dict[str, bool], int]:
        """What changed after a block.

        Args:
            number: the block up to which the reader has all.
            most: nodes, unless a single block has more.

        Returns:
            Nodes, each with whether it changed by more than its metrics; and the block up to which they go.
        """
        self._whole.forget_empty()
        self._metrics.forget_empty()
        found: dict[str, bool] = {}
        for at in sorted({*self._whole.later(number), *self._metrics.later(number)}):
            whole, metrics = self._whole.blocks.get(at, {}), self._metrics.blocks.get(at, {})
            if found and len(found) + len(whole) + len(metrics) > most:
                return found, at - 1
            found.update(dict.fromkeys(whole, True))
            found.update({node: False for node in metrics if node not in found})
        return found, self.sequence
