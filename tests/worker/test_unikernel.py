"""Unikernels as Unikraft's own tools package them, on a node of ours: images, folders, other machines, ends."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services.vim.worker.image import ImageStore
from services.vim.worker.settings import EngineSettings
from services.vim.worker.shim import MARKER
from services.vim.worker.workload import CannotRun, File, Health, Port, Workload
from tests.parts.qemu import Qemu, QemuArm
from tests.worker import arm64_guest
from tests.worker.conftest import Room, carrying, needs_root, workload
from tests.worker.oci_layout import LayoutWriter, layer
from tests.worker.unikraft_line import read

KERNEL, INITRD = "unikraft/bin/kernel", "unikraft/bin/initrd"
FSTAB = "CONFIG_LIBVFSCORE_AUTOMOUNT_UP=y"


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder that whoever runs the workloads can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o11)
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def offered(open_path: Path) -> Path:
    """A folder that the node's owner offers, with a comma in its name."""
    path = open_path / "offered, to all"
    path.mkdir(mode=0o755)
    (path / "inner").mkdir(mode=0o755)
    return path


@pytest.fixture
def settings(qemu: Qemu, offered: Path) -> EngineSettings:
    return EngineSettings(
        stop_grace=3.0, backoff=0.02, qemu=str(qemu.obtain()), folders=(str(offered),),
        writable_folders=(str(offered / "inner"),),
    )  # fmt: skip


def package(
    folder: Path, kernel: bytes, *, initrd: bytes | None = None, features: tuple[str, ...] = (), **config: Any
) -> LayoutWriter:
    """An image as Unikraft's tools write it: an index over machines and monitors, one file a layer, annotated."""
    writer = LayoutWriter(folder)
    files = {KERNEL: kernel, **({INITRD: initrd} if initrd is not None else {})}
    notes = {KERNEL: "org.unikraft.kernel.image", INITRD: "org.unikraft.kernel.initrd"}
    annotated = [{notes[path]: f"/{path}"} for path in files]
    layers = [layer({path: content, "unikraft/bin/config": b"not wanted"}) for path, content in files.items()]
    more: dict[str, Any] = {"os.version": "0.17.0", **({"os.features": list(features)} if features else {})}
    own = writer.image(layers, config, annotated, more, os="qemu", architecture="x86_64")
    others = [
        writer.image([layer({KERNEL: name.encode()})], {}, os=name, architecture=machine)
        for name, machine in (("fc", "x86_64"), ("xen", "x86_64"), ("linux", "amd64"))
    ]
    arm = writer.image([layer({KERNEL: b"arm"})], {}, os="qemu", architecture="arm64")
    return writer.tag(writer.index([*others, arm, own]), "latest")


def unikernel(image: dict[str, Any], **fields: Any) -> Workload:
    return workload("unikernel", image, memory=32 << 20, **fields)


def printed(room: Room) -> str:
    """The command line that the guest was given, told by itself."""
    return next(line for line in room.engine.logs("job-0") if "guest: " in line).partition("guest: ")[2]


async def test_a_packaged_kernel_boots_with_its_own_defaults(room: Room, guest: Path, tmp_path: Path) -> None:
    package(
        tmp_path / "image", guest.read_bytes(), initrd=b"070701", Cmd=["/serve", "stay"], Env=["A=1", "B=2"]
    )
    made = unikernel({"layout": str(tmp_path / "image")}, env={"B": "3"}, health=Health(console="stay"))
    await room.run(made)
    path, _, line = printed(room).partition(" ")
    found = read(line, kernel_path=path)
    assert found.argv == ["kernel", "/serve", "stay"]
    assert found.parameters["env.vars"] == ["A=1", "B=3"]
    assert found.parameters["vfs.fstab"] == ["initrd0:/:extract::ramfs=1:"]


async def test_its_own_parameters_and_arguments_come_in_place_of_the_images(
    room: Room, guest: Path, tmp_path: Path
) -> None:
    package(tmp_path / "image", guest.read_bytes(), Cmd=["/serve"])
    made = unikernel(
        {"layout": str(tmp_path / "image"), "arguments": ["ukdebug.level=3", "--", "$(PORT)", "stay"]},
        ports=(Port("http", 8080),), health=Health(console="stay"),
    )  # fmt: skip
    await room.run(made)
    found = read(printed(room).partition(" ")[2])
    assert found.argv == ["kernel", "8080", "stay"]
    assert found.parameters["ukdebug.level"] == ["3"]
    assert "vfs.fstab" not in found.parameters


