"""The sieve over the column engine: what was written, in batches, against each standing query at once.

Writes are gathered by which attributes they carry. A batch touches only the standing queries that ask about
one of these; each distinct condition is tested once a batch; and a standing query compares the outcome with
one bit a node, whether it matched before. Where few rows were written only these are tested, else all of a
block, since a scan is ten times cheaper a row. Measured in ``bench/rid_standing.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.flatten import may_be_metric
from schemas.predicate import Condition, Every, Predicate, Some, conditions
from services.rid.column import Column, Mask
from services.rid.columns import ColumnIndex
from services.rid.fresh import HEARD
from services.rid.sieve import BOUND, Interest

RowArray = npt.NDArray[np.intp]
#: One bit a row, eight to a byte, the first the lowest.
Bits = npt.NDArray[np.uint8]

#: Rows of a block that is tested whole: what the processor keeps near.
_BLOCK: Final = 65_536
#: Rows of a batch of single ones.
_BATCH: Final = 8192
#: A block is tested whole where at least one in so many of its rows was written.
_DENSE: Final = 4
#: What is left of a block is tested row by row once it is less than one row in so many.
_FEW: Final = 64
#: Standing queries that are looked at before others get a turn.
_TOGETHER: Final = 8
#: Kinds of writes that are told apart in one batch.
_KEYS: Final = 16
#: Shapes of writes that are remembered.
_SHAPES: Final = 1024
#: The key of writes that concern everybody: a node that joined.
_EVERYTHING: Final[frozenset[str]] = frozenset({"*"})
_NO_ROWS: Final[RowArray] = np.zeros(0, np.intp)


class _Batch:
    """Rows that are tested together: single ones, or a whole block."""

    def __init__(self, index: ColumnIndex, rows: RowArray, block: slice | None) -> None:
        self.rows = rows
        self.block = block
        self._index = index
        self._columns: dict[str, Column | None] = {}
        self._length = len(rows) if block is None else block.stop - block.start
        #: Where single rows have their bits.
        self.bytes = rows >> 3
        self.places = (rows & 7).astype(np.uint8)
        self.masks = np.left_shift(np.uint8(1), self.places)
        self.written = self.none
        if block is not None:
            mask = np.zeros(self._length, np.bool_)
            mask[rows - block.start] = True
            self.written = pack(mask)

    @property
    def none(self) -> Bits:
        """No row."""
        return np.zeros((self._length + 7) // 8, np.uint8)

    @property
    def live(self) -> Bits:
        """The rows that hold a node."""
        return pack(self._index.live[self.rows if self.block is None else self.block])

    def test(self, condition: Condition) -> Bits:
        """The rows that match."""
        name = condition.attribute
        if self.block is not None:
            held = self._index.held(name)
        elif name in self._columns:
            held = self._columns[name]
        else:
            whole = self._index.held(name)
            held = self._columns[name] = whole.taken(self.rows) if whole is not None else None
        if held is None:
            return self.live if condition.op == "exists" and not condition.value else self.none
        bits = pack(held.test(condition, slice(0, self._length) if self.block is None else self.block))
        # A row without a node lacks everything, and would be found by that.
        return bits & self.live if condition.op == "exists" and not condition.value else bits

    def few(self, bits: Bits) -> RowArray | None:
        """The places in a block, if they are so few that testing each is cheaper than testing all."""
        if self.block is None or int(np.bitwise_count(bits).sum()) * _FEW > self._length:
            return None
        return rows_in(bits)

    def test_few(self, condition: Condition, places: RowArray) -> Mask:
        """Which of some places in a block match."""
        held = self._index.held(condition.attribute)
        rows = places + (self.block.start if self.block is not None else 0)
        absent = condition.op == "exists" and not condition.value
        mask = np.full(len(rows), absent) if held is None else held.test(condition, rows)
        return mask & self._index.live[rows] if absent else mask

    def bits_of(self, places: RowArray) -> Bits:
        """These places in a block."""
        mask = np.zeros(self._length, np.bool_)
        mask[places] = True
        return pack(mask)


@dataclass(slots=True, eq=False)
class _Leaf:
    """A condition that one or more standing queries share, and its outcome for the batch at hand."""

    condition: Condition
    uses: int = 0
    batch: _Batch | None = None
    bits: Bits | None = None

    def test(self, batch: _Batch) -> Bits:
        """The rows that match; found once a batch."""
        if self.batch is not batch or self.bits is None:
            self.bits, self.batch = batch.test(self.condition), batch
        return self.bits


@dataclass(slots=True, eq=False)
class _Joined:
    """A predicate over shared leaves."""

    parts: list[_Leaf | _Joined]
    every: bool

    def test(self, batch: _Batch) -> Bits:
        """The rows that match."""
        if not self.parts:
            return batch.live if self.every else batch.none
        bits = self.parts[0].test(batch)
        for at, part in enumerate(self.parts[1:], 1):
            if not self.every:
                bits = bits | part.test(batch)
                continue
            if isinstance(part, _Leaf) and part.batch is not batch:
                few = batch.few(bits)
                if few is not None:
                    return self._among(few, self.parts[at:], batch)
            bits = bits & part.test(batch)
        return bits

    @staticmethod
    def _among(few: RowArray, parts: list[_Leaf | _Joined], batch: _Batch) -> Bits:
        """Which of a few rows match what is left to test."""
        for part in parts:
            if isinstance(part, _Leaf) and part.batch is not batch:
                few = few[batch.test_few(part.condition, few)]
            else:
                bits = part.test(batch)
                few = few[((bits[few >> 3] >> (few & 7).astype(np.uint8)) & 1).view(np.bool_)]
        return batch.bits_of(few)


class ColumnInterest:
    """A standing query over the column engine."""

    def __init__(
        self,
        index: ColumnIndex,
        predicate: Predicate,
        tree: _Leaf | _Joined,
        fields: frozenset[str] | None,
        bound: int,
    ) -> None:
        self.predicate = predicate
        self.tree = tree
        self.asks = frozenset(condition.attribute for condition in conditions(predicate))
        self.fields = fields
        self.overflown = False
        self.dropped = False
        self._index = index
        self._bound = bound
        self._member: Bits = np.zeros(0, np.uint8)
        self._marked: list[RowArray] = []
        self._count = 0
        self._gone: dict[str, None] = {}

    @property
    def waiting(self) -> bool:
        """Whether some node is marked, or marks were dropped."""
        return self.overflown or bool(self._marked) or bool(self._gone)

    def begin(self) -> list[str]:
        """The nodes that match now, by name; no mark is left."""
        rows = self._index.matching(self.predicate)
        self._member = self._bits_of(rows)
        self._unmark()
        self.overflown = False
        return self._index.names_of(rows)

    def take(self, most: int) -> list[str]:
        """Up to ``most`` marked nodes, which are marked no longer."""
        taken = list(self._gone)[:most]
        for node in taken:
            del self._gone[node]
        if self._marked and len(taken) < most:
            rows = np.unique(np.concatenate(self._marked))
            rest = rows[most - len(taken) :]
            taken += self._index.names_of(rows[: most - len(taken)])
            self._marked, self._count = ([rest], len(rest)) if len(rest) else ([], 0)
        return taken

    def settle(self, node: str, *, member: bool) -> None:
        """Whoever looked has found a node to match, or not to."""
        row = self._index.row_of(node)
        if row is not None:
            bits, bit = self._grown(), 1 << (row & 7)
            if bool(bits[row >> 3] & bit) != member:
                bits[row >> 3] ^= bit

    def sift(self, batch: _Batch, *, decides: bool, changed: bool) -> None:
        """Compare a batch's outcome with what was.

        Args:
            batch: what was written.
            decides: whether what was written may change what matches.
            changed: whether every match is to be marked.
        """
        if batch.block is None:
            self._sift_rows(batch, decides=decides, changed=changed)
        else:
            self._sift_block(batch, batch.block, decides=decides, changed=changed)

    def resift(self) -> None:
        """Compare all that match now with what was."""
        now = self._bits_of(self._index.matching(self.predicate))
        flips = rows_in(self._grown() ^ now)
        self._member = now
        self._mark(flips)

    def leave(self, node: str, row: int) -> None:
        """A node leaves the index, and its row may be another's soon: from here on it is marked by name."""
        bits, bit = self._grown(), 1 << (row & 7)
        member = bool(bits[row >> 3] & bit)
        if member:
            bits[row >> 3] ^= bit
        if not self.overflown and (member or any((rows == row).any() for rows in self._marked)):
            self._gone[node] = None
            self._bounded()

    def _sift_rows(self, batch: _Batch, *, decides: bool, changed: bool) -> None:
        member = self._grown()
        before = pack((member[batch.bytes] >> batch.places) & 1)
        wanted = before
        if decides:
            after = self.tree.test(batch)
            flips = before ^ after
            if flips.any():
                found = rows_in(flips)
                np.bitwise_xor.at(member, batch.bytes[found], batch.masks[found])
            wanted = after | flips if changed else flips
        if wanted.any():
            self._mark(batch.rows[rows_in(wanted)])

    def _sift_block(self, batch: _Batch, block: slice, *, decides: bool, changed: bool) -> None:
        member = self._grown()[block.start >> 3 : block.stop >> 3]
        wanted = member & batch.written
        if decides:
            after = self.tree.test(batch)
            flips = member ^ after
            wanted = (after & batch.written) | flips if changed else flips
            member[:] = after
        if wanted.any():
            self._mark(rows_in(wanted) + block.start)

    def _bits_of(self, rows: RowArray) -> Bits:
        mask = np.zeros(self._index.capacity, np.bool_)
        mask[rows] = True
        return pack(mask)

    def _mark(self, rows: RowArray) -> None:
        if not self.overflown and len(rows):
            self._marked.append(rows)
            self._count += len(rows)
            self._bounded()

    def _bounded(self) -> None:
        if self._count + len(self._gone) > self._bound and len(self._marked) > 1:
            rows = np.unique(np.concatenate(self._marked))
            self._marked, self._count = [rows], len(rows)
        if self._count + len(self._gone) > self._bound:
            self._unmark()
            self.overflown = True

    def _unmark(self) -> None:
        self._marked, self._count = [], 0
        self._gone.clear()

    def _grown(self) -> Bits:
        missing = self._index.capacity // 8 - len(self._member)
        if missing:
            self._member = np.concatenate([self._member, np.zeros(missing, np.uint8)])
        return self._member


