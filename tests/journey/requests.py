"""The requests that the journeys publish: a page that tells its start, and a job that runs once.

A worker gives a workload its own port number where it is free; so each asks for one of its own, lest two
sites that start in the same moment reach for the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from tests.parts.process import free_port
from tests.worker.conftest import carrying


def page(ground: Path, starts: Path, name: str, **fields: Any) -> dict[str, Any]:
    """A web server in a process; each start of it is a line in ``starts``."""
    script = (
        f'echo "$MINICLOUD_WORKLOAD $$" >>{starts}; echo "$MINICLOUD_WORKLOAD starts"; '
        f'exec {ground}/busybox httpd -f -p "$HOST:$PORT" -h {ground}/page'
    )
    return {
        "name": name,
        "runtimes": ["process"],
        "images": {"process": {"command": ["/bin/sh", "-c", script]}},
        "resources": {"cpu": "50m", "memory": "32MiB"},
        "ports": [{"name": "http", "port": free_port()}],
        "health": {"http": "/"},
        **fields,
        "env": {**fields.get("env", {}), **_marked(starts, name)},
    }


def job(starts: Path, name: str, **fields: Any) -> dict[str, Any]:
    """A job that runs to its end, once."""
    script = f'echo "$MINICLOUD_WORKLOAD $$" >>{starts}'
    return {
        "name": name,
        "runtimes": ["process"],
        "images": {"process": {"command": ["/bin/sh", "-c", script]}},
        "resources": {"cpu": "50m", "memory": "16MiB"},
        "restart": "never",
        **fields,
        "env": _marked(starts, name),
    }


def instances(starts: Path, name: str) -> list[int]:
    """The first process of each live instance of a deployment; what they forked to answer does not count."""
    ((mark, value),) = _marked(starts, name).items()
    found = carrying(f"{mark}={value}")
    return [pid for pid in found if _parent(pid) not in found]


def _marked(starts: Path, name: str) -> dict[str, str]:
    """What only the workloads of this deployment of this test carry on this machine."""
    return {"JOURNEY": f"{starts}:{name}"}


def _parent(pid: int) -> int:
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return 0


def started(starts: Path, name: str) -> list[int]:
    """The pids with which replica 0 of a deployment started, in order."""
    lines = [line.split() for line in starts.read_text().splitlines()]
    return [int(pid) for workload, pid in lines if workload == f"{name}-0"]
