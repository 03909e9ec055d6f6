"""What the contenders of ``bench/bus.py`` are given: the same events, from a sender that costs next to nothing.

The sender writes the NATS protocol itself, prepared in advance, so that it takes no core away from the
receiver; it never runs further ahead than a window, so that the broker has no reason to drop anything.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final
from urllib.parse import urlsplit

from bench.figures import WrongAnswer
from bus.port import Endpoint
from schemas.event import Event, event
from schemas.node import Measurement

WINDOW: Final = 16_000  # messages that are out and not yet counted by the receiver
CHUNK: Final = 500
_SAMPLE: Final = 1000


@dataclass(frozen=True)
class Place:
    """Where the messages go: the broker, a credential, a minicloud."""

    endpoint: Endpoint
    minicloud: str

    @property
    def subject(self) -> str:
        """Where they are published."""
        return f"mc.{self.minicloud}.node.pi-3.metrics"


def message(number: int) -> Event[Measurement]:
    """The event with this number: a node's sample, about 300 bytes."""
    values = {"load.1m": number / 8, "memory.available": 4_123_456_789.0 + number}
    made = event(
        Measurement(node="pi-3", interval=5, values=values), "/home/pi-3", "pi-3", event_id=f"{number:032x}"
    )
    made.time = datetime(2026, 1, 1, 12, 0, 0, number % 1_000_000, tzinfo=UTC)
    return made


def number_of(received: Event[Measurement]) -> int:
    """Which one it is, read from its data."""
    return int(received.data.values["load.1m"] * 8)


@dataclass
class Tally:
    """Counts what one receiver got; the clock runs from the first to the last message."""

    count: int
    progress: Synchronized[int]
    numbers: list[int] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    def __post_init__(self) -> None:
        self.done = asyncio.Event()

    def take(self, number: int, whole: Any) -> None:
        """One message came: its number, and itself."""
        numbers = self.numbers
        if not numbers:
            self.seconds, self.cpu = -time.perf_counter(), -time.process_time()
        if number % _SAMPLE == 0:
            self.kept.append(whole)
        numbers.append(number)
        if len(numbers) % CHUNK == 0:
            self.progress.value = len(numbers)
        if len(numbers) == self.count:
            self.seconds += time.perf_counter()
            self.cpu += time.process_time()
            self.done.set()

    def verify(self) -> None:
        """Every message came once, in order, and whole.

        Raises:
            WrongAnswer: they did not.
        """
        if self.numbers != list(range(self.count)):
            missing = self.count - len(set(self.numbers))
            raise WrongAnswer(
                f"{len(self.numbers)} of {self.count} messages, {missing} missing, or not in order"
            )
        for whole in self.kept:
            sent = message(number_of(whole))
            if whole != sent:
                raise WrongAnswer(f"sent {sent!r}, received {whole!r}")


def send(place: Place, count: int, progress: Synchronized[int]) -> None:
    """Publish ``count`` messages as fast as the receiver takes them; runs in a process of its own."""
    subject = place.subject.encode()
    chunks = [
        b"".join(_publish(subject, message(number).to_json()) for number in range(at, min(at + CHUNK, count)))
        for at in range(0, count, CHUNK)
    ]
    where = urlsplit(place.endpoint.url)
    with socket.create_connection((where.hostname or "127.0.0.1", where.port or 4222)) as wire:
        wire.recv(65536)  # INFO
        who = {
            "user": place.endpoint.user,
            "pass": place.endpoint.password,
            "verbose": False,
            "pedantic": False,
        }
        wire.sendall(b"CONNECT " + json.dumps(who).encode() + b"\r\n")
        while progress.value < 0:  # the receiver says 0 when it is ready
            time.sleep(0.001)
        for number, chunk in enumerate(chunks):
            while number * CHUNK - progress.value > WINDOW:
                time.sleep(0.0005)
            wire.sendall(chunk)
        wire.sendall(b"PING\r\n")
        while b"PONG" not in wire.recv(65536):
            pass


def _publish(subject: bytes, payload: bytes) -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)
