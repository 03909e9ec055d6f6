"""The built examples, and the proof that their tests leave no process behind."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    here = psutil.Process()
    before = {child.pid for child in here.children(recursive=True)}
    yield
    assert [child for child in here.children(recursive=True) if child.pid not in before] == []


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unikernel, built from its sources alone; warnings are errors."""
    compiler = shutil.which("gcc")
    probe = ["gcc", "-m32", "-ffreestanding", "-c", "-o", "/dev/null", "-x", "c", "/dev/null"]
    if compiler is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no gcc here that builds for 32-bit x86 (Debian: apt-get install gcc)")
    folder = tmp_path_factory.mktemp("kernel") / "hello-unikernel"
    shutil.copytree(EXAMPLES / "hello-unikernel", folder, ignore=shutil.ignore_patterns("*.o", "*.elf"))
    built = subprocess.run(
        ["make", "-C", folder, "CC=gcc -Werror"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "warning" not in built.stderr  # the linker's too
    return folder / "hello.elf"
