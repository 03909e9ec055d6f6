"""What a node's owner decides about the workloads on it; every value has a safe default.

The service fills these from its environment and file; tests and tools construct them directly.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The node's side of running workloads.

    Attributes:
        bind: the address that published ports listen on.
        allow_root: whether a workload that asks for ``user: root`` gets it.
        uid: the user that workloads run as when the worker itself is root.
        gid: the group, likewise; there are no supplementary groups.
        pids_limit: processes and threads a workload may have (kernel limit).
        stop_grace: seconds between asking a workload to end and killing it.
        start_timeout: seconds within which a health probe must succeed for the first time.
        log_limit: bytes of output kept a workload; older output is dropped first.
        cgroup_parent: the group below which each workload gets one. Relative: below the worker's own
            group, so that limits set on the worker hold for what it runs; absolute: from the top.
        backoff: seconds before the first restart, doubled each time.
        backoff_limit: seconds that the doubling ends at.
        settled: seconds of good running after which the backoff starts anew.
        outbound: whether unikernels and VMs may open connections to the outside.
        runc: the program for containers; found in the path if not given.
        qemu: the program for unikernels and VMs, likewise.
        plain_registries: hosts (``name:port``) that may be read without TLS, beside loopback.
        foreign_machines: whether kernels for another machine than this one are run, emulated, where there
            is a QEMU for them beside the node's own.
        folders: folders of this node that unikernels may mount, each with what lies below it.
        writable_folders: those of them that they may write to, as far as their user may.
    """

    bind: str = "127.0.0.1"
    allow_root: bool = False
    uid: int = 65534
    gid: int = 65534
    pids_limit: int = 1024
    stop_grace: float = 10.0
    start_timeout: float = 60.0
    log_limit: int = 16 * 1024 * 1024
    cgroup_parent: str = "minicloud"
    backoff: float = 0.1
    backoff_limit: float = 30.0
    settled: float = 10.0
    outbound: bool = True
    runc: str | None = None
    qemu: str | None = None
    plain_registries: tuple[str, ...] = ()
    foreign_machines: bool = False
    folders: tuple[str, ...] = ()
    writable_folders: tuple[str, ...] = ()
