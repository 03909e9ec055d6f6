"""Image layers unpacked into a root filesystem, without trusting a byte of them.

In come tar files, plain or gzip; out comes a folder. Paths and links that leave the folder, devices
and oversized layers are refused; whiteouts of upper layers delete (OCI image-spec 1.1, layer).
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from services.vim.worker.oci import invalid
from services.vim.worker.workload import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_SIZE_LIMIT: Final = 16 * 1024**3
_ENTRY_LIMIT: Final = 1_000_000
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def unpack(layer: Path, root: Path) -> None:
    """Apply one layer onto ``root``, which only this caller writes to.

    Raises:
        CannotRun: ``ImageInvalid``; ``root`` is then to be thrown away.
    """
    try:
        with _plain(layer) as data, tarfile.open(fileobj=data, mode="r|") as tar:
            _apply(tar, root)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise invalid(f"layer {layer.name[:16]} is damaged: {error}") from error
    except OSError as error:
        raise CannotRun("CannotUnpack", f"layer {layer.name[:16]} cannot be unpacked: {error}") from error


def extract(layer: Path, wanted: dict[str, Path]) -> set[str]:
    """Copy the named regular files out of a layer; returns those that were there.

    Raises:
        CannotRun: ``ImageInvalid``.
    """
    found: set[str] = set()
    try:
        with _plain(layer) as data, tarfile.open(fileobj=data, mode="r|") as tar:
            for member in tar:
                name = "/".join(_parts(member.name))
                if name in wanted and member.isreg() and (content := tar.extractfile(member)) is not None:
                    with wanted[name].open("wb") as output:
                        shutil.copyfileobj(content, output)
                    found.add(name)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise invalid(f"layer {layer.name[:16]} is damaged: {error}") from error
    return found


@contextmanager
def _plain(layer: Path) -> Iterator[IO[bytes]]:
    with layer.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic == _ZSTD:
            raise CannotRun(
                "ImageInvalid", "a layer is compressed by zstd", lasting=True, expected="a tar, plain or gzip"
            )
        if magic.startswith(_GZIP):
            with gzip.open(raw) as data:
                yield data  # type: ignore[misc]
        else:
            yield raw


def _apply(tar: tarfile.TarFile, root: Path) -> None:
    size = 0
    fresh: set[str] = set()  # what this very layer brought is not hidden by its own opaque mark
    late: list[tuple[int, tuple[str, ...], tarfile.TarInfo]] = []
    for count, member in enumerate(tar):
        size += max(member.size, 0)
        if count > _ENTRY_LIMIT or size > _SIZE_LIMIT:
            raise invalid(f"a layer holds more than {_SIZE_LIMIT} B or {_ENTRY_LIMIT} entries")
        parts = _parts(member.name)
        if not parts:
            continue
        with _folder(root, parts[:-1]) as folder:
            if parts[-1].startswith(_WHITEOUT):
                _whiteout(folder, parts, fresh)
                continue
            _place(tar, member, folder, parts, root)
        for depth in range(len(parts)):
            fresh.add("/".join(parts[: depth + 1]))
        if member.isdir():
            late.append((len(parts), parts, member))
    # Modes of folders last: one without the right to write would refuse its own content.
    for _, parts, member in sorted(late, key=lambda item: -item[0]):
        with suppress(OSError), _folder(root, parts) as folder:
            os.fchmod(folder, stat.S_IMODE(member.mode) & 0o1777)


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise invalid(f"the path {name[:200]!r} leaves the image")
    return parts


@contextmanager
def _folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """The folder at ``parts``, made if need be, reached without following a link."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            except OSError as error:
                raise invalid(
                    f"the path {'/'.join(parts)[:200]!r} goes through something that is no folder"
                ) from error
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _place(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, parts: tuple[str, ...], root: Path
) -> None:
    name = parts[-1]
    if member.isdir():
        if not _is_folder(folder, name):
            _delete(folder, name)
            os.mkdir(name, 0o755, dir_fd=folder)
    elif member.isreg():
        _delete(folder, name)
        content = tar.extractfile(member)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        with os.fdopen(handle, "wb") as output:
            if content is not None:
                shutil.copyfileobj(content, output, 1024 * 1024)
            # Set-user-id is useless without new privileges, and dangerous on the host's side of the folder.
            os.fchmod(handle, stat.S_IMODE(member.mode) & 0o777)
    elif member.issym():
        _delete(folder, name)
        os.symlink(member.linkname, name, dir_fd=folder)  # followed inside the container only
    elif member.islnk():
        target = _parts(member.linkname)
        if not target:
            raise invalid(f"the hard link {'/'.join(parts)[:200]!r} has no target")
        with _folder(root, target[:-1]) as other:
            _delete(folder, name)
            os.link(target[-1], name, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)
    else:
        raise invalid(f"{'/'.join(parts)[:200]!r} is a device, a pipe or something stranger")
    if os.geteuid() == 0:
        os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)


def _whiteout(folder: int, parts: tuple[str, ...], fresh: set[str]) -> None:
    if parts[-1] != _OPAQUE:
        name = parts[-1].removeprefix(_WHITEOUT)
        if name in ("", ".", ".."):
            raise invalid(f"the whiteout {parts[-1]!r} names nothing")
        _delete(folder, name)
        return
    for name in os.listdir(folder):
        if "/".join((*parts[:-1], name)) not in fresh:
            _delete(folder, name)


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _delete(folder: int, name: str) -> None:
    if _is_folder(folder, name):
        shutil.rmtree(name, dir_fd=folder)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
