"""The agent: samples on time, characterizes anew when the node changed, and gets its word to the broker.

Everything happens in one thread: each round waits for the network until the next thing is due. What must
arrive goes through the spool: characterizations always, metrics while the broker is away or behind.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

from services.charagent import event
from services.charagent.characterize import changed, characterize, glance
from services.charagent.metrics import Sampler
from services.charagent.publisher import Connection
from services.charagent.settings import SettingError, Settings
from services.charagent.spool import Spool

log = logging.getLogger("charagent")

WINDOW: Final = 64  # unacknowledged events on the way
FIRST_DELAY: Final = 0.5  # seconds before the second attempt to connect; doubled each time
LONGEST_DELAY: Final = 30.0
FIRST_REPEAT: Final = 4.0  # seconds from the connection to the first repeat; doubled each time
#: Seconds after its acknowledgement in which an event is sent again if the connection breaks: the broker
#: acknowledges over MQTT before its stream has stored, and one that is killed then has lost it.
SETTLE: Final = 1.0
UNSETTLED: Final = 1024  # events within that time; so many a break of the connection may repeat
STEADY: Final = 10.0  # seconds that a connection must last so that the delays start anew
_TOGETHER: Final = 0.05  # seconds; what settles within them is taken in one round
_LONGEST_WAIT: Final = 1.0  # seconds; keepalives are looked after in between


class _Stop(BaseException):
    """A signal came while nothing was half done."""


class Agent:
    """The agent of one node.

    Args:
        settings: how it runs.

    Raises:
        SettingError: the data folder cannot be used, or another agent uses it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._session = os.urandom(8).hex()
        self._lock = _locked(settings)
        self._spool = Spool(settings.data / "spool", settings.spool)
        self._sent: deque[tuple[int, int]] = deque()  # message id and place in the spool, in order
        self._done: set[int] = set()
        self._settling: deque[tuple[float, int]] = deque()  # when it is past doubt, and place in the spool
        self._connection: Connection | None = None
        self._known: dict[str, Any] = {}
        self._word: tuple[str, bytes] = ("", b"")  # the last characterization as it was sent
        self._repeat_at = 0.0
        self._repeat_after = 0.0
        self._announced = False
        self._returned = False
        self._trusted_at = 0.0
        self._failures = 0
        self._told = ""
        self._stopping = False
        self._interruptible = False
        self._wake, self._waker = socket.socketpair()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then say goodbye and return."""
        self._wake.settimeout(0)
        self._waker.settimeout(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            with self._may_be_interrupted():
                self._known = characterize(self.settings)
            self._characterized()  # before the first metrics, whenever the broker comes
            self._rounds()
        except _Stop:
            pass
        finally:
            with suppress(BlockingIOError):
                self._wake.recv(1024)  # the signal's own byte, or waiting for the broker would not wait
            if self._connection is not None:
                self._connection.leave(self._wake)
            self._spool.close()
            signal.set_wakeup_fd(-1)
            self._lock.close()
            log.info("stopped")

    def _rounds(self) -> None:
        sampler = Sampler()
        now = time.monotonic()
        next_sample, next_look, next_try = now + self.settings.interval, now + self.settings.compare, now
        while not self._stopping:
            now = time.monotonic()
            if self._connection is None and now >= next_try:
                self._connect()
            if self._connection is not None:
                self._settle(self._connection)
                if self._connection.stage == "closed":
                    next_try = time.monotonic() + self._lost(self._connection)
                    self._connection = None
            if now >= next_sample:
                self._measure(sampler)
                next_sample += self.settings.interval
                if next_sample <= now:  # a suspended laptop does not make up for what it slept through
                    next_sample = now + self.settings.interval
            if now >= next_look:
                self._look()
                next_look = now + self.settings.compare
            due = min(next_sample, next_look, next_try if self._connection is None else now + _LONGEST_WAIT)
            if self._settling and self._spool.unread:
                due = min(due, self._settling[0][0] + _TOGETHER)
            self._wait(max(0.0, due - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        if self._connection is not None:
            self._connection.turn(seconds, self._wake)
        else:
            select.select([self._wake], [], [], seconds)

    # -- the connection ----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._announced = False
        self._connection = Connection(self.settings, self._session)
        with self._may_be_interrupted():
            self._connection.open()

    def _settle(self, connection: Connection) -> None:
        """Act on what the connection brought: trust, acknowledgements, presences."""
        if connection.stage == "trusted":
            if not self._announced:
                self._announced = True
                self._trusted_at, self._told = time.monotonic(), ""
                waiting = len(self._spool)
                log.info("connected to %s; %d events wait in the spool", self.settings.broker, waiting)
                if self._returned or self._spool.dropped:
                    self._spool.append(*self._word)  # who was away together with the broker learns it anew
                self._returned = True
                self._repeat_after = min(FIRST_REPEAT, self.settings.renew)
                self._repeat_at = self._trusted_at + self._repeat_after
            elif time.monotonic() >= self._repeat_at:
                self._repeat(connection)
            self._take_acknowledgements(connection)
            self._send(connection)
        while connection.heard:
            said = connection.heard.popleft()
            if said.session != self._session and said.state == "online":
                log.error("another agent speaks for %s: give each node its own name", self.settings.node)
            elif said.session == self._session and said.state == "offline":
                # The will of our connection before, sent late: whoever heard it must hear better.
                connection.announce()

    def _lost(self, connection: Connection) -> float:
        """Take note that a connection ended; seconds until the next attempt."""
        if connection.why != self._told:  # once a reason: a broker may be away for days
            log.warning("%s; events are kept in the spool", connection.why)
            self._told = connection.why
        if self._announced and time.monotonic() - self._trusted_at > STEADY:
            self._failures = 0
        self._sent.clear()
        self._done.clear()
        self._settling.clear()
        self._spool.rewind()
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._failures, 10))
        self._failures += 1
        # Jitter, so that a thousand nodes do not all return in the same instant.
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret

    def _send(self, connection: Connection) -> None:
        while len(self._sent) < WINDOW and len(self._sent) + len(self._settling) < UNSETTLED:
            waiting = self._spool.read()
            if waiting is None:
                break
            self._sent.append((connection.publish(waiting.topic, waiting.payload, 1), waiting.sequence))

    def _take_acknowledgements(self, connection: Connection) -> None:
        while connection.acknowledged:
            self._done.add(connection.acknowledged.popleft())
        while self._sent and self._sent[0][0] in self._done:
            mid, sequence = self._sent.popleft()
            self._done.discard(mid)
            self._settling.append((time.monotonic() + SETTLE, sequence))
        if not self._sent:
            self._done.clear()
        while self._settling and self._settling[0][0] <= time.monotonic():
            self._spool.acknowledge(self._settling.popleft()[1])

    # -- what is said ------------------------------------------------------------------------------

    def _measure(self, sampler: Sampler) -> None:
        values = sampler.sample()
        if self._spool.dropped:
            values["spool.dropped"] = self._spool.dropped
        data = {"node": self.settings.node, "interval": self.settings.interval, "values": values}
        topic, payload = self._event(event.MEASURED, data)
        connection = self._connection
        behind = bool(self._sent or self._spool.unread)
        if connection is not None and connection.stage == "trusted" and not behind:
            connection.publish(topic, payload, 0)
        else:
            self._spool.append(topic, payload)

    def _look(self) -> None:
        """Characterize anew if a cheap look says that the node has changed."""
        differences = changed(self._known, glance())
        if differences:
            log.info("the node changed: %s", ", ".join(differences))
            with self._may_be_interrupted():
                self._known = characterize(self.settings)
            self._characterized()

    def _characterized(self) -> None:
        self._word = self._event(event.CHARACTERIZED, self._known)
        self._spool.append(*self._word)

    def _repeat(self, connection: Connection) -> None:
        """Say again what the node is and that it is there, ever more rarely.

        An acknowledgement means that the broker has it, not that anybody keeps it: a minicloud that has
        just started may not have made its streams yet. The event's id is the same, so a repeat is known
        as one.
        """
        self._spool.append(*self._word)
        connection.announce()
        self._repeat_after = min(2 * self._repeat_after, self.settings.renew)
        self._repeat_at = time.monotonic() + self._repeat_after

    def _event(self, kind: str, data: dict[str, Any]) -> tuple[str, bytes]:
        minicloud, node = self.settings.minicloud, self.settings.node
        return event.topic(minicloud, node, kind), event.envelope(kind, minicloud, node, data)

    # -- signals -----------------------------------------------------------------------------------

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self._stopping = True
        if self._interruptible:
            raise _Stop

    @contextmanager
    def _may_be_interrupted(self) -> Iterator[None]:
        """Around what may take seconds and leaves nothing half done: a signal ends it at once."""
        self._interruptible = True
        try:
            if self._stopping:
                raise _Stop
            yield
        finally:
            self._interruptible = False


def _locked(settings: Settings) -> BinaryIO:
    """The lock of the data folder, held until its file is closed or the process ends."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        lock = (settings.data / "lock").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingError(f"data is {settings.data}: another agent uses it; each needs its own") from None
    except OSError as error:
        raise SettingError(f"data is {settings.data}: {error}; it should be a folder of ours") from None
    return lock
