"""Every JetStream stream of a minicloud, declared in one place and made or migrated at start.

A stream keeps what the contract says is kept: levels (the last value a subject), short series
(metrics, readings) and logs (what can be replayed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from schemas.errors import Conflict
from schemas.names import ANY, Subjects, token

_MINUTE: Final = 60
_DAY: Final = 24 * 60 * _MINUTE
_MIB: Final = 1024 * 1024
_NANO: Final = 1_000_000_000


@dataclass(frozen=True)
class Stream:
    """What one stream keeps.

    Attributes:
        kind: its name after the minicloud's.
        subjects: the subjects that it takes in.
        last: how many messages a subject are kept; 0 for no such limit.
        max_age: seconds; 0 for no limit.
        max_bytes: in all; oldest dropped first. JetStream sets it aside at once, so the sum must fit a small disk.
        log: whether it is a record to be replayed, so that a revision can be too old.
        durables: the consumers of services on it, by name. Readers may not touch them.
    """

    kind: str
    subjects: Callable[[Subjects], list[str]]
    last: int = 0
    max_age: int = 0
    max_bytes: int = 64 * _MIB
    log: bool = False
    durables: tuple[str, ...] = ()

    def name(self, minicloud: str) -> str:
        """The stream's name on the broker."""
        return stream_name(minicloud, self.kind)

    def config(self, minicloud: str) -> dict[str, Any]:
        """The stream as JetStream's API takes it."""
        return {
            "name": self.name(minicloud),
            "subjects": self.subjects(Subjects(minicloud)),
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_msgs_per_subject": self.last or -1,
            "max_bytes": self.max_bytes,
            "max_age": self.max_age * _NANO,
            "max_msg_size": -1,
            "num_replicas": 1,
            "duplicate_window": min(self.max_age or 120, 120) * _NANO,
            "allow_direct": True,
        }


STREAMS: Final = (
    Stream(
        "characterizations",
        lambda s: [s.characterization()],
        last=5,
        max_bytes=32 * _MIB,
        durables=("monitor",),
    ),
    Stream("metrics", lambda s: [s.metrics()], max_age=15 * _MINUTE),
    Stream("presence", lambda s: [s.presence(), s.worker(), s.cluster()], last=1),
    Stream("workloads", lambda s: [s.desired(), s.observed()], last=1),
    Stream("troubles", lambda s: [s.trouble()], max_age=30 * _DAY, max_bytes=16 * _MIB, log=True),
    Stream("devices", lambda s: [s.reading()], max_age=60 * _MINUTE, max_bytes=32 * _MIB),
    Stream("resources", lambda s: [s.resource()], max_age=30 * _DAY, max_bytes=256 * _MIB, log=True),
    Stream(
        "deployments",
        lambda s: [f"{s.root}.deployment.*.*"],
        max_age=365 * _DAY,
        max_bytes=128 * _MIB,
        log=True,
        durables=("vim",),
    ),
    Stream("queries", lambda s: [s.question()], last=1, max_bytes=4 * _MIB),
    Stream("storage", lambda s: [f"{s.root}.storage.>"], max_age=365 * _DAY, log=True, durables=("storage",)),
    Stream("dead", lambda s: [s.dead()], max_age=30 * _DAY, log=True),
    Stream("leases", lambda s: [f"{s.root}.lease.*"], last=1, max_age=6, max_bytes=_MIB),
)


def stream_name(minicloud: str, kind: str) -> str:
    """The JetStream stream that keeps one kind of event of a minicloud."""
    return f"{token(minicloud, 'minicloud')}_{kind}"


def stream_of(subject: str) -> Stream:
    """The stream that keeps ``subject`` (wildcards allowed in it).

    Raises:
        Conflict: no stream takes it in.
    """
    tokens = subject.split(".")
    for stream in STREAMS:
        if any(_within(tokens, pattern.split(".")) for pattern in stream.subjects(Subjects(ANY))):
            return stream
    raise Conflict("no stream keeps this subject", field=subject, expected="a subject of the contract")


def _within(tokens: list[str], pattern: list[str]) -> bool:
    """Whether every subject of ``tokens`` is one of ``pattern``."""
    if pattern[-1] == ">":
        pattern = pattern[:-1] + [ANY] * (len(tokens) - len(pattern) + 1)
    return len(tokens) == len(pattern) and all(p in (ANY, t) for t, p in zip(tokens, pattern, strict=True))
