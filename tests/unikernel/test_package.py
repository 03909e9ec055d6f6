"""One reference for every engine: what the image of a unikernel holds, and that a node's worker boots it."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vim.packaging import qemu as packaging
from services.vim.packaging.layout import Item
from services.vim.packaging.unikernel import Unikernel, package
from services.vim.worker.image import ImageStore
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import CannotRun, Health, Port
from tests.examples.test_container import Layout
from tests.parts.busybox import Busybox
from tests.parts.qemu import Qemu
from tests.worker.conftest import Room, room, workload  # noqa: F401

MADE = Unikernel(b"kernel", "x86_64", b"initrd", ("-v", "--", "/serve", "a b"), {"A": "1"})


@pytest.fixture
def settings(qemu: Qemu) -> EngineSettings:
    return EngineSettings(stop_grace=3.0, backoff=0.02, qemu=str(qemu.obtain()))


def images(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Manifest and configuration by ``os/architecture``; every digest on the way is checked."""
    layout = Layout(folder)
    (entry,) = layout.index()["manifests"]
    found = {}
    for descriptor in json.loads(layout.blob(entry))["manifests"]:
        manifest = json.loads(layout.blob(descriptor))
        platform = descriptor["platform"]
        found[f"{platform['os']}/{platform['architecture']}"] = (
            manifest,
            json.loads(layout.blob(manifest["config"])),
        )
    return found


def test_it_holds_the_kernel_as_unikrafts_tools_write_it_and_with_a_qemu_beside_it(tmp_path: Path) -> None:
    package(MADE, tmp_path, "1", {"entry": Item(b"#!")})
    found = images(tmp_path)
    assert list(found) == ["qemu/x86_64", "linux/amd64"]
    manifest, config = found["qemu/x86_64"]
    assert (config["architecture"], config["os"]) == ("x86_64", "qemu")
    assert config["config"] == {"Cmd": ["-v", "--", "/serve", "a b"], "Env": ["A=1"]}
    assert [layer["annotations"] for layer in manifest["layers"]] == [
        {"org.unikraft.kernel.image": "/unikraft/bin/kernel"},
        {"org.unikraft.kernel.initrd": "/unikraft/bin/initrd"},
    ]
    manifest, config = found["linux/amd64"]
    assert config["config"]["Entrypoint"] == ["/entry"]
    data = Layout(tmp_path).blob(manifest["layers"][-1])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        held = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
        texts = {name: file.read() for name, file in held.items() if file is not None}
        modes = {member.mode for member in tar if member.isreg()}
    assert texts == {
        "unikraft/bin/kernel": b"kernel",
        "unikraft/bin/initrd": b"initrd",
        "unikraft/defaults/arguments": b'/serve "a b"',
        "unikraft/defaults/env/A": b'"env.vars=A=1"',
        "unikraft/defaults/parameters": b"-v",
    }
    assert modes == {0o644}  # KubeVirt reads them as another user


def test_the_same_content_has_the_same_digest(tmp_path: Path, packed_qemu: dict[str, Item]) -> None:
    one = package(MADE, tmp_path / "one", "1", packed_qemu)
    assert package(MADE, tmp_path / "two", "other", packed_qemu) == one


def test_without_a_qemu_it_is_for_nodes_only(tmp_path: Path) -> None:
    package(MADE, tmp_path, "1")
    assert list(images(tmp_path)) == ["qemu/x86_64"]


async def test_a_worker_takes_the_kernel_with_its_defaults(tmp_path: Path) -> None:
    package(MADE, tmp_path / "image", "1", {"entry": Item(b"#!")})
    found = await ImageStore(tmp_path / "store").kernel({"layout": f"{tmp_path}/image:1"})
    assert (found.path.read_bytes(), found.arguments, found.env) == (b"kernel", MADE.arguments, MADE.env)
    assert found.initrd is not None


async def test_the_example_serves_from_its_image(
    room: Room,  # noqa: F811
    kernel: Path,
    tmp_path: Path,
) -> None:
    made = Unikernel(kernel.read_bytes(), "x86_64", arguments=("9090",), env={"GREETING": "good evening"})
    package(made, tmp_path / "image", "1")
    up = await room.run(
        workload(
            "unikernel", {"layout": str(tmp_path / "image")}, memory=16 << 20, ports=(Port("http", 9090),),
            health=Health(http="/healthz"),
        )
    )  # fmt: skip
    async with httpx.AsyncClient() as client:
        assert (await client.get(up["endpoints"][0]["url"])).text.startswith("good evening from a unikernel")


@pytest.mark.parametrize(
    "made", [Unikernel(b"", "x86_64", env={"A": "x\n"}), Unikernel(b"", "x86_64", arguments=("",))]
)
def test_what_no_command_line_carries_is_refused_when_it_is_packed(made: Unikernel, tmp_path: Path) -> None:
    with pytest.raises(CannotRun):
        package(made, tmp_path, "1", {})


def test_a_program_that_is_no_qemu_says_so(tmp_path: Path, busybox: Busybox) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho nonsense >&2; exit 3\n")
    program.chmod(0o755)
    with pytest.raises(packaging.CannotPackage, match="nonsense"):
        packaging.files("x86_64", program, Path(busybox.obtain()))
