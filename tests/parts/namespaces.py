"""What a machine must let us do before a cluster can run in namespaces of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.parts.part import Part, PartMissing, run_tool

_PROGRAMS: Final = {"setpriv": "util-linux", "unshare": "util-linux", "ip": "iproute2", "openssl": "openssl"}
_CGROUPS: Final = Path("/sys/fs/cgroup")
_CONTROLLERS: Final = {"cpu", "cpuset", "memory", "pids"}
#: What a node does in its namespaces, in little; it ends with the shell.
_TRY: Final = """
mount -t tmpfs tmpfs /run && mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib
PATH=$PATH:/usr/sbin:/sbin
ip link add nodes type bridge
ip link add real type veth peer name eth0
"""


class Namespaces(Part):
    """Namespaces for a control plane: root's, or an ordinary user's below a user namespace."""

    name = "namespaces"
    version = "of the kernel"

    def installed(self) -> Path:
        sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        for program, package in _PROGRAMS.items():
            if shutil.which(program, path=sbin) is None:
                raise PartMissing(f"no `{program}` on this machine: install {package}")
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        run_tool(["unshare", *user, "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "true"])
        return Path("/proc/self/ns")

    def build(self, into: Path) -> None:
        raise NotImplementedError("the machine has it or not")


class NodeMachine(Part):
    """A machine that a real node can run on: root, cgroups, overlay mounts, bridges."""

    name = "machine-for-a-node"
    version = "this one"

    def installed(self) -> Path:
        if os.geteuid() != 0:
            raise PartMissing("a real node needs root: its containers' cgroups and mounts are root's alone")
        unified = _CGROUPS / "cgroup.controllers"
        offered = unified.read_text().split() if unified.exists() else [at.name for at in _CGROUPS.glob("*")]
        if missing := _CONTROLLERS.difference(offered):
            raise PartMissing(f"a real node needs the cgroup controllers {', '.join(sorted(missing))}")
        if not os.access(
            _CGROUPS / "memory" if "memory" in offered and not unified.exists() else _CGROUPS, os.W_OK
        ):
            raise PartMissing(f"a real node needs {_CGROUPS} writable")
        run_tool(["unshare", "--net", "--mount", "sh", "-ec", _TRY])
        return _CGROUPS

    def build(self, into: Path) -> None:
        raise NotImplementedError("the machine can or cannot")
