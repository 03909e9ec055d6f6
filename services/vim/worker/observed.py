"""What a workload's supervisor tells the world: its record as an observed document.

In come the workload, the record of its runs and what limits it, out goes the document that the
service publishes (contract, Names: observed).
"""

from __future__ import annotations

from typing import Any

from services.vim.worker.cgroup import Cgroups
from services.vim.worker.runtime import Runtime, limit_of
from services.vim.worker.state import Record
from services.vim.worker.workload import MIB, Workload

Observed = dict[str, Any]


def observed_document(
    workload: Workload, record: Record, runtime: Runtime | None, bind: str, cgroups: Cgroups
) -> Observed:
    """The document; endpoints only while something may listen there."""
    listens = record.state in ("starting", "running", "degraded") and record.running is not None
    ports = record.ports if listens else {}
    emulated = workload.runtime in ("vm", "unikernel")
    return {
        "workload": workload.workload,
        "deployment": workload.deployment,
        "generation": workload.generation,
        "replica": workload.replica,
        "state": record.state,
        "reason": record.reason,
        "message": record.message,
        "runtime": workload.runtime,
        "engine": runtime.engine if runtime else None,
        "acceleration": record.acceleration if emulated else None,
        "reference": f"{workload.runtime}:{workload.workload}/{record.run}" if record.run else None,
        "endpoints": [
            {"name": name, "address": bind, "port": number, "url": f"http://{bind}:{number}"}
            for name, number in ports.items()
        ],
        "limits": _limits(workload, cgroups),
        "restarts": record.restarts,
        "exit": record.exit,
        "started_at": record.started_at,
    }


def _limits(workload: Workload, cgroups: Cgroups) -> dict[str, str]:
    """What enforces each limit, in words."""
    if cgroups.kind == "none":
        words = {"cpu": f"not enforced: {cgroups.reason}", "memory": "address space (RLIMIT_AS)"}
        if workload.runtime != "process":
            words["memory"] = f"not enforced: {cgroups.reason}"
    else:
        memory = limit_of(workload) or 0
        words = {
            "cpu": f"{cgroups.kind} {workload.cpu} cores",
            "memory": f"{cgroups.kind} {memory // MIB} MiB",
        }
    return {name: word for name, word in words.items() if getattr(workload, name) is not None}
