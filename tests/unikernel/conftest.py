"""A QEMU to be packed, and kernels to put beside it."""

from pathlib import Path

import pytest

from services.vim.packaging import qemu as packaging
from services.vim.packaging.layout import Item
from tests.examples.conftest import kernel  # noqa: F401 - the example unikernel, built from its sources
from tests.parts.busybox import Busybox
from tests.parts.qemu import Qemu
from tests.worker.conftest import guest  # noqa: F401 - a kernel that ends as it is told


@pytest.fixture(scope="session")
def packed_qemu(qemu: Qemu, busybox: Busybox) -> dict[str, Item]:
    """QEMU as files of an image."""
    return packaging.files("x86_64", Path(qemu.obtain()), Path(busybox.obtain()))


def lay_out(items: dict[str, Item], root: Path) -> None:
    """The files in a folder, as a pod would find them at ``/``."""
    for path, item in items.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if item.link is not None:
            file.symlink_to(item.link)
        else:
            file.write_bytes(item.content)
            file.chmod(item.mode)
