"""What a machine must let us do before a cluster can run in namespaces of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.parts.part import Part, PartMissing, run_tool

_PROGRAMS: Final = {"setpriv": "util-linux", "unshare": "util-linux", "ip": "iproute2", "openssl": "openssl"}


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
