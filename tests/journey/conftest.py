"""A site of its own for each module, a place that ordinary users reach, and the proof that nothing is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import EXAMPLES
from tests.journey.site import Site
from tests.parts.busybox import Busybox
from tests.parts.nats_server import NatsServer
from tests.worker.conftest import leftovers

SomePart = Callable[[NatsServer], NatsServer]


@pytest.fixture(scope="session")
def ground(part: SomePart, busybox: Busybox) -> Iterator[Path]:
    """A folder that whoever runs workloads can reach, with a busybox and a page in it."""
    part(NatsServer())
    made = Path(tempfile.mkdtemp(prefix="minicloud-journey-"))
    made.chmod(0o755)
    shutil.copy(busybox.obtain(), made / "busybox")
    (made / "busybox").chmod(0o755)
    (made / "page").mkdir()
    (made / "page" / "index.html").write_text("the page\n")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def starts(ground: Path) -> Iterator[Path]:
    """A file where each workload of the test writes a line when it starts: ``<workload> <pid>``."""
    made = Path(tempfile.mkdtemp(dir=ground))
    made.chmod(0o777)
    file = made / "starts"
    file.touch()
    file.chmod(0o666)
    yield file
    shutil.rmtree(made)


def end(site: Site) -> None:
    """Stop a site and prove that nothing of it is left."""
    if not site.data.exists():
        return
    if site.process is None:  # killed by the test: whoever starts it again takes over what is left
        site.start()
    site.stop()
    left = leftovers(site.data / "worker")
    assert left == [], site.logs()
    shutil.rmtree(site.data)
    site.log.unlink()


@pytest.fixture(scope="module")
def site(ground: Path) -> Iterator[Site]:
    """One running site for a whole module."""
    made = Site(ground / f"site-{os.urandom(4).hex()}")
    made.start()
    yield made
    end(made)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(ground: Path) -> Iterator[MakeSite]:
    """Makes sites of the test's own, not started yet; takes what :class:`Site` takes after its folder."""
    made: list[Site] = []

    def make(*options: str, **fields: Any) -> Site:
        made.append(Site(ground / f"site-{os.urandom(4).hex()}", *options, **fields))
        return made[-1]

    yield make
    for site in made:
        end(site)


@pytest.fixture
def own_site(make_site: MakeSite) -> Site:
    """One such site."""
    return make_site()


@pytest.fixture(scope="module")
def programs(ground: Path) -> Iterator[Path]:
    """A folder of programs for the site's PATH."""
    made = ground / "programs"
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def images(ground: Path) -> Iterator[Path]:
    """A copy of the examples, to build images in."""
    made = ground / "examples"
    shutil.copytree(EXAMPLES, made, ignore=shutil.ignore_patterns("*.o", "*.elf", "hello-oci", "rootfs"))
    yield made
    shutil.rmtree(made)
