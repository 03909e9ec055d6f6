"""The first process of a unikernel's pod, started by hand in a folder that looks like the pod's files."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.vim.packaging.layout import Item
from services.vim.packaging.unikernel import Unikernel, _defaults
from services.vim.worker.machine import TRACE, hardware, network, processor
from tests.parts.process import PartProcess
from tests.unikernel.conftest import lay_out
from tests.worker.unikraft_line import Read, read

Boot = Callable[..., "Ended"]


@dataclass
class Ended:
    """What a run left."""

    code: int
    output: str
    told: str

    @property
    def line(self) -> Read:
        """The command line that the guest was given, as it told it."""
        line = next(line for line in self.output.splitlines() if "guest: " in line).partition("guest: ")[2]
        path, _, rest = line.partition(" ")
        return read(rest, kernel_path=Path(path).name)


@pytest.fixture(scope="module")
def pod(packed_qemu: dict[str, Item], guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a pod whose kernel ends as its last word says."""
    root = tmp_path_factory.mktemp("pod")
    lay_out(packed_qemu, root)
    lay_out({"unikraft/bin/kernel": Item(guest.read_bytes())}, root)
    return root


@pytest.fixture
def started(pod: Path, tmp_path: Path) -> Callable[..., PartProcess]:
    """Starts the entry; defaults are those of the image, ``more`` its environment."""

    def start(made: Unikernel | None = None, **more: str) -> PartProcess:
        defaults = pod / "unikraft/defaults"
        shutil.rmtree(defaults, ignore_errors=True)
        if made is not None:
            lay_out(_defaults(made), pod)
        words = {
            "MINICLOUD_BOARD_X86_64": " ".join(hardware("job-0", "x86_64", 16)),
            "MINICLOUD_BOARD_AARCH64": "nothing of this",
            "MINICLOUD_NETWORK": " ".join(network([], outbound=False)),
        }
        env = {
            "PATH": f"{pod}/bin", "MINICLOUD_ROOT": str(pod), "MINICLOUD_RUN": str(tmp_path),
            "MINICLOUD_TOLD": str(tmp_path / "told"), "MINICLOUD_LINE": "job-0 netdev.ip=10.0.2.15/24:10.0.2.2",
            **words, **more,
        }  # fmt: skip
        entry = [pod / "bin/busybox", "env", "-i", *(f"{name}={value}" for name, value in env.items())]
        return PartProcess([*entry, pod / "bin/busybox", "sh", pod / "entry"], tmp_path / "output")

    return start


@pytest.fixture
def boot(started: Callable[..., PartProcess], tmp_path: Path) -> Boot:
    """Runs the entry to its end."""

    def run(made: Unikernel | None = None, **more: str) -> Ended:
        with started(made, **more) as running:
            code = running.process.wait(30)
        told = tmp_path / "told"
        output = (tmp_path / "output").read_text(errors="replace").replace("\r", "")
        return Ended(code, output, told.read_text() if told.exists() else "")

    return run


@pytest.mark.parametrize(
    ("word", "code", "reason"),
    [
        ("clean", 0, ""),
        ("three", 3, ""),
        ("zero", 0, ""),
        ("off", 0, ""),
        ("crash", 85, "GuestCrashed"),
        ("reset", 1, "GuestReset"),
        ("rng", 1, "GuestFailed"),
        ("'Unikraft Crash - X' off", 1, "GuestCrashed"),
    ],
)
def test_it_ends_as_its_guest_and_says_what_the_code_cannot(
    boot: Boot, word: str, code: int, reason: str
) -> None:
    ended = boot(MINICLOUD_ARGUMENTS=word)
    assert (ended.code, ended.told.partition(":")[0]) == (code, reason)
    assert "guest: " in ended.output  # the console is what the pod prints


def test_a_machine_that_cannot_be_made_is_qemus_failure(boot: Boot, pod: Path) -> None:
    ended = boot(MINICLOUD_ARGUMENTS="off", MINICLOUD_ROOT="/nowhere")
    assert (ended.code, ended.told.partition(":")[0]) == (1, "EngineFailed")
    kernel = pod / "unikraft/bin/kernel"
    kernel.rename(pod / "kernel")
    try:
        ended = boot(MINICLOUD_ARGUMENTS="off")
    finally:
        (pod / "kernel").rename(kernel)
    assert ended.code == 1
    assert ended.told.startswith("EngineFailed: qemu: could not open kernel file")


def test_what_the_pod_says_goes_before_what_the_image_says(boot: Boot) -> None:
    image = Unikernel(
        b"",
        "x86_64",
        arguments=("random.seed=7", "--", "/serve", "a b", "clean"),
        env={"A": "1", "B": 'x "y" ]'},
    )
    own = boot(image).line
    assert own.argv == ["kernel", "/serve", "a b", "clean"]
    assert sorted(own.parameters["env.vars"]) == ["A=1", 'B=x "y" ]']
    assert own.parameters["random.seed"] == ["7"]
    given = boot(
        image,
        MINICLOUD_ENV='"env.vars=A=2"',
        MINICLOUD_NAMES="A",
        MINICLOUD_ARGUMENTS="off",
        MINICLOUD_PARAMETERS="",
    ).line
    assert given.argv == ["kernel", "off"]
    assert sorted(given.parameters["env.vars"]) == ["A=2", 'B=x "y" ]']
    assert "random.seed" not in given.parameters


@pytest.mark.parametrize(
    ("made", "parameters", "table"),
    [
        (None, "", ["initrd0:/:extract::ramfs=1:"]),
        (Unikernel(b"", "x86_64", mounts_initrd=True), "", None),
        (None, "vfs.fstab=initrd0:/x:extract:::", ["initrd0:/x:extract:::"]),
    ],
)
def test_a_ram_disk_becomes_the_root(
    boot: Boot, pod: Path, made: Unikernel | None, parameters: str, table: list[str] | None
) -> None:
    initrd = pod / "unikraft/bin/initrd"
    initrd.write_bytes(b"070701")
    try:
        ended = boot(made, MINICLOUD_ARGUMENTS="off", MINICLOUD_PARAMETERS=parameters)
    finally:
        initrd.unlink()
    assert ended.line.parameters.get("vfs.fstab") == table


def test_asked_to_end_it_ends_with_zero(started: Callable[..., PartProcess], tmp_path: Path) -> None:
    with started(MINICLOUD_ARGUMENTS="stay") as running:
        running.wait_until(lambda: b"guest: " in (tmp_path / "output").read_bytes())
        os.kill(running.process.pid, signal.SIGTERM)
        assert running.process.wait(10) == 0


def test_both_machines_get_the_processor_that_a_node_gives_them(pod: Path) -> None:
    entry = (pod / "entry").read_text()
    for machine in ("x86_64", "aarch64"):
        assert f"own_processor={processor(machine, accelerated=True)[-1]}" in entry
    assert " ".join(processor("x86_64", accelerated=False)) in entry
    assert " ".join(TRACE[2:]) in entry


def test_the_shell_of_the_image_is_enough(pod: Path) -> None:
    """Every word of the entry is busybox's: nothing of this machine is called."""
    names = {path.name for path in (pod / "bin").iterdir()}
    done = subprocess.run([pod / "bin/busybox", "sh", "-n", pod / "entry"], capture_output=True, check=False)
    assert done.returncode == 0
    assert {"busybox", "sh", "cat", "grep", "tail", "rm"} == names
