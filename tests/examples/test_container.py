"""The hello container: a valid OCI layout with the same digests everywhere, and it runs, never as root."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.examples.conftest import EXAMPLES
from tests.examples.guest import ask
from tests.parts.busybox import Busybox
from tests.parts.process import PartProcess, free_port
from tests.parts.runc import Runc

BUILD = EXAMPLES / "hello-container" / "build.py"
NOBODY = 65534


@pytest.fixture(scope="session")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hello_container_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(build: ModuleType, busybox: Busybox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hello-container")
    folder.chmod(0o755)
    build.build(folder, busybox.obtain())
    return folder


class Layout:
    """Reads a layout and checks what the image-spec says of each descriptor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        algorithm, _, name = descriptor["digest"].partition(":")
        data: bytes = (self.folder / "blobs" / algorithm / name).read_bytes()
        assert algorithm == "sha256"
        assert hashlib.sha256(data).hexdigest() == name
        assert len(data) == descriptor["size"]
        return data

    def index(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "index.json").read_bytes())
        return document

    def manifest(self) -> dict[str, Any]:
        (entry,) = self.index()["manifests"]
        assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        document: dict[str, Any] = json.loads(self.blob(entry))
        return document

    def config(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.blob(self.manifest()["config"]))
        return document

    def layer(self) -> bytes:
        (layer,) = self.manifest()["layers"]
        return self.blob(layer)


def test_the_layout_follows_the_image_specification(built: Path) -> None:
    layout = Layout(built / "hello-oci")
    assert json.loads((layout.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index, manifest, config = layout.index(), layout.manifest(), layout.config()
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, index["manifests"][0]["mediaType"])
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert [each["mediaType"] for each in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar"]
    assert config["rootfs"] == {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(layout.layer()).hexdigest()}"],
    }
    assert index["manifests"][0]["platform"] == {
        key: config[key] for key in ("architecture", "os", "variant") if key in config
    }
    assert config["config"]["User"] == "65534:65534"
    named = {each["digest"].partition(":")[2] for each in (manifest["config"], *manifest["layers"])}
    named.add(index["manifests"][0]["digest"].partition(":")[2])
    assert {path.name for path in (layout.folder / "blobs" / "sha256").iterdir()} == named


def test_digests_depend_on_busybox_and_scripts_alone(
    build: ModuleType, built: Path, busybox: Busybox, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        build.build(tmp_path, busybox.obtain())
        again = build.build(tmp_path, busybox.obtain())
    finally:
        os.umask(before)
    assert again == Layout(built / "hello-oci").index()["manifests"][0]["digest"]


def test_the_folder_holds_what_the_layer_holds(built: Path) -> None:
    root = built / "rootfs"
    with tarfile.open(fileobj=io.BytesIO(Layout(built / "hello-oci").layer())) as tar:
        for member in tar:
            path = root / member.name
            assert path.is_symlink() == member.issym()
            assert path.is_dir() == member.isdir()
            if member.issym():
                assert str(path.readlink()) == member.linkname
                continue
            assert path.stat().st_mode & 0o7777 == member.mode
            if (file := tar.extractfile(member)) is not None:
                assert path.read_bytes() == file.read()
        assert {str(path.relative_to(root)) for path in root.rglob("*")} == set(tar.getnames())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "no busybox at "), (b"#!/bin/sh\n", "is no static ELF program: install busybox-static")],
)
def test_without_busybox_it_says_what_to_install(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    busybox = tmp_path / "busybox"
    if content is not None:
        busybox.write_bytes(content)
    done = subprocess.run(
        [sys.executable, BUILD, "--busybox", busybox, "--into", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert complaint in done.stderr
    assert "apt-get install busybox-static" in done.stderr
    assert not (tmp_path / "hello-oci").exists()


def bundle_of(layout: Layout, folder: Path, env: dict[str, str]) -> Path:
    """An OCI runtime bundle: the layer unpacked, the image's own command and user, nothing allowed."""
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(layout.layer())) as tar:
        tar.extractall(folder / "rootfs", filter="tar")
    image = layout.config()["config"]
    uid, gid = map(int, image["User"].split(":"))
    document = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": image["Entrypoint"],
            "env": [*image["Env"], *(f"{key}={value}" for key, value in env.items())],
            "cwd": image["WorkingDir"],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=64k"],
            },
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def state(runc: Runc, tmp_path: Path) -> Iterator[Path]:
    """runc's own folder, empty at the end."""
    folder = tmp_path / "state"
    yield folder
    for left in folder.iterdir():
        subprocess.run([runc.obtain(), "--root", folder, "delete", "--force", left.name], check=False)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root for a container without a user namespace")
def test_it_serves_as_nobody_and_ends_when_asked(
    runc: Runc, built: Path, state: Path, tmp_path: Path
) -> None:
    port = free_port()
    env = {"GREETING": "good 'evening' %s", "PORT": str(port)}
    bundle = bundle_of(Layout(built / "hello-oci"), tmp_path / "bundle", env)
    name = f"hello-{os.getpid()}"
    command: list[str | Path] = [runc.obtain(), "--root", state, "run", "--bundle", bundle, name]
    with PartProcess(command, tmp_path / "log") as container:
        container.wait_for_port(port)
        status, page = ask(port, "GET / HTTP/1.0\r\n\r\n")
        assert status == 200
        assert page.startswith("good 'evening' %s from a container: up ")
        assert ask(port, "GET /healthz HTTP/1.0\r\n\r\n") == (200, "ok\n")
        pids = json.loads(
            subprocess.run(
                [runc.obtain(), "--root", state, "ps", "--format", "json", name],
                capture_output=True,
                check=True,
            ).stdout
        )
        assert pids
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {NOBODY}
        subprocess.run([runc.obtain(), "--root", state, "kill", name, "TERM"], check=True)
        assert container.process.wait(10) == 0
    assert "hello: serving http://127.0.0.1:" in container.text()


def test_make_says_what_it_skipped_and_why(tmp_path: Path) -> None:
    shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("*.o", "*.elf", "hello-oci")
    )
    done = subprocess.run(
        ["make", "-C", tmp_path / "examples", "CC=no-such-compiler", f"PYTHON={sys.executable} -c 'exit(3)'"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped the unikernel: no no-such-compiler here (Debian: apt-get install gcc)" in done.stdout
    assert "skipped the container: " in done.stdout