class ColumnSieve:
    """The sieve over the column engine."""

    def __init__(self, index: ColumnIndex) -> None:
        self._index = index
        self._interests: dict[ColumnInterest, None] = {}
        self._leaves: dict[Condition, _Leaf] = {}
        self._watched: frozenset[str] = frozenset()
        self._any_field = False
        self._keys: dict[tuple[str, ...], frozenset[str]] = {}
        self._written: dict[frozenset[str], dict[str, None]] = {}
        self._stale = False

    def add(self, predicate: Predicate, fields: frozenset[str] | None, bound: int = BOUND) -> ColumnInterest:
        """Take a standing query in."""
        interest = ColumnInterest(self._index, predicate, self._plant(predicate), fields, bound)
        self._interests[interest] = None
        self._watched |= interest.asks | (fields or frozenset())
        self._any_field = self._any_field or fields is None
        self._together()
        return interest

    def drop(self, interest: Interest) -> None:
        """Mark no more."""
        if isinstance(interest, ColumnInterest) and interest in self._interests:
            del self._interests[interest]
            interest.dropped = True
            self._uproot(interest.tree)
            self._stale = True

    def again(self, interest: Interest, predicate: Predicate) -> None:
        """Its predicate changed: mark the difference."""
        if isinstance(interest, ColumnInterest) and interest in self._interests:
            self._uproot(interest.tree)
            interest.predicate, interest.tree = predicate, self._plant(predicate)
            interest.resift()

    def wrote(self, node: str, names: Iterable[str]) -> None:
        """Attributes of a node were written."""
        if not self._interests:
            return
        shape = tuple(names)
        key = self._keys.get(shape)
        if key is None:
            key = self._key_of(shape)
        if key:
            self._written.setdefault(key, {})[node] = None

    def removed(self, node: str) -> None:
        """A node is about to leave the index."""
        row = self._index.row_of(node)
        if row is not None:
            for interest in self._interests:
                interest.leave(node, row)

    def sift(self) -> Iterator[None]:
        """Mark for all that was written."""
        if self._stale:
            self._attend()
        if len(self._written) > _KEYS:
            self._together()
        written, self._written = self._written, {}
        for names, nodes in written.items():
            touched = self._touched(names)
            if touched:
                for batch in self._batches(np.sort(self._index.rows_of(nodes))):
                    yield from _sift(batch, touched)

    def _batches(self, rows: RowArray) -> Iterator[_Batch]:
        """What was written, in parts: blocks where it is much, else single rows."""
        single = []
        used = (self._index.used + 7) & ~7  # whole bytes of bits
        starts = range(0, used, _BLOCK)
        edges = np.searchsorted(rows, [*starts, used])
        for start, begin, end in zip(starts, edges, edges[1:], strict=False):
            stop = min(start + _BLOCK, used)
            if (end - begin) * _DENSE >= stop - start:
                yield _Batch(self._index, rows[begin:end], slice(start, stop))
            elif end > begin:
                single.append(rows[begin:end])
        if single:
            rest = np.concatenate(single)
            for begin in range(0, len(rest), _BATCH):
                yield _Batch(self._index, rest[begin : begin + _BATCH], None)

    def _touched(self, names: frozenset[str]) -> list[tuple[ColumnInterest, bool, bool]]:
        """The standing queries that the writing of ``names`` concerns: by what decides, by what is told."""
        found = []
        for interest in self._interests:
            decides = names is _EVERYTHING or not names.isdisjoint(interest.asks)
            changed = names is _EVERYTHING or interest.fields is None or not names.isdisjoint(interest.fields)
            if decides or changed:
                found.append((interest, decides, changed))
        return found

    def _plant(self, predicate: Predicate) -> _Leaf | _Joined:
        match predicate:
            case Condition():
                leaf = self._leaves.setdefault(predicate, _Leaf(predicate))
                leaf.uses += 1
                return leaf
            case Every(parts) | Some(parts):
                every = isinstance(predicate, Every)
                # What many ask first: it is tested already when the others come.
                ordered = sorted(parts, key=_moves) if every else parts
                return _Joined([self._plant(part) for part in ordered], every)

    def _uproot(self, tree: _Leaf | _Joined) -> None:
        if isinstance(tree, _Joined):
            for part in tree.parts:
                self._uproot(part)
            return
        tree.uses -= 1
        if not tree.uses:
            del self._leaves[tree.condition]

    def _attend(self) -> None:
        """Which attributes anybody cares for, after some care no more."""
        interests = self._interests
        asked = (name for interest in interests for name in interest.asks | (interest.fields or frozenset()))
        self._watched = frozenset(asked)
        self._any_field = any(interest.fields is None for interest in interests)
        self._stale = False
        self._together()

    def _together(self) -> None:
        """What was written so far concerns everybody, to be safe; from now on it is told apart anew."""
        self._keys.clear()
        if self._written:
            together: dict[str, None] = {}
            for nodes in self._written.values():
                together |= nodes
            self._written = {_EVERYTHING: together}

    def _key_of(self, shape: tuple[str, ...]) -> frozenset[str]:
        """What of these attributes anybody cares for: writes of one key are sifted together."""
        if "name" in shape or len(self._keys) >= _SHAPES:
            return _EVERYTHING
        key = frozenset(shape) - {HEARD} if self._any_field else frozenset(shape) & self._watched
        self._keys[shape] = key
        return key


def _sift(batch: _Batch, touched: list[tuple[ColumnInterest, bool, bool]]) -> Iterator[None]:
    for at, (interest, decides, changed) in enumerate(touched):
        if at % _TOGETHER == _TOGETHER - 1:
            yield
        if not interest.dropped:
            interest.sift(batch, decides=decides, changed=changed)
    yield


def _moves(predicate: Predicate) -> bool:
    """Whether a condition is on a metric, to which each standing query has its own threshold."""
    return any(may_be_metric(condition.attribute) for condition in conditions(predicate))


def pack(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> Bits:
    """Eight rows to a byte."""
    return np.packbits(mask, bitorder="little")


def rows_in(bits: Bits) -> RowArray:
    """The places of the bits that are set."""
    if not bits.any():
        return _NO_ROWS
    # As bools: of other kinds NumPy searches ten times slower.
    return np.flatnonzero(np.unpackbits(bits, bitorder="little").view(np.bool_))
