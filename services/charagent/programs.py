"""Programs of the machine: where they are, and what they answer within a short time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

TIMEOUT: Final = 3.0  # seconds; a `docker version` that waits for its daemon must not hold the agent up
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+[0-9A-Za-z.+~-]*")

_QEMU_NAMES: Final = {"armv6l": "arm", "armv7l": "arm", "i686": "i386"}


def find(name: str) -> str | None:
    """The path of a program, also of those that only root has on its PATH."""
    if "/" in name:
        return name if os.access(name, os.X_OK) else None
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in [*folders, "/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]:
        path = os.path.join(folder, name)  # noqa: PTH118 - a PATH lookup makes many strings, no Path needed
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 - the same
            return path
    return None


def output(command: Sequence[str], timeout: float = TIMEOUT) -> str | None:
    """What a program writes (both channels), or None: not there, failed, or too slow."""
    program = find(command[0])
    if program is None:
        return None
    try:
        child = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what a wrapper script started ends with it
        )
    except OSError:
        return None
    with child:
        try:
            said, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
    return said.decode(errors="replace") if child.returncode == 0 else None


def version(command: Sequence[str]) -> str | None:
    """The first version number that a program says, such as ``1.1.5`` of ``runc version 1.1.5+ds1``."""
    said = output(command)
    found = _VERSION.search(said) if said else None
    return found[0] if found else None


def qemu() -> str:
    """The name of QEMU's program for guests of this machine's own architecture."""
    arch = os.uname().machine
    return f"qemu-system-{_QEMU_NAMES.get(arch, arch)}"
