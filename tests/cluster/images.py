"""Container images made by code: a static busybox and more files, as an archive that any runtime loads."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.parts.busybox import Busybox
from tests.worker.oci_layout import LayoutWriter, layer, link

#: What holds the namespaces of a pod.
PAUSE: Final = "localhost/pause:1"
#: What runs any command of busybox.
BUSYBOX: Final = "localhost/busybox:1"
_PROGRAMS: Final = ("sh", "sleep", "httpd", "wget", "cat", "echo", "tail", "env", "true", "false")


def write(
    archive: Path,
    name: str,
    command: Sequence[str],
    files: dict[str, bytes] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """An image with busybox in it.

    Args:
        archive: the OCI archive to write.
        name: what pods call the image; ``localhost/`` for what no registry has.
        command: what it runs.
        files: more files of its root filesystem, by path without leading slash.
        config: more of the image's configuration, as OCI names it.
    """
    entries: dict[str, Any] = {f"{folder}/": None for folder in ("bin", "tmp", "etc", "proc", "sys", "dev")}
    entries["bin/busybox"] = Busybox().obtain().read_bytes()
    entries |= {f"bin/{program}": link("busybox") for program in _PROGRAMS}
    entries |= files or {}
    with tempfile.TemporaryDirectory() as made:
        layout = LayoutWriter(Path(made) / "layout")
        defaults = {"Env": ["PATH=/bin"], "Cmd": list(command)}
        image = layout.image([layer(entries)], {**defaults, **(config or {})})
        # containerd takes the whole name from its own annotation.
        image["annotations"] = {"io.containerd.image.name": name}
        layout.tag(image)
        with tarfile.open(archive, "w") as tar:
            for path in sorted(layout.folder.iterdir()):
                tar.add(path, path.name)
    return archive


def pause(archive: Path) -> Path:
    """The image that every pod starts with."""
    return write(archive, PAUSE, ["sleep", "infinity"])


def busybox(archive: Path) -> Path:
    """The image ``BUSYBOX``; it sleeps until it is told otherwise."""
    return write(archive, BUSYBOX, ["sleep", "infinity"])
