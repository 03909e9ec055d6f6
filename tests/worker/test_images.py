"""Images: choice of the architecture, digests, whiteouts, and layers that mean harm."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from services.vim.worker.image import ImageStore
from services.vim.worker.unpack import unpack
from services.vim.worker.workload import CannotRun
from tests.worker.oci_layout import LayoutWriter, layer, link


def write(tmp_path: Path, entries: dict[str, Any], **options: bool) -> Path:
    file = tmp_path / "layer.tar"
    file.write_bytes(layer(entries, **options))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.mark.parametrize("compressed", [False, True])
def test_layers_lie_upon_each_other(tmp_path: Path, root: Path, compressed: bool) -> None:
    unpack(write(tmp_path, {"a/one": b"1", "a/two": b"2", "b/x": b"x", "c": b"c", "d/e": b"e"}), root)
    upper = {
        "a/.wh.one": b"",
        "b/y": b"y",
        "b/.wh..wh..opq": b"",
        "d": b"now a file",
        "l": link("a/two"),
        "h": link("b/y", hard=True),
    }
    unpack(write(tmp_path, upper, compressed=compressed), root)
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert found == ["a", "a/two", "b", "b/y", "c", "d", "h", "l"]
    assert (root / "l").read_bytes() == b"2"
    assert (root / "h").read_bytes() == b"y"
    assert (root / "d").read_bytes() == b"now a file"


def device() -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = tarfile.BLKTYPE
    return info


@pytest.mark.parametrize(
    "entries",
    [
        {"../escaped": b""},
        {"a/../../escaped": b""},
        {"a": link("/tmp"), "a/escaped": b""},
        {"a": link(".."), "a/escaped": b""},
        {"escaped": link("../../secret", hard=True)},
        {"a": link("/"), "h": link("a/etc/passwd", hard=True)},
        {"sda": device()},
        {".wh...": b""},
    ],
)
def test_layers_that_mean_harm_are_refused(tmp_path: Path, root: Path, entries: dict[str, Any]) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(CannotRun) as refused:
        unpack(write(tmp_path, entries), root)
    assert refused.value.reason == "ImageInvalid"
    assert not list(tmp_path.glob("**/escaped"))


def test_a_whiteout_through_a_link_deletes_nothing_outside(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    with pytest.raises(CannotRun):
        unpack(write(tmp_path, {"a": link(str(outside)), "a/.wh.kept": b""}), root)
    assert (outside / "kept").exists()


def test_damaged_and_unknown_compression_are_told(tmp_path: Path, root: Path) -> None:
    for content, word in ((b"\x1f\x8bnonsense", "damaged"), (b"\x28\xb5\x2f\xfdnonsense", "zstd")):
        file = tmp_path / "layer"
        file.write_bytes(content)
        with pytest.raises(CannotRun, match=word):
            unpack(file, root)


async def test_the_image_for_this_machine_is_taken_and_kept_by_content(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    mine = writer.image([layer({"who": b"amd64"})], {"Cmd": ["/run"]})
    other = writer.image([layer({"who": b"s390x"})], {}, architecture="s390x")
    writer.tag(writer.index([other, mine]), "v1")
    store = ImageStore(tmp_path / "store")
    found = await store.root_filesystem({"layout": f"{tmp_path}/layout:v1"})
    assert (found.path / "who").read_text() == "amd64"
    assert found.config == {"Cmd": ["/run"]}
    assert found.path.name == mine["digest"].replace(":", "-")
    assert (await store.root_filesystem({"layout": f"{tmp_path}/layout"})).path == found.path
    with pytest.raises(CannotRun, match="v1") as refused:
        await store.root_filesystem({"layout": f"{tmp_path}/layout:v2"})
    assert refused.value.reason == "ImageNotFound"


async def test_another_architecture_is_named(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    writer.tag(writer.index([writer.image([layer({})], {}, architecture="s390x")]))
    with pytest.raises(CannotRun, match="linux/s390x") as refused:
        await ImageStore(tmp_path / "store").root_filesystem({"layout": f"{tmp_path}/layout"})
    assert refused.value.reason == "WrongArchitecture"


async def test_a_blob_that_was_changed_is_refused_and_not_kept(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    data = layer({"who": b"good"})
    image = writer.image([data], {})
    writer.tag(image)
    blob = writer.blob(data, "")
    file = tmp_path / "layout/blobs" / blob["digest"].replace(":", "/")
    file.write_bytes(data.replace(b"good", b"evil"))
    store = ImageStore(tmp_path / "store")
    with pytest.raises(CannotRun, match="digest") as refused:
        await store.root_filesystem({"layout": f"{tmp_path}/layout"})
    assert refused.value.reason == "ImageCorrupt"
    file.write_bytes(data)
    assert (await store.root_filesystem({"layout": f"{tmp_path}/layout"})).path.is_dir()


async def test_a_unikraft_image_gives_its_kernel(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    files = [layer({"unikraft/bin/kernel": b"kernel"}), layer({"unikraft/bin/initrd": b"initrd"})]
    config = {"Cmd": ["-c", "x"], "Env": ["A=1"]}
    mine = writer.image(files, config, os="qemu", architecture="x86_64")
    other = writer.image([layer({})], {}, os="fc", architecture="x86_64")
    writer.tag(writer.index([other, mine]))
    found = await ImageStore(tmp_path / "store").kernel({"layout": f"{tmp_path}/layout"})
    assert found.path.read_bytes() == b"kernel"
    assert found.initrd is not None
    assert found.initrd.read_bytes() == b"initrd"
    assert (found.arguments, found.env) == (("-c", "x"), {"A": "1"})
