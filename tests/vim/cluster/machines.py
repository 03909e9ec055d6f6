"""Levels and KubeVirt's objects for tests of the pure parts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.workload import DesiredWorkload
from services.vim.cluster.machine import HASH, SETTLED, spec_hash, virtual_machine
from services.vim.cluster.machine_view import Ground, Level, Patience, View

MIB = 1024 * 1024
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE = Patience()
DISK: dict[str, Any] = {"container_disk": "registry.local/disk:1"}
#: Kubernetes' names are not ours.
GROUNDS = {"ka": Ground("a"), "kb": Ground("b"), "kc": Ground("c")}
LABELS = {"minicloud.dev/minicloud": "m", "minicloud.dev/deployment": "d", "minicloud.dev/workload": "d-0"}


def level(node: str = "a", state: Any = "running", revision: int = 1, **more: Any) -> Level:
    fields: dict[str, Any] = {
        "workload": "d-0",
        "deployment": "d",
        "generation": 1,
        "replica": 0,
        "node": node,
        "state": state,
        "runtime": "vm",
        "driver": "kubernetes",
        "cluster": "k",
        "engine": "kubevirt",
        "image": DISK,
        **more,
    }
    return Level(DesiredWorkload.model_validate(fields), revision)


def metadata() -> dict[str, Any]:
    return {"name": "u-1", "namespace": "ns", "labels": dict(LABELS), "annotations": {}}


def document(wish: Level, nodes: Sequence[str] = ("ka", "kb")) -> dict[str, Any]:
    return virtual_machine(wish.desired, metadata(), nodes)


def vm(wish: Level, printed: str | None = "Running", *, settled: str = "a", **status: Any) -> dict[str, Any]:
    made = document(wish)
    made["metadata"]["annotations"][SETTLED] = settled
    made["metadata"]["creationTimestamp"] = text(NOW)
    made["status"] = {"printableStatus": printed, **status} if printed else status
    return made


def vmi(wish: Level, node: str | None = "ka", phase: str = "Running", **status: Any) -> dict[str, Any]:
    where = {"nodeName": node} if node else {}
    return {
        "metadata": {"name": "u-1", "uid": "1-2-3", "annotations": {HASH: spec_hash(wish.desired)}},
        "status": {
            "phase": phase,
            "interfaces": [{"name": "default", "ipAddress": "10.0.0.7"}],
            **where,
            **status,
        },
    }


def migration(name: str, phase: str | None, age: float = 0, **state: Any) -> dict[str, Any]:
    status = {"phase": phase, "migrationState": state} if phase else {}
    created = text(NOW - timedelta(seconds=age))
    labels = {} if name.startswith("kubevirt-evacuation") else LABELS
    return {
        "metadata": {"name": name, "creationTimestamp": created, "labels": labels},
        "spec": {"vmiName": "u-1"},
        "status": status,
    }


def running(wish: Level | None = None, **more: Any) -> View:
    """A machine that runs on node a."""
    wish = wish or level()
    fields: dict[str, Any] = {
        "vm": vm(wish, created=True, ready=True),
        "vmi": vmi(wish),
        "grounds": GROUNDS,
        **more,
    }
    return View(**fields)


def condition(kind: str, status: str, reason: str = "", message: str = "", ago: float = 0) -> dict[str, Any]:
    since = text(NOW - timedelta(seconds=ago))
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
