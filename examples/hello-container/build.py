"""Builds the hello container without Docker: an OCI image layout and the same files as a plain folder.

In comes a static busybox of this machine and the two scripts below; out come ``hello-oci/`` (image-spec 1.0)
and ``rootfs/`` beside this file. Same busybox, same digests: no time, owner or file order of this machine is
in them.

Usage: python3 build.py [--busybox /bin/busybox] [--into FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import shutil
import struct
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
NOBODY = "65534:65534"
NOT_BUILT = 3

MACHINES = {
    "x86_64": {"architecture": "amd64"},
    "aarch64": {"architecture": "arm64"},
    "armv7l": {"architecture": "arm", "variant": "v7"},
}

# The shell stays the first process: that one gets only the signals it asks for, and httpd asks for none.
SERVE = """\
#!/bin/sh
read -r up rest </proc/uptime
export STARTED="${up%.*}"
/bin/busybox httpd -f -h /www -p "${HOST:-127.0.0.1}:${PORT:-8080}" &
server=$!
trap 'kill "$server"; exit 0' TERM INT
echo "hello: serving http://${HOST:-127.0.0.1}:${PORT:-8080}/"
wait "$server"
"""

# httpd runs this for "/", since there is no index.html.
PAGE = """\
#!/bin/sh
read -r up rest </proc/uptime
printf 'Content-Type: text/plain; charset=utf-8\\r\\n\\r\\n'
printf '%s from a container: up %s s\\n' "${GREETING:-hello}" "$((${up%.*} - STARTED))"
"""


@dataclass(frozen=True)
class Entry:
    """A file, folder (no content) or symbolic link of the image."""

    content: bytes | None = None
    link: str | None = None
    mode: int = 0o755


class CannotBuildError(Exception):
    """This machine lacks something; the message says what to install."""


def files(busybox: bytes) -> dict[str, Entry]:
    """The image's files by path, folders before what they hold."""
    folders = ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "www", "www/cgi-bin"]
    return {name: Entry() for name in folders} | {
        "bin/busybox": Entry(busybox),
        "bin/serve": Entry(SERVE.encode()),
        "bin/sh": Entry(link="busybox"),
        "etc/group": Entry(b"nogroup:x:65534:\n", mode=0o644),
        "etc/passwd": Entry(b"nobody:x:65534:65534:nobody:/tmp:/bin/false\n", mode=0o644),
        "www/cgi-bin/index.cgi": Entry(PAGE.encode()),
        "www/healthz": Entry(b"ok\n", mode=0o644),
    }


def find_busybox(given: Path | None) -> bytes:
    """The bytes of a busybox that needs no library.

    Raises:
        CannotBuildError: there is none.
    """
    wanted = "install busybox-static (Debian: apt-get install busybox-static) or name one with --busybox"
    found = given or shutil.which("busybox") or "/bin/busybox"
    try:
        program = Path(found).read_bytes()
    except OSError as error:
        raise CannotBuildError(f"no busybox at {found} ({error.strerror}): {wanted}") from error
    if needs_loader(program):
        raise CannotBuildError(f"{found} is no static ELF program: {wanted}")
    return program


def needs_loader(program: bytes) -> bool:
    """Whether it is no ELF file, or names a dynamic loader (a program header of type PT_INTERP)."""
    if program[:4] != b"\x7fELF":
        return True
    wide = program[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", program, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", program, 54 if wide else 42)
    return any(struct.unpack_from("<I", program, table + size * index)[0] == 3 for index in range(count))


def layer(entries: dict[str, Entry]) -> bytes:
    """The entries as a tar file that depends on nothing else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, entry in entries.items():
            info = tarfile.TarInfo(name)  # owner 0:0 and time 0 unless said otherwise
            info.mode = entry.mode
            if entry.link is not None:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
            elif entry.content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.content)
            tar.addfile(info, io.BytesIO(entry.content or b""))
    return out.getvalue()


def write_layout(folder: Path, entries: dict[str, Entry]) -> str:
    """Write an OCI image layout; the manifest's digest."""
    where = MACHINES.get(platform.machine())
    if where is None:
        raise CannotBuildError(f"no image for {platform.machine()}: expected one of {', '.join(MACHINES)}")
    machine = {**where, "os": "linux"}
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes | dict[str, Any], kind: str) -> dict[str, Any]:
        data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    files_layer = blob(layer(entries), LAYER)
    config = {
        **machine,
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": NOBODY,
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/serve"],
            "WorkingDir": "/",
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [files_layer["digest"]]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(config, CONFIG),
        "layers": [files_layer],
    }
    manifest = blob(document, MANIFEST)
    named = {**manifest, "platform": machine, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }
    (folder / "index.json").write_text(json.dumps(index, sort_keys=True))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(manifest["digest"])


def write_folder(folder: Path, entries: dict[str, Entry]) -> None:
    """Write the entries as files, readable for everybody whatever the umask is."""
    folder.mkdir()
    folder.chmod(0o755)
    for name, entry in entries.items():
        path = folder / name
        if entry.link is not None:
            path.symlink_to(entry.link)
            continue
        if entry.content is None:
            path.mkdir()
        else:
            path.write_bytes(entry.content)
        path.chmod(entry.mode)


def build(into: Path, busybox: Path | None = None) -> str:
    """Write ``hello-oci`` and ``rootfs`` below ``into``, in place of older ones; the image's digest.

    Raises:
        CannotBuildError: this machine lacks something.
    """
    entries = files(find_busybox(busybox))
    for name in ("hello-oci", "rootfs"):
        shutil.rmtree(into / name, ignore_errors=True)
    digest = write_layout(into / "hello-oci", entries)
    write_folder(into / "rootfs", entries)
    return digest


def main() -> int:
    """The command; 0, or 3 where this machine cannot build it."""
    parser = argparse.ArgumentParser(description="Build the hello container.")
    parser.add_argument("--busybox", type=Path, help="a static busybox; by default the one in PATH")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    try:
        print(f"hello-oci {build(given.into, given.busybox)}")
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        return NOT_BUILT
    return 0


if __name__ == "__main__":
    sys.exit(main())