@pytest.mark.parametrize(
    ("features", "mounts"),
    [((), False), (("CONFIG_LIBRAMFS=y", FSTAB), False), (("CONFIG_LIBRAMFS=y",), True)],
)
async def test_the_options_of_a_kernel_tell_whether_it_mounts_its_files_by_itself(
    tmp_path: Path, features: tuple[str, ...], mounts: bool
) -> None:
    package(tmp_path / "image", b"kernel", initrd=b"initrd", features=features)
    found = await ImageStore(tmp_path / "store").kernel({"layout": str(tmp_path / "image")})
    assert found.mounts_initrd is mounts
    assert found.initrd is not None


async def test_only_kernel_and_initrd_leave_the_image(tmp_path: Path) -> None:
    package(tmp_path / "image", b"kernel", initrd=b"initrd")
    found = await ImageStore(tmp_path / "store").kernel({"layout": str(tmp_path / "image")})
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["initrd", "kernel"]
    assert (found.path.read_bytes(), found.path.parent.name.startswith("sha256-")) == (b"kernel", True)


async def test_a_layout_without_a_tag_is_chosen_from_by_monitor_too(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "image")
    for name, machine in (("linux", "amd64"), ("fc", "x86_64"), ("qemu", "x86_64")):
        writer.tag(writer.image([layer({KERNEL: name.encode()})], {}, os=name, architecture=machine))
    found = await ImageStore(tmp_path / "store").kernel({"layout": str(tmp_path / "image")})
    assert found.path.read_bytes() == b"qemu"


async def test_an_image_for_other_monitors_only_says_so(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "image")
    writer.tag(writer.index([writer.image([layer({KERNEL: b""})], {}, os="fc", architecture="x86_64")]))
    with pytest.raises(CannotRun, match="fc/x86_64") as refused:
        await ImageStore(tmp_path / "store").kernel({"layout": str(tmp_path / "image")})
    assert (refused.value.reason, refused.value.expected) == ("WrongArchitecture", "qemu/amd64|x86_64")


@needs_root
async def test_folders_of_the_node_are_mounted_as_far_as_its_owner_lets_them(
    room: Room, guest: Path, offered: Path
) -> None:
    folders = [
        {"folder": str(offered), "mount": "/data", "read_only": True},
        {"folder": str(offered / "inner"), "mount": "/out", "read_only": False},
    ]
    image = {"kernel": str(guest), "arguments": ["stay"], "folders": folders}
    await room.run(unikernel(image, health=Health(console="stay")))
    found = read(printed(room).partition(" ")[2])
    assert found.parameters["vfs.fstab"] == ["fs1:/data:9pfs:::mkmp", "fs2:/out:9pfs:::mkmp"]
    (pid,) = [pid for pid in carrying(f"{MARKER}={room.engine.name}/", prefix=True) if _is_qemu(pid)]
    assert {str(offered), str(offered / "inner")} <= set(_open_files(pid))
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    assert [word.rpartition(",")[2] for word in words if word.startswith("local,")] == [
        "readonly=on",
        "readonly=off",
    ]
    assert words[words.index("-machine") + 1].startswith("pc,")
    assert Path(f"/proc/{pid}").stat().st_uid == 65534


@pytest.mark.parametrize(
    ("folder", "writes", "reason"),
    [
        ("offered, to all", True, "FolderNotAllowed"),
        ("offered, to all/../other", False, "FolderNotAllowed"),
        ("link", False, "FolderNotAllowed"),
        ("offered, to all/none", False, "ImageNotFound"),
    ],
)
async def test_a_folder_that_is_not_offered_is_refused(
    room: Room, guest: Path, offered: Path, folder: str, writes: bool, reason: str
) -> None:
    (offered.parent / "other").mkdir()
    (offered.parent / "link").symlink_to("other")
    share = {"folder": f"{offered.parent}/{folder}", "mount": "/data", "read_only": not writes}
    refused = await room.run(unikernel({"kernel": str(guest), "folders": [share]}), "failed")
    assert refused["reason"] == reason


async def test_its_files_come_as_a_ram_disk(room: Room, guest: Path) -> None:
    image = {"kernel": str(guest), "arguments": ["stay"]}
    await room.run(unikernel(image, files=(File("/etc/x", "y"),), health=Health(console="stay")))
    found = read(printed(room).partition(" ")[2])
    assert found.parameters["vfs.fstab"] == ["initrd0:/:extract::ramfs=1:"]


