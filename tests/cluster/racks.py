"""Racks: nodes that exist in the API only, kept alive by one KWOK a rack, so that killing it loses the rack.

Their pods run as ``stages.yaml`` says; annotations of a pod tell it otherwise:

| annotation | what the pod does |
| --- | --- |
| ``minicloud.dev/stuck`` | stays Pending |
| ``minicloud.dev/start-after: 2s`` | runs only then |
| ``minicloud.dev/unready`` | once told not Ready, stays so |
| ``minicloud.dev/run-for: 3s`` | a Job's pod ends only then, else after half a second |
| ``minicloud.dev/exit-code: "1"`` | a Job's pod ends with this code |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.cluster.control_plane import Pace

RACK: Final = "minicloud.dev/rack"
_STAGES: Final = Path(__file__).with_name("stages.yaml")


def node(rack: str, number: int) -> dict[str, Any]:
    """A node of a rack as an API object: 8 processors, 32 GiB, 110 pods."""
    name = f"{rack}-{number:03}"
    room = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    labels = {
        RACK: rack,
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": rack,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": room, "allocatable": room},
    }


def command(programs: Path, kubeconfig: Path, rack: str, index: int, pace: Pace) -> list[str | Path]:
    """The KWOK of a rack; each has pod addresses of its own, else two pods would share one."""
    return [
        programs / "kwok", "-v", "WARN", "--kubeconfig", kubeconfig, "--config", _STAGES,
        "--manage-nodes-with-label-selector", f"{RACK}={rack}",
        "--cidr", f"10.{100 + index}.0.1/16",
        "--node-lease-duration-seconds", str(pace.lease_s),
    ]  # fmt: skip


def kinds_command(programs: Path, kubeconfig: Path, stages: Path) -> list[str | Path]:
    """A KWOK for the Stages of custom resources, and of pods that they make; it keeps no node alive."""
    return [
        programs / "kwok", "-v", "WARN", "--kubeconfig", kubeconfig, "--config", stages,
        "--manage-nodes-with-label-selector", RACK, "--node-lease-duration-seconds", "0",
        "--cidr", "10.99.0.1/16",
    ]  # fmt: skip
