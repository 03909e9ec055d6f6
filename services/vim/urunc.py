"""urunc, a container runtime that boots unikernels: what it can be given, and how it is told.

Pure, and all that is known of urunc 0.5.0 stands here. It reads annotations of the pod, which we make and a
tenant never does; it needs the node's KVM, gives a unikernel no files and no volumes, runs nothing inside of it
(so no exec probes), and ends it by SIGKILL.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

_PREFIX: Final = "com.urunc.unikernel"
_TORN: Final = frozenset(" \"'\\[]")


def urunc_cannot(env: Mapping[str, str], *, has_files: bool) -> str | None:
    """Why urunc cannot run a unikernel that needs these; None if it can."""
    if has_files:
        return "it gives a unikernel no files"
    for name, value in env.items():
        if not value or not value.isprintable() or set(value) & _TORN:
            return f"it passes the environment on unquoted, and {name} would not arrive as it is"
    return None


def urunc_annotations(kernel: str, arguments: str) -> dict[str, str]:
    """What tells urunc how to boot ``kernel``, a path in the image, with ``arguments`` as they stand in a line.

    Each value is base64: urunc decodes whatever happens to be that, ``qemu`` too, and nothing is left to chance.
    """
    values = {
        "unikernelType": "unikraft",
        "hypervisor": "qemu",
        "binary": kernel,
        "cmdline": arguments or " ",  # required, so it is never empty
    }
    return {f"{_PREFIX}.{name}": base64.b64encode(text.encode()).decode() for name, text in values.items()}
