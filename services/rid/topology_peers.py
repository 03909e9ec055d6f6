"""Who else is there: the miniclouds whose heartbeats arrive on our links.

In: heartbeats. Out: names, how far each one's changes have come, and whether it can be asked now. Nobody
is configured: who is linked is known within a second, and who falls silent stays known, as missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from schemas.attributes import ATTRIBUTES
from schemas.errors import InvalidDocument
from schemas.event import read_event
from schemas.federation import Heartbeat
from schemas.names import name_in

log = structlog.get_logger("rid")

#: After so many heartbeats that did not come a minicloud is silent: no query waits for it.
_MISSED: Final = 4.0
#: Silent for so long, it is no longer part of what ``*`` means, seconds.
_FORGOTTEN: Final = 24 * 3600.0


@dataclass(slots=True)
class Peer:
    """Another minicloud.

    Attributes:
        beat: its last heartbeat.
        at: when that came, monotonic seconds.
        ahead: how far our clock is ahead of its, seconds, the way of the heartbeat included.
    """

    beat: Heartbeat
    at: float
    ahead: float


class Peers:
    """The other miniclouds.

    Args:
        minicloud: our own, which is no peer.
        clock: monotonic seconds.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        minicloud: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._minicloud = minicloud
        self._clock = clock
        self._now = now
        self._peers: dict[str, Peer] = {}
        self._names: frozenset[str] = frozenset()

    def take(self, subject: str, payload: bytes) -> Peer | None:
        """Take in a heartbeat; None if it is our own or cannot be read."""
        name = name_in(subject, 1)
        if name == self._minicloud:
            return None
        try:
            event = read_event(payload, Heartbeat)
        except InvalidDocument as error:
            log.warning("a heartbeat cannot be read", minicloud=name, error=str(error))
            return None
        if event.data.minicloud != name:
            # The broker lets a minicloud publish under its own name only, so the subject tells who speaks.
            log.warning("a heartbeat speaks for another", minicloud=name, said=event.data.minicloud)
            return None
        before = self._peers.get(name)
        if before is None:
            log.info("a minicloud is linked", minicloud=name, nodes=event.data.nodes)
        peer = Peer(event.data, self._clock(), self._now() - event.time.timestamp())
        self._peers[name] = peer
        if before is None or before.beat.names != event.data.names:
            self._names = frozenset(
                name for peer in self._peers.values() for name in peer.beat.names if name not in ATTRIBUTES
            )
        return peer

    def __getitem__(self, name: str) -> Peer:
        return self._peers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def known(self) -> list[str]:
        """Every minicloud heard within a day, by name."""
        now = self._clock()
        return sorted(name for name, peer in self._peers.items() if now - peer.at < _FORGOTTEN)

    @property
    def names(self) -> frozenset[str]:
        """The attributes of their nodes that nobody foresaw."""
        return self._names

    def silent(self, name: str) -> float | None:
        """For how many seconds a minicloud has been silent; None while its heart beats."""
        peer = self._peers[name]
        silence = self._clock() - peer.at
        return silence if silence > _MISSED * peer.beat.every else None
