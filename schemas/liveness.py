"""Whether a node is alive, stale or lost: its presence and its silence in, one word out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["alive", "stale", "lost"]

#: Reasons of an agent that went in order.
LEAVING = frozenset({"stopping"})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When silence means something.

    Attributes:
        stale_after: seconds; for slow agents three of their intervals.
        lost_after: seconds; for slow agents twelve of their intervals.
    """

    stale_after: float = 15.0
    lost_after: float = 60.0


@dataclass(slots=True)
class Pulse:
    """The signs of life of one node. Times are seconds since the epoch, by our own clock.

    Attributes:
        heard: when it was last heard.
        interval: seconds between its samples, as it says.
        session: the run of its agent that is there; empty where that is not known.
        offline: why it is not there; empty while it is.
        offline_at: when we heard that.
        state: the verdict so far.
    """

    heard: float = 0.0
    interval: float = 0.0
    session: str = ""
    offline: str = ""
    offline_at: float = 0.0
    state: State | None = None

    def beat(self, at: float) -> None:
        """It was heard. Samples that go on after a farewell prove that it is there after all."""
        self.heard = max(self.heard, at)
        if self.offline and at - self.offline_at > max(2 * self.interval, 2.0):
            self.offline = ""

    def online(self, session: str, at: float) -> None:
        """Its agent says that it is there."""
        self.session, self.offline = session, ""
        self.heard = max(self.heard, at)

    def gone(self, session: str, reason: str, now: float) -> None:
        """Its agent, or the broker on its behalf, says that it is not; a former run's will is too late."""
        if not self.session or session == self.session:
            self.offline, self.offline_at = reason, now

    def judge(self, now: float, watching: float, thresholds: Thresholds) -> State:
        """The verdict at ``now``.

        Args:
            now: seconds since the epoch.
            watching: for how long we listen; silence before that may be ours, so it makes nobody lost.
            thresholds: what silence means.
        """
        silence = now - self.heard
        if self.offline or min(silence, watching) > max(thresholds.lost_after, 12 * self.interval):
            self.state = "lost"
        elif silence > max(thresholds.stale_after, 3 * self.interval):
            # Who was lost comes back by being heard, not by our forgetting.
            self.state = "lost" if self.state == "lost" else "stale"
        else:
            self.state = "alive"
        return self.state
