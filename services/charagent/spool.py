"""What could not be sent yet, on disk: bounded, in order, whole after a kill -9.

In: events while the broker is away, and every event that must arrive. Out: the same events, oldest
first, until each is acknowledged. The files are segments of lines ``<crc32> <topic> <payload>``; when the
bound is reached the oldest segment goes and its events are counted. There is no fsync: a power cut may
lose the last seconds, which spares the SD card.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

_SEGMENTS: Final = 8  # an eighth of the bound is dropped at a time
_REMEMBER_EVERY: Final = 64  # acknowledgements between two writes of the position


class Spooled(NamedTuple):
    """One event in the spool.

    Attributes:
        sequence: its place; grows by one an event and never starts anew.
        topic: where it goes.
        payload: the event as it travels.
    """

    sequence: int
    topic: str
    payload: bytes


class _Segment:
    """One file: events ``first`` to ``first + count - 1``."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.count = 0
        self.size = 0

    @property
    def end(self) -> int:
        return self.first + self.count


class Spool:
    """The spool of one agent.

    Args:
        folder: where the files lie; made if it is not there.
        limit: bytes of all segments together.

    Attributes:
        dropped: events that had to go unsent, ever.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._segments: deque[_Segment] = deque()
        self._writing: BinaryIO | None = None
        self._reading: tuple[_Segment, BinaryIO] | None = None  # placed before the next event
        self._next = 0
        self._acknowledged = 0  # every event below is done with
        self._remembered = 0
        self.dropped = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load()

    def __len__(self) -> int:
        """How many events wait, those that were read but not acknowledged included."""
        return self._end - self._acknowledged

    @property
    def unread(self) -> int:
        """How many events :meth:`read` has not handed out yet."""
        return self._end - self._next

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    def append(self, topic: str, payload: bytes) -> None:
        """Keep an event; the oldest go if it needs their room. A full disk counts as dropped."""
        body = topic.encode() + b" " + payload
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        if len(line) > self._limit // _SEGMENTS:
            self.dropped += 1
            return
        while self._segments and self.size + len(line) > self._limit:
            self._drop_oldest()
        try:
            if self._writing is None or self._segments[-1].size + len(line) > self._limit // _SEGMENTS:
                self._start_segment()
            assert self._writing is not None  # noqa: S101 - said by the line above
            if self._writing.write(line) != len(line):
                raise OSError("no room for a whole line")  # noqa: TRY301 - as a full disk says it, or not
        except OSError:
            # Half a line may lie there now: the next event starts a segment, where reading is sure again.
            self._close_writing()
            self.dropped += 1
            return
        self._segments[-1].size += len(line)
        self._segments[-1].count += 1

    def read(self) -> Spooled | None:
        """The next event in order, or None when all were read; see :meth:`rewind`."""
        while self._next < self._end:
            if self._reading is not None and self._next >= self._reading[0].end:
                self._close_reading()
            _, file = self._reading or self._open_at(self._next)
            sequence = self._next
            self._next += 1
            event = _parse(file.readline(), sequence)
            if event is not None:
                return event
            self.dropped += 1  # a bad sector, or somebody's editor
        return None

    def rewind(self) -> None:
        """Read again from the first event that is not acknowledged: the connection broke."""
        self._close_reading()
        self._next = self._acknowledged

    def acknowledge(self, sequence: int) -> None:
        """Done with every event up to ``sequence``; their files go when they are whole."""
        if sequence < self._acknowledged:
            return  # its segment was dropped meanwhile
        self._acknowledged = sequence + 1
        while self._segments and self._segments[0].end <= self._acknowledged:
            self._remove_oldest()
        if self._acknowledged - self._remembered >= _REMEMBER_EVERY or not self._segments:
            self._remember()

    def close(self) -> None:
        """Write down how far it came."""
        self._remember()
        self._close_reading()
        self._close_writing()

    @property
    def _end(self) -> int:
        return self._segments[-1].end if self._segments else self._acknowledged

    # -- files -----------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            kept = json.loads((self._folder / "position").read_text())
            self._acknowledged, self.dropped = int(kept["acknowledged"]), int(kept["dropped"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a first start, or a position lost: what lies here is sent again rather than not at all
        for path in sorted(self._folder.glob("*.events")):
            segment = _Segment(path, int(path.stem))
            self._measure(segment)
            if segment.count == 0 or segment.end <= self._acknowledged:
                path.unlink(missing_ok=True)
            else:
                self._segments.append(segment)
        if self._segments:
            self._acknowledged = max(self._acknowledged, self._segments[0].first)
        self._next = self._remembered = self._acknowledged

    def _measure(self, segment: _Segment) -> None:
        """Count the lines of a segment and cut off a last one that a kill left unfinished."""
        with segment.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(segment.size)
                    break
                segment.count += 1
                segment.size += len(line)

    def _start_segment(self) -> None:
        self._close_writing()
        first = self._end
        if self._segments and self._segments[-1].count == 0:
            self._segments.pop()
        path = self._folder / f"{first:016d}.events"
        self._writing = path.open("wb", buffering=0)  # a line is in the kernel when write returns
        self._segments.append(_Segment(path, first))

    def _drop_oldest(self) -> None:
        oldest = self._segments[0]
        lost = oldest.end - max(oldest.first, self._acknowledged)
        self.dropped += lost
        self._acknowledged = max(self._acknowledged, oldest.end)
        if self._next < self._acknowledged:
            self._close_reading()
            self._next = self._acknowledged
        self._remove_oldest()
        self._remember()

    def _remove_oldest(self) -> None:
        oldest = self._segments.popleft()
        if not self._segments:
            self._close_writing()
        if self._reading is not None and self._reading[0] is oldest:
            self._close_reading()
        oldest.path.unlink(missing_ok=True)

    def _remember(self) -> None:
        self._remembered = self._acknowledged
        new = self._folder / "position.new"
        try:
            new.write_text(json.dumps({"acknowledged": self._acknowledged, "dropped": self.dropped}))
            os.replace(new, self._folder / "position")  # noqa: PTH105 - the same, said plainly
        except OSError:
            pass  # a full disk: after a kill, some events are sent twice, which their ids tell

    def _open_at(self, sequence: int) -> tuple[_Segment, BinaryIO]:
        """Open the segment that holds ``sequence``, placed before it."""
        segment = next(segment for segment in self._segments if sequence < segment.end)
        self._next = max(sequence, segment.first)
        file = segment.path.open("rb")
        for _ in range(self._next - segment.first):
            file.readline()
        self._reading = (segment, file)
        return self._reading

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def _close_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None


def _parse(line: bytes, sequence: int) -> Spooled | None:
    """The event of a line; None if its bytes are not what was written."""
    checksum, _, body = line[:-1].partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
    except ValueError:
        return None
    topic, _, payload = body.partition(b" ")
    return Spooled(sequence, topic.decode(), payload)
