"""``minicloud package``: from a kernel to an image, or to what is missing."""

import tarfile
from pathlib import Path

import pytest

from tests.minicloud.conftest import minicloud
from tests.parts.busybox import Busybox
from tests.parts.qemu import Qemu
from tests.worker.conftest import guest  # noqa: F401


def test_an_archive_for_a_clusters_nodes(
    qemu: Qemu,
    busybox: Busybox,
    guest: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    into = tmp_path / "image.tar"
    done = minicloud(
        "package", guest, "localhost/hello:1", "--into", into, "--env", "A=1", "--qemu", qemu.obtain(),
        "--busybox", busybox.obtain(), "--", "8080",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.startswith("localhost/hello:1 sha256:")
    with tarfile.open(into) as tar:
        assert {"blobs", "index.json", "oci-layout"} <= set(tar.getnames())


def test_without_a_qemu_it_needs_nothing_of_the_machine(guest: Path, tmp_path: Path) -> None:  # noqa: F811
    into = tmp_path / "layout"
    assert minicloud("package", guest, "1", "--into", into, "--for-nodes").code == 0
    assert (into / "index.json").is_file()
    again = minicloud("package", guest, "1", "--into", into, "--for-nodes")
    assert (again.code, "exists already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (b"#!/bin/sh\n", ["--for-nodes"], "no kernel"),
        (None, ["--for-nodes", "--env", "A"], "no NAME=VALUE"),
        (None, ["--for-nodes", "--env", "A=x\ny"], "control characters"),
        (None, ["--qemu", "/bin/true", "--busybox", "/bin/true"], "does not start"),
    ],
)
def test_what_is_wrong_is_told(
    guest: Path,  # noqa: F811
    tmp_path: Path,
    content: bytes | None,
    options: list[str],
    complaint: str,
) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(guest.read_bytes() if content is None else content)
    done = minicloud("package", kernel, "1", "--into", tmp_path / "layout", *options)
    assert done.code != 0
    assert complaint in done.err
    assert not (tmp_path / "layout").exists()
