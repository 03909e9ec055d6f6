"""A predicate into a scan of columns: mask all rows, until so few are left that those alone are tested.

What decides is what a step costs: a mask takes 0.02 to 0.13 ns a row, turning one into row numbers up to
14 ns for each row that it leaves. So masks go on for long, the cheapest conditions first, and of many rows
that match most are cut away by their sort key before any of them gets a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.predicate import Condition, Every, Predicate, conjuncts
from services.rid.column import Column, Floats, Mask, Rows
from services.rid.index import Step

_SAMPLE: Final = 512
#: Testing single rows beats masking all once fewer than one in this many are left.
_GATHER: Final = 128
#: Looked for only while so many conditions are still to come: else it costs more than it saves.
_WORTH_A_LOOK: Final = 2
#: Where fewer rows match, a cut by the sort key costs more than it saves.
_WORTH_A_CUT: Final = 2048
#: A sample: so many runs of rows, evenly spread, of so many rows each. Whole runs, since each row
#: by itself would be a line of memory to wait for; many, since rows that joined together may be alike.
_RUNS: Final = 64
_RUN: Final = 32

#: Told of each step of a scan, for whoever wants to know how it goes.
Trace = Callable[[Step], None]


def scan(
    predicate: Predicate,
    columns: Mapping[str, Column],
    live: Mask,
    trace: Trace | None = None,
) -> npt.NDArray[np.intp]:
    """The rows that match, ascending.

    Args:
        predicate: the condition.
        columns: the attributes that are held.
        live: which rows are nodes.
        trace: told of each step, for whoever wants to know how it goes.
    """
    mask, rest = _masked(predicate, columns, live, trace)
    return _gathered(np.flatnonzero(mask), rest, columns, trace)


def scan_least(
    predicate: Predicate,
    columns: Mapping[str, Column],
    live: Mask,
    keys: Floats,
    limit: int,
    *,
    descending: bool = False,
) -> tuple[npt.NDArray[np.intp], int]:
    """Rows that match, ascending, with all that could be among the first ``limit``; and how many match.

    Of many matching rows most are cut away by a guess from a sample of their keys, before any of them is
    looked at by itself; a wrong guess costs time only.

    Args:
        predicate: the condition.
        columns: the attributes that are held.
        live: which rows are nodes.
        keys: what each row is sorted by; NaN comes last.
        limit: how many are wanted.
        descending: whether the greatest come first.
    """
    mask, rest = _masked(predicate, columns, live)
    total = 0 if rest else int(np.count_nonzero(mask))
    if rest or total < max(_WORTH_A_CUT, 16 * limit):
        rows = _gathered(np.flatnonzero(mask), rest, columns)
        return rows, len(rows)
    sample, step = _sample(keys, mask)
    if descending:
        sample = -sample
    at = 2 * limit // step + 8
    if at < len(sample):
        bound = np.partition(sample, at)[at]  # NaN goes to the end
        if not np.isnan(bound):
            near = keys >= -bound if descending else keys <= bound
            near &= mask
            rows = np.flatnonzero(near)
            if len(rows) >= limit:
                return rows, total
    return np.flatnonzero(mask), total


def _sample(keys: Floats, mask: Mask) -> tuple[Floats, int]:
    """The keys of some of the rows in ``mask``, and one in how many rows was looked at."""
    length = len(mask) // _RUNS
    if length <= _RUN:
        return keys[mask], 1
    return _runs(keys, length)[_runs(mask, length)], length // _RUN


def _runs(column: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """The beginning of each ``length`` rows."""
    return column[: _RUNS * length].reshape(_RUNS, length)[:, :_RUN]


def _are_few(mask: Mask) -> bool:
    """Whether so few rows are left that testing single ones pays; a sample says at once when not."""
    size = len(mask)
    length = size // _RUNS
    if length > _RUN and np.count_nonzero(_runs(mask, length)) * _GATHER > 2 * _RUNS * _RUN:
        return False
    return bool(np.count_nonzero(mask) * _GATHER < size)


def _masked(
    predicate: Predicate, columns: Mapping[str, Column], live: Mask, trace: Trace | None = None
) -> tuple[Mask, Sequence[Predicate]]:
    """All rows against one part after the other, until few are left; and the parts not yet asked."""
    size = len(live)
    parts = _ordered(conjuncts(predicate), columns)
    everything = slice(0, size)
    mask = live
    for done, part in enumerate(parts, 1):
        begun = time.perf_counter()
        tested = _test(part, columns, everything, size)
        tested &= mask
        mask = tested
        if trace is not None:
            trace(Step(part, "mask", size, int(np.count_nonzero(mask)), time.perf_counter() - begun))
        if len(parts) - done >= _WORTH_A_LOOK and _are_few(mask):
            return mask, parts[done:]
    return mask, ()


def _gathered(
    rows: npt.NDArray[np.intp],
    parts: Sequence[Predicate],
    columns: Mapping[str, Column],
    trace: Trace | None = None,
) -> npt.NDArray[np.intp]:
    """Those of a few rows that match the rest."""
    for part in parts:
        if not len(rows):
            break
        begun, tested = time.perf_counter(), len(rows)
        rows = rows[_test(part, columns, rows, tested)]
        if trace is not None:
            trace(Step(part, "gather", tested, len(rows), time.perf_counter() - begun))
    return rows


def least(keys: Floats, limit: int) -> Mask:
    """Which keys are among the ``limit`` least, those equal to the last of them included.

    A guess from a sample cuts most away before the exact selection; a wrong guess costs time only.
    """
    size = len(keys)
    step = size // _SAMPLE
    if step > 1 and limit * 8 < size:
        sample = np.sort(keys[::step])
        guess = sample[min(len(sample) - 1, 2 * limit // step + 8)]
        near = keys[keys <= guess]
        if limit <= len(near) < size // 2:
            return np.asarray(keys <= np.partition(near, limit - 1)[limit - 1])
    return np.asarray(keys <= np.partition(keys, limit - 1)[limit - 1])


def _ordered(parts: tuple[Predicate, ...], columns: Mapping[str, Column]) -> Sequence[Predicate]:
    """Those that read least first."""
    return sorted(parts, key=lambda part: _width(part, columns))


def _width(predicate: Predicate, columns: Mapping[str, Column]) -> int:
    """Bytes to read a row."""
    if isinstance(predicate, Condition):
        held = columns.get(predicate.attribute)
        return held.width if held is not None else 0
    return sum(_width(part, columns) for part in predicate.parts)


def _test(predicate: Predicate, columns: Mapping[str, Column], rows: Rows, length: int) -> Mask:
    """Which of ``rows`` match, in an array of its own."""
    if isinstance(predicate, Condition):
        held = columns.get(predicate.attribute)
        if held is None:
            return np.full(length, predicate.op == "exists" and not predicate.value)
        return held.test(predicate, rows)
    if isinstance(predicate, Every):
        mask = np.ones(length, np.bool_)
        for part in predicate.parts:
            mask &= _test(part, columns, rows, length)
        return mask
    mask = np.zeros(length, np.bool_)
    for part in predicate.parts:
        mask |= _test(part, columns, rows, length)
    return mask
