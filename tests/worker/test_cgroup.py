"""Control groups of both versions, on whatever of them this machine has."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.vim.worker.cgroup import Cgroups, GroupV2
from tests.worker.conftest import needs_root


@pytest.fixture
def parent() -> Iterator[str]:
    name = f"minicloud-test-{secrets.token_hex(4)}"
    yield name
    assert list(Path("/sys/fs/cgroup").glob(f"**/{name}")) == []


def joined(entries: list[Path]) -> subprocess.Popen[bytes]:
    """A sleeping process that joined a group as the shim does."""
    joins = "".join(f"echo 0 >{entry}; " for entry in entries)
    process = subprocess.Popen(["sh", "-c", f"{joins}echo in; exec sleep 1000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@needs_root
async def test_a_group_limits_lists_kills_and_goes(parent: str) -> None:
    groups = Cgroups(parent)
    if groups.kind == "none":
        pytest.skip(groups.reason)
    group = groups.group("job-0")
    assert group is not None
    group.create(cpu=0.5, memory=64 << 20, pids=10)
    process = joined(group.entries())
    assert process.pid in group.members()
    assert group.usage().tasks == 1
    group.create(cpu=None, memory=128 << 20, pids=20)  # again, with other limits
    await group.kill()
    assert process.wait(5) == -9
    await group.remove()
    await group.remove()
    groups.close()


@needs_root
async def test_version_2_lists_kills_and_goes(parent: str) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("no control groups of version 2 are mounted")
    group = GroupV2(mount / parent / "job-0", mount)
    group.create(cpu=0.5, memory=64 << 20, pids=10)  # where a controller is not there, nothing is limited
    process = joined(group.entries())
    assert process.pid in group.members()
    assert group.path() == f"/{parent}/job-0"
    await group.kill()
    assert process.wait(5) == -9
    await group.remove()
    (mount / parent).rmdir()
