"""Events of believable nodes, as an agent sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from schemas.event import now
from schemas.node import Characterization, Measurement, Presence
from schemas.workload import DesiredWorkload, WorkerStatus

GIB = 1024**3


def characterization(node: str, mc: str = "home", **changes: Any) -> Characterization:
    """A four-core x86-64 node with 8 GiB."""
    document: dict[str, Any] = {
        "node": node,
        "id": f"id-of-{node}",
        "minicloud": mc,
        "agent": {"version": "0.1.0"},
        "addresses": [{"interface": "eth0", "family": "ipv4", "address": "192.168.1.4"}],
        "cpu": {"arch": "x86_64", "bits": 64, "cores": 4, "model": "A CPU"},
        "memory": {"total": 8 * GIB},
        "disks": [
            {"device": "/dev/sda1", "mount": "/", "filesystem": "ext4", "total": 64 * GIB, "kind": "ssd"},
            {"device": "nas:/", "mount": "/nas", "filesystem": "nfs", "total": 999 * GIB, "kind": "network"},
        ],
        "os": {"name": "debian", "version": "12", "kernel": "6.1.0-18"},
        "region": {"country": "GR", "city": "Athens"},
        "labels": {"zone": "kitchen"},
        "software": {"python3": "3.11.7"},
        "runtimes": [
            {"name": "process"},
            {"name": "container", "engine": "runc 1.1.5"},
            {"name": "unikernel", "acceleration": "tcg"},
        ],
        "silent": {"battery": "no power supply"},
        "probed_at": now(),
    }
    return Characterization.model_validate({**document, **changes})


def measurement(node: str, interval: float = 5.0, **values: float) -> Measurement:
    """A sample; ``load_1m`` stands for ``load.1m``."""
    named = {name.replace("_", "."): value for name, value in values.items()}
    return Measurement(node=node, interval=interval, values={"memory.available": 4.0 * GIB, **named})


def presence(node: str, *, online: bool = True, reason: str = "started", session: str = "a1") -> Presence:
    """The agent's word, or its will."""
    return Presence(
        node=node, state="online" if online else "offline", reason=reason, session=session, since=now()
    )


def worker(node: str, *runtimes: Any, state: Any = "ready") -> WorkerStatus:
    """The worker's word."""
    return WorkerStatus(
        node=node,
        state=state,
        runtimes=list(runtimes),
        limits="cgroup-v2",
        version="0.1.0",
        observed_at=now(),
    )


def desired(node: str, workload: str = "hello-0", state: Any = "running", **more: Any) -> DesiredWorkload:
    """A workload that should run there."""
    return DesiredWorkload(
        workload=workload,
        deployment=workload.rsplit("-", 1)[0],
        generation=1,
        replica=0,
        node=node,
        state=state,
        runtime="process",
        image={"command": ["true"]},
        **{"cpu": 1.0, "memory": GIB, **more},
    )


async def until(condition: Callable[[], Any], what: str, within: float = 10.0) -> Any:
    """Wait for a condition; it is looked at often, and the deadline is a failure."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)
    return found


def at(seconds: float) -> datetime:
    """A moment by its seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)
