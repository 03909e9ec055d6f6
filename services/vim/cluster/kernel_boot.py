"""A Unikraft kernel booted by KubeVirt, where the site lets it: what such a machine has that others do not.

Pure. Its network card works on a board of type ``pc`` with the older virtio only, which the site must list in
KubeVirt's ``emulatedMachines``; it finds its address in the place that KubeVirt's masquerade gives every guest.
"""

from __future__ import annotations

from typing import Any, Final

from schemas.workload import DesiredWorkload
from services.vim.worker.kernel import unikernel_line
from services.vim.worker.runtime import expand

KERNEL: Final = "/unikraft/bin/kernel"
_ADDRESS: Final = "10.0.2.2/24:10.0.2.1"


def boot_unikraft(domain: dict[str, Any], level: DesiredWorkload) -> dict[str, Any]:
    """The domain of a machine with the level's kernel in it.

    Raises:
        CannotRun: environment or arguments that a kernel's command line cannot carry.
    """
    line = unikernel_line(level.workload, level.env, arguments_of(level), address=_ADDRESS)
    container = {"image": level.image["image"], "kernelPath": KERNEL}
    return {
        **domain,
        "machine": {"type": "pc"},
        "firmware": {"kernelBoot": {"container": container, "kernelArgs": line}},
        "devices": {**domain["devices"], "useVirtioTransitional": True},
    }


def arguments_of(level: DesiredWorkload) -> list[str]:
    """The level's arguments with ``$(NAME)`` filled in from its environment, ``$(PORT)`` the first port."""
    ports = {"PORT": str(level.ports[0].port)} if level.ports else {}
    return expand([str(word) for word in level.image.get("arguments") or ()], {**level.env, **ports})
