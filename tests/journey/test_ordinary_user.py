"""The whole stack as an ordinary user: processes and unikernels run, and containers say why they do not."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest

import minicloud
from schemas.node import Characterization
from tests.journey.conftest import MakeSite
from tests.journey.requests import page, started
from tests.journey.site import NODE, Site
from tests.journey.test_journey import build, fetch, ready, search, stopped
from tests.parts.process import free_port
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc

NOBODY = 65534
ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "bus", "services", "minicloud")


def open_to_all(path: Path) -> bool:
    """Whether anybody may read it and pass every folder above it."""
    path = path.resolve()
    return bool(path.stat().st_mode & 0o004) and all(
        folder.stat().st_mode & 0o001 for folder in [path.parent, *path.parent.parents]
    )


def python_for_all() -> tuple[str, Path]:
    """An interpreter like ours that anybody may run, and the folder of our dependencies."""
    libraries = Path(sysconfig.get_path("purelib"))
    if not open_to_all(libraries):
        pytest.skip(f"an ordinary user may not read {libraries}")
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, system):
        if Path(candidate).exists() and open_to_all(Path(candidate)):
            return candidate, libraries
    pytest.skip(f"an ordinary user may run neither {sys.executable} nor {system}")


@pytest.fixture
def user_site(make_site: MakeSite, ground: Path, programs: Path, runc: Runc, qemu: Qemu) -> Site:
    """A running site of user nobody; of ourselves, if we are no root."""
    for program in (runc.obtain(), qemu.obtain()):
        if not open_to_all(program):
            pytest.skip(f"an ordinary user may not run {program}")
        (programs / program.name).symlink_to(program)
    environment = search(programs)
    if os.geteuid() != 0:
        site = make_site(environment=environment)
        site.start()
        return site
    python, libraries = python_for_all()
    code = ROOT
    if not open_to_all(ROOT / "minicloud" / "__init__.py"):
        code = ground / "code"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, code / package)
    scripts = sysconfig.get_path("scripts")  # the broker's program is there
    environment = {
        **environment,
        "PATH": f"{environment['PATH']}:{scripts}",
        "PYTHONPATH": f"{code}:{libraries}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    site = make_site(environment=environment, command=become, program=[python, "-m", "minicloud"])
    site.data.mkdir(mode=0o700)
    os.chown(site.data, NOBODY, NOBODY)
    site.start()
    return site


@pytest.mark.slow
async def test_an_ordinary_user_gets_processes_and_unikernels(
    user_site: Site, ground: Path, starts: Path, images: Path
) -> None:
    build(images, "unikernel", images / "hello-unikernel/hello.elf")
    site = user_site
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    for part in ("up", "broker", "rid", "vim", "worker", "agent"):
        pid = site.pid(part)
        assert pid is not None, part
        assert psutil.Process(pid).uids().real == user, part
    async with minicloud.connect(site.data) as cloud:
        offered = (await ready(cloud))["runtimes"]
        assert set(offered) == {"process", "vm", "unikernel"}, site.logs()
        subject = cloud.bus.subjects.characterization(NODE)
        async with cloud.bus.watch({subject: Characterization}) as items:
            async for item in items:
                assert item.event is not None
                assert "needs root" in item.event.data.silent["runtimes.container"]
                break

        status = await cloud.deploy(page(ground, starts, "plain"))
        assert status.state == "running", site.logs()
        assert await fetch(status.replicas[0].endpoints[0]["url"]) == "the page\n"
        (pid,) = started(starts, "plain")
        assert psutil.Process(pid).uids().real == user

        image = {"kernel": str(images / "hello-unikernel/hello.elf"), "arguments": ["$(PORT)"]}
        status = await cloud.deploy({
            "name": "uni", "runtimes": ["container", "unikernel"],
            "images": {"unikernel": image, "container": {"rootfs": str(ground), "command": ["/busybox"]}},
            "resources": {"memory": "64MiB"}, "ports": [{"name": "http", "port": free_port()}], "health": {"http": "/"},
        })  # fmt: skip
        assert (status.state, status.replicas[0].runtime) == ("running", "unikernel"), site.logs()
        assert "from a unikernel" in await fetch(status.replicas[0].endpoints[0]["url"])

        status = await cloud.deploy({
            "name": "box", "runtimes": ["container"],
            "images": {"container": {"rootfs": str(ground), "command": ["/busybox"]}},
        })  # fmt: skip
        assert status.state == "unschedulable"
        assert "container" in status.message
        for name in ("plain", "uni", "box"):
            await stopped(cloud, name)
