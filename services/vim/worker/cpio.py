"""An initial RAM disk of a few files, in the format that kernels read (cpio "newc").

In come paths with content, out come the bytes of the archive (initramfs buffer format, Linux
Documentation/driver-api/early-userspace).
"""

from __future__ import annotations

from collections.abc import Iterable

from services.vim.worker.workload import File

_DIRECTORY = 0o040755
_REGULAR = 0o100000


def archive(files: Iterable[File]) -> bytes:
    """The archive of ``files`` with the folders that they lie in."""
    parts: list[bytes] = []
    made: set[str] = set()
    number = 0
    for file in files:
        folders = file.relative.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            folder = "/".join(folders[:depth])
            if folder not in made:
                made.add(folder)
                number += 1
                parts.append(_entry(number, folder, _DIRECTORY, b""))
        number += 1
        parts.append(_entry(number, file.relative, _REGULAR | file.mode, file.content.encode()))
    parts.append(_entry(0, "TRAILER!!!", 0, b""))
    return b"".join(parts)


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
