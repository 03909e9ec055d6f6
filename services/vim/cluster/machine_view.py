"""What a cluster holds of one machine: the machine, its instance, its migrations and the nodes under them.

In: objects as the API server sent them. Out: the few facts on which the status and the next step rest, each
told once, so that both read the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from schemas.workload import DesiredWorkload
from services.vim.cluster.machine import HASH, SETTLED

Object = dict[str, Any]
_OVER: Final = frozenset({"Succeeded", "Failed"})
#: Phases of a migration that has no target yet.
_WITHOUT_TARGET: Final = frozenset({"", "Pending", "Scheduling"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what KubeVirt gives no reason for.

    Attributes:
        target: until a migration has a target.
        migration: until it is done.
        start: until KubeVirt begins to start a machine.
    """

    target: timedelta = timedelta(seconds=120)
    migration: timedelta = timedelta(minutes=15)
    start: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Ground:
    """A Kubernetes node under a machine.

    Attributes:
        node: its name on the bus.
        ready: whether Kubernetes hears of it.
        fenced: whether somebody said that nothing runs there any more.
    """

    node: str
    ready: bool = True
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A desired level and the revision at which it came; the newest that wants it to run decides."""

    desired: DesiredWorkload
    revision: int


@dataclass(slots=True)
class View:
    """One machine.

    Attributes:
        vm: the VirtualMachine.
        vmi: its instance.
        migrations: of this instance, ours and others'.
        grounds: the cluster's nodes by their name in Kubernetes.
    """

    vm: Object | None = None
    vmi: Object | None = None
    migrations: Sequence[Object] = ()
    grounds: Mapping[str, Ground] = field(default_factory=dict)

    @property
    def deleting(self) -> bool:
        """Whether the machine is on its way out."""
        return self.vm is not None and "deletionTimestamp" in self.vm["metadata"]

    @property
    def status(self) -> Object:
        """What KubeVirt says of the machine."""
        return (self.vm or {}).get("status") or {}

    @property
    def strategy(self) -> str | None:
        """How the machine goes on by itself."""
        strategy = (self.vm or {}).get("spec", {}).get("runStrategy")
        return None if strategy is None else str(strategy)

    @property
    def phase(self) -> str:
        """Of the instance; empty without one."""
        if self.vmi is None:
            return ""
        return str((self.vmi.get("status") or {}).get("phase") or "Pending")

    @property
    def alive(self) -> bool:
        """Whether there is an instance that has not ended."""
        return self.vmi is not None and self.phase not in _OVER

    @property
    def gone(self) -> bool:
        """Whether nothing of it runs: a machine that is only printed as Stopped may still be going down."""
        return not self.status.get("created") and self.vmi is None

    @property
    def host(self) -> str | None:
        """The Kubernetes node under a living instance."""
        name = ((self.vmi or {}).get("status") or {}).get("nodeName") if self.alive else None
        return str(name) if name else None

    @property
    def node(self) -> str | None:
        """The same by its name on the bus."""
        ground = self.grounds.get(self.host or "")
        return ground.node if ground else None

    @property
    def lost(self) -> Ground | None:
        """The ground of a living instance where Kubernetes hears nothing of it; a node that is gone, too."""
        if self.host is None:
            return None
        ground = self.grounds.get(self.host, Ground(self.host, ready=False))
        return None if ground.ready else ground

    @property
    def settled(self) -> str | None:
        """The node, on the bus, that it was placed on and reached."""
        return _annotation(self.vm, SETTLED)

    @property
    def wish(self) -> str | None:
        """Which wish the machine was last written for."""
        return _annotation(self.vm, HASH)

    @property
    def hash(self) -> str | None:
        """Which wish the instance was started for."""
        return _annotation(self.vmi, HASH)

    @property
    def addresses(self) -> list[str]:
        """Of the instance; others after each migration."""
        interfaces = ((self.vmi or {}).get("status") or {}).get("interfaces") or []
        return [str(one["ipAddress"]) for one in interfaces if one.get("ipAddress")]

    @property
    def start_wanted(self) -> bool:
        """Whether KubeVirt still has to carry out a start: a halt now would be turned back."""
        return any(one.get("action") == "Start" for one in self.status.get("stateChangeRequests") or [])

    def condition(self, kind: str) -> Object:
        """A condition of the machine, empty where it does not say."""
        return _condition(self.status, kind)

    def condition_of_instance(self, kind: str) -> Object:
        """A condition of the instance, empty where it does not say."""
        return _condition((self.vmi or {}).get("status") or {}, kind)

    @property
    def paused_by(self) -> str | None:
        """Why the guest's processors stand still; None if they run. Ready stays true meanwhile."""
        for condition in (self.condition_of_instance("Paused"), self.condition("Paused")):
            if condition.get("status") == "True":
                return str(condition.get("reason") or "Paused")
        return None

    def migration(self, name: str) -> Object | None:
        """A migration by its name."""
        return next((one for one in self.migrations if one["metadata"]["name"] == name), None)

    @property
    def in_flight(self) -> list[Object]:
        """Migrations that are not over; KubeVirt refuses a second one."""
        return [one for one in self.migrations if phase_of(one) not in _OVER]


def phase_of(migration: Object) -> str:
    """Of a migration; empty for one that KubeVirt has not looked at."""
    return str((migration.get("status") or {}).get("phase") or "")


def overdue(migration: Object, now: datetime, patience: Patience) -> str | None:
    """Why a migration is given up; None while it is waited for. KubeVirt itself gives no reason."""
    phase = phase_of(migration)
    if phase in _OVER:
        return None
    age = now - moment(migration["metadata"]["creationTimestamp"])
    shown = phase or "no phase"
    if phase in _WITHOUT_TARGET and age > patience.target:
        return (
            f"it has been {shown} for {age.total_seconds():.0f} s and KubeVirt gives no reason; most often no node "
            "has room for a second launcher, or 5 migrations of the cluster or 2 of the node are under way"
        )
    if age > patience.migration:
        return f"it has been under way for {age.total_seconds():.0f} s and is still {shown}"
    return None


def moment(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text)


def _annotation(document: Object | None, name: str) -> str | None:
    value = ((document or {}).get("metadata", {}).get("annotations") or {}).get(name)
    return None if value is None else str(value)


def _condition(status: Object, kind: str) -> Object:
    return next((one for one in status.get("conditions") or [] if one.get("type") == kind), {})