@pytest.mark.parametrize(
    ("word", "state", "reason", "code"),
    [
        ("off", "completed", "Completed", 0),
        ("zero", "completed", "Completed", 0),
        ("reset", "failed", "GuestReset", 1),
        ("rng", "failed", "GuestFailed", 1),
    ],
)
async def test_ends_without_a_word_are_told_apart(
    room: Room, guest: Path, word: str, state: str, reason: str, code: int
) -> None:
    end = await room.run(unikernel({"kernel": str(guest), "arguments": [word]}, restart="never"), state)
    assert (end["reason"], end["exit"]["code"]) == (reason, code)
    if word == "rng":
        assert "KVM" in end["message"]
        assert "8.1.3" in end["message"]


async def test_a_vm_that_panics_is_no_vm_that_ended_well(room: Room, guest: Path) -> None:
    image = {"kernel": str(guest), "arguments": ["reset"]}
    end = await room.run(workload("vm", image, memory=64 << 20, restart="never"), "failed")
    assert end["reason"] == "GuestReset"


async def test_what_qemu_said_of_an_earlier_run_is_not_held_against_this_one(room: Room, guest: Path) -> None:
    made = unikernel({"kernel": str(guest), "arguments": ["zero"]}, acceleration="kvm", restart="never")
    end = await room.run(made, "completed")
    assert end["exit"]["code"] == 0  # 1 from QEMU; where KVM is useless, the first run left a complaint


class TestOtherMachines:
    """A node that emulates arm64 beside its own machine."""

    @pytest.fixture
    def settings(self, qemu: Qemu, part: Callable[[QemuArm], QemuArm], open_path: Path) -> EngineSettings:
        programs = open_path / "programs"
        programs.mkdir()
        for found in (qemu.obtain(), part(QemuArm()).obtain()):
            (programs / found.name).symlink_to(found)
        return EngineSettings(
            stop_grace=3.0, backoff=0.02, qemu=str(programs / "qemu-system-x86_64"), foreign_machines=True
        )

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="arm64 is not another machine here")
    async def test_an_arm64_kernel_runs_emulated(self, room: Room, tmp_path: Path) -> None:
        kernel = arm64_guest.write(tmp_path)
        made = unikernel(
            {"kernel": str(kernel), "arguments": ["a b"]}, env={"A": "1"}, restart="never", acceleration="kvm"
        )
        end = await room.run(made, "completed")
        assert end["restarts"] == 0
        line = 'job-0 netdev.ip=10.0.2.15/24:10.0.2.2:10.0.2.3 env.vars=[ "A=1" ] -- "a b"'
        assert any(line in printed for printed in room.engine.logs("job-0"))
        assert read(line, kernel_path=None).argv == ["job-0", "a b"]

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="arm64 is not another machine here")
    async def test_without_a_debug_port_the_console_tells_a_crash(self, room: Room, tmp_path: Path) -> None:
        kernel = arm64_guest.write(tmp_path)  # it prints its command line
        image = {"kernel": str(kernel), "arguments": ["CRIT: Unikraft crash - Calypso (0.17.0)"]}
        end = await room.run(unikernel(image, restart="never"), "failed")
        assert end["reason"] == "GuestCrashed"

    async def test_its_own_machine_comes_first(self, tmp_path: Path) -> None:
        package(tmp_path / "image", b"own")
        found = await ImageStore(tmp_path / "store").kernel(
            {"layout": str(tmp_path / "image")}, ("x86_64", "aarch64")
        )
        assert found.path.read_bytes() == b"own"
        found = await ImageStore(tmp_path / "store").kernel({"layout": str(tmp_path / "image")}, ("aarch64",))
        assert found.path.read_bytes() == b"arm"


async def test_an_arm64_kernel_is_refused_where_it_is_not_emulated(room: Room, tmp_path: Path) -> None:
    if os.uname().machine == "aarch64":
        pytest.skip("arm64 is this machine")
    refused = await room.run(unikernel({"kernel": str(arm64_guest.write(tmp_path))}), "failed")
    assert (refused["reason"], "aarch64" in refused["message"]) == ("WrongArchitecture", True)


def _is_qemu(pid: int) -> bool:
    with suppress(OSError):
        return "qemu-system" in Path(f"/proc/{pid}/exe").readlink().name
    return False


def _open_files(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            yield str(entry.readlink())
