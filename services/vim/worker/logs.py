"""What workloads printed, read back: the last lines, or those after a position.

In: the files that a workload's output goes to, in order. Out: lines that are safe in somebody's terminal. A
position is text that says how far each file was read; only the worker knows what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

#: Terminal commands and control characters.
_CONTROL: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\^_a-z])|[\x00-\x08\x0b-\x1f\x7f]")
_TAIL_BYTES: Final = 1024 * 1024
_AT_ONCE: Final = 32 * 1024


class Read(NamedTuple):
    """A part of the output.

    Attributes:
        lines: oldest first.
        position: where they end.
        more: whether there is more already.
    """

    lines: list[str]
    position: str
    more: bool = False


def last_lines(files: Sequence[Path], tail: int) -> Read:
    """The last ``tail`` lines."""
    lines: list[str] = []
    ends: list[int] = []
    for file in files:
        end = _size(file)
        begin = max(0, end - _TAIL_BYTES)
        lines += _text(_bytes(file, begin, end - begin)).splitlines()[-tail:]
        ends.append(end)
    return Read(lines[-tail:] if tail > 0 else [], _position(ends))


def lines_after(files: Sequence[Path], position: str, *, ended: bool) -> Read:
    """The lines after ``position``, at most some thousands at once.

    Args:
        files: what the workload writes to.
        position: of an earlier reading.
        ended: whether it will write no more; until then a line without its end waits.
    """
    begins = [int(part) for part in position.split(",") if part.isdecimal()]
    begins += [0] * (len(files) - len(begins))
    lines: list[str] = []
    ends: list[int] = []
    more = False
    for file, offset in zip(files, begins, strict=False):
        begin = offset if offset <= _size(file) else 0  # else it was cut and is written anew
        read = _bytes(file, begin, _AT_ONCE)
        full = len(read) == _AT_ONCE
        whole = read.rfind(b"\n") + 1
        if (full and whole) or not (full or ended):
            read = read[:whole]
        lines += _text(read).splitlines()
        ends.append(begin + len(read))
        more = more or full
    return Read(lines, _position(ends), more)


def _bytes(file: Path, begin: int, count: int) -> bytes:
    try:
        with file.open("rb") as output:
            output.seek(begin)
            return output.read(count)
    except OSError:
        return b""


def _text(read: bytes) -> str:
    return _CONTROL.sub("", read.decode(errors="replace"))


def _position(ends: Sequence[int]) -> str:
    return ",".join(str(end) for end in ends)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
