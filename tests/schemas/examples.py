"""One event of each kind, every field said, as the product's own models make them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from docs.contract import REQUEST
from schemas.cluster import ClusterNode
from schemas.dead import DeadLetter
from schemas.decision import Decision, DeploymentStatus
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.event import Event, EventData, event
from schemas.federation import Heartbeat
from schemas.kept import KeptQuery
from schemas.node import Characterization, Measurement, Presence
from schemas.resource import ResourceChange
from schemas.trouble import NodeTrouble
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus

WHEN = datetime(2026, 5, 4, 9, 30, 0, 125000, tzinfo=UTC)
_REPLICA = {"replica": 0, "node": "pi-3", "runtime": "process"}

DATA: tuple[EventData, ...] = (
    Characterization.model_validate(
        {
            "node": "pi-3",
            "id": "f00d",
            "minicloud": "home",
            "agent": {"version": "0.1.0"},
            "addresses": [{"interface": "eth0", "family": "ipv4", "address": "10.0.0.3"}],
            "cpu": {"arch": "aarch64", "bits": 64, "cores": 4, "model": "Cortex-A72"},
            "memory": {"total": 4 * 1024**3},
            "disks": [{"device": "sda1", "mount": "/", "filesystem": "ext4", "total": 10**11, "kind": "ssd"}],
            "gpus": [{"name": "T4"}],
            "battery": {"charge": 50.0, "plugged": True},
            "os": {"name": "Debian", "version": "12", "kernel": "6.1"},
            "k3s": {"role": "agent"},
            "region": {"city": "Athens"},
            "rack": "r1",
            "labels": {"storage.worker": "yes"},
            "software": {"python3": "3.11.7"},
            "runtimes": [{"name": "unikernel", "engine": "qemu", "acceleration": "kvm"}],
            "silent": {"gpus": "no driver"},
            "probed_at": WHEN,
        }
    ),
    Measurement(node="pi-3", interval=5, values={"load.1m": 0.5, "memory.available": 1e9}),
    Presence(node="pi-3", state="online", reason="started", session="s", since=WHEN),
    WorkerStatus(
        node="pi-3",
        state="ready",
        runtimes=["process"],
        limits="cgroup-v2",
        allow_root=True,
        version="0.1.0",
        observed_at=WHEN,
    ),
    DesiredWorkload.model_validate(
        {
            **_REPLICA,
            "workload": "hello-0",
            "deployment": "hello",
            "generation": 1,
            "state": "running",
            "image": {"command": ["true"]},
            "cpu": 0.25,
            "memory": 1 << 26,
            "ports": [{"name": "http", "port": 80, "hostPort": 8080}],
            "files": [{"path": "a/b", "content": "x"}],
            "health": {"http": "/", "every": "5s"},
        }
    ),
    ObservedWorkload.model_validate(
        {
            **_REPLICA,
            "workload": "hello-0",
            "deployment": "hello",
            "generation": 1,
            "state": "running",
            "reason": "Started",
            "endpoints": [{"name": "http", "address": "127.0.0.1", "port": 80, "url": "http://127.0.0.1:80"}],
            "exit": {"code": 0},
            "started_at": WHEN,
            "observed_at": WHEN,
        }
    ),
    ResourceChange(
        node="pi-3", kind="changed", changed={"gpu": None}, attributes={"cpu.cores": 4}, observed_at=WHEN
    ),
    DeploymentRequest.model_validate(REQUEST),
    Cancellation(reason="enough"),
    Decision.model_validate(
        {
            "deployment": "hello",
            "generation": 1,
            "spec": "abc",
            "outcome": "scheduled",
            "request": REQUEST,
            "query": {"where": {"gpu": True}},
            "enforced": [{"field": "where", "by": "the index"}],
            "candidates": [{"node": "pi-3", "runtime": "process", "score": 1.0, "scores": {"load.5m": 1.0}}],
            "rejected": [{"reason": "gpu is false", "attribute": "gpu", "wanted": True, "nodes": ["pi-4"]}],
            "placements": [{**_REPLICA, "cpu": 0.25, "memory": 1 << 26}],
            "attempts": [{**_REPLICA, "reason": "ImageNotFound"}],
            "migrations": 17,
            "unmoved": [{**_REPLICA, "reason": "CannotMigrate", "message": "no other node fits"}],
            "considered": 2,
            "decided_at": WHEN,
        }
    ),
    DeploymentStatus.model_validate(
        {
            "deployment": "hello",
            "generation": 1,
            "sequence": 4,
            "from": "starting",
            "to": "running",
            "reason": "Started",
            "replicas": [{**_REPLICA, "state": "running"}],
            "problems": [{"field": "x", "message": "y", "expected": None}],
            "observed_at": WHEN,
        }
    ),
    DeadLetter(
        service="vim",
        subject="mc.home.deployment.x.request",
        stream="home_deployments",
        revision=3,
        reason="noise",
        problems=[{"field": None, "message": "m", "expected": None}],
        encoding="utf-8",
        payload="?",
        size=1,
        buried_at=WHEN,
    ),
    KeptQuery(name="best", query={"where": "gpu", "sort": [{"load.1m": "asc"}]}),
    Heartbeat(
        minicloud="pisa",
        epoch="e1",
        sequence=7,
        nodes=3,
        revision=42,
        heard=0.5,
        names=["queue.depth"],
        every=1,
    ),
    Migration.model_validate({"replica": 0, "from": "pi-3", "to": "pi-4", "reason": "the fan is loud"}),
    ClusterNode.model_validate(
        {
            "node": "pi-3",
            "cluster": "alpha",
            "kubernetes": "pi-3.local",
            "ready": False,
            "reason": "KubeletNotReady: container runtime is down",
            "address": "10.0.0.3",
            "taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
            "labels": {"kubernetes.io/os": "linux"},
            "allocatable": {"cpu": 3.5, "memory": 3 * 1024**3, "pods": 110},
            "runtimes": [
                {"name": "container", "engine": "k3s"},
                {"name": "unikernel", "engine": "qemu-pod", "acceleration": "kvm"},
            ],
            "silent": {"kubevirt": "the cluster serves no VirtualMachine"},
            "allow_root": True,
            "version": "0.1.0",
            "observed_at": WHEN,
        }
    ),
    NodeTrouble.model_validate(
        {
            "node": "pi-3",
            "troubles": [
                {
                    "what": "hot",
                    "message": "temperature: 91 C, limit 85",
                    "value": 91,
                    "limit": 85,
                    "unit": "C",
                    "since": WHEN,
                }
            ],
            "over": ["cpu"],
            "deployments": ["hello"],
            "workloads": [
                {
                    "workload": "hello-0",
                    "deployment": "hello",
                    "replica": 0,
                    "runtime": "process",
                    "state": "running",
                    "since": WHEN,
                }
            ],
            "observed_at": WHEN,
        }
    ),
)


def sent(data: EventData) -> Event[Any]:
    """``data`` as an event that somebody sends."""
    return event(data, "/home/tests", "pi-3")
