"""The node's part in a K3s cluster, told by the processes that run."""

from __future__ import annotations

from pathlib import Path

from services.charagent.probes.silent import Silent, children, text


def read(root: Path) -> dict[str, str]:
    """``{"role": "server" | "agent"}``; a server runs an agent too, and counts as server."""
    roles = set()
    for process in children(root / "proc"):
        if process.name.isdigit():
            name = text(process / "comm") or ""
            if name.startswith("k3s-"):  # K3s names its processes k3s-server and k3s-agent
                roles.add(name.removeprefix("k3s-"))
    for role in ("server", "agent"):
        if role in roles:
            return {"role": role}
    raise Silent("no k3s process runs")
