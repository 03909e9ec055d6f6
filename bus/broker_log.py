"""What the embedded broker says in its log: readiness, reloads, and refusals nobody else hears of.

MQTT 3.1.1 cannot refuse a publish: a forbidden one at QoS 1 is acknowledged and dropped, and only the
broker's log knows. So the log is followed, and each refusal becomes a :class:`Violation`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

# The log is a file, not a pipe, so that the broker outlives its parent and never waits for a reader.
_LOOK_EVERY: Final = 0.1
_LONGEST_LINE: Final = 1024 * 1024

Kind = Literal["publish", "subscribe", "authentication"]

_REFUSED = re.compile(
    r"\[ERR\] (?P<address>\S+) - (?:[a-z_]*id:(?P<connection>\d+)) - (?:\"(?P<client>[^\"]*)\" - )?"
    r"(?:\"[^\"]*/user:(?P<account_user>[^\"]*)\" - )?"
    r"(?:(?P<kind>Publish|Subscription) Violation - (?:User \"(?P<user>[^\"]*)\", )?"
    r"Subject \"(?P<subject>[^\"]*)\""
    r"|authentication error(?: - User \"(?P<refused_user>[^\"]*)\")?)"
)


@dataclass(frozen=True)
class Violation:
    """Something that the broker refused.

    Attributes:
        kind: what was tried.
        address: ``host:port`` of the client.
        connection: the broker's number for the connection.
        client: MQTT client id, or the NATS client's language and version; "" when unknown.
        user: user name on the broker (``<role>.<name>``); None when the log does not say.
        subject: NATS subject of the message or subscription; None for a refused password.
    """

    kind: Kind
    address: str
    connection: int
    client: str
    user: str | None
    subject: str | None


def parse_violation(line: str) -> Violation | None:
    """The refusal that a line of the log tells of, or None."""
    found = _REFUSED.search(line)
    if found is None:
        return None
    kind: Kind = "authentication"
    if found["kind"]:
        kind = "publish" if found["kind"] == "Publish" else "subscribe"
    return Violation(
        kind=kind,
        address=found["address"],
        connection=int(found["connection"]),
        client=found["client"] or "",
        user=found["user"] or found["account_user"] or found["refused_user"],
        subject=found["subject"],
    )


class LogCursor:
    """A place in a log file that grows and is rotated; reads whole lines from there on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._inode, self._offset = self._now()

    def _now(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size

    def lines(self) -> list[str]:
        """The whole lines written since the last call, without their ends."""
        inode, size = self._now()
        if inode != self._inode or size < self._offset:
            # Rotated: what was written to the old file after the last look stays unread there.
            self._inode, self._offset, self._rest = inode, 0, b""
        if size == self._offset:
            return []
        with self._path.open("rb") as log:
            log.seek(self._offset)
            read = log.read(size - self._offset)
        self._offset += len(read)
        *whole, self._rest = (self._rest + read).split(b"\n")
        self._rest = self._rest[-_LONGEST_LINE:]
        return [line.decode(errors="replace") for line in whole]


class LogFollower:
    """A thread that hands every new line of the log to a callback until it is stopped."""

    def __init__(self, cursor: LogCursor, on_line: Callable[[str], None]) -> None:
        self._cursor = cursor
        self._on_line = on_line
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-log", daemon=True)

    def start(self) -> None:
        """Follow from the cursor on."""
        self._thread.start()

    def stop(self) -> None:
        """Read what is left, then end."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._stopping.wait(_LOOK_EVERY)
            for line in self._cursor.lines():
                self._on_line(line)
