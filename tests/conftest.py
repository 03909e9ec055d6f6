"""Fixtures from real parts, one a part.

A part that cannot be had skips its tests and is named in a table at the end of the run; where ``CI`` is
set, it fails them.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pymongo.database import Database

from bus.broker import Broker
from bus.credentials import Credential, Credentials
from tests.cluster.fixtures import *  # noqa: F403 - the fixtures of clusters
from tests.parts.busybox import Busybox
from tests.parts.mongodb import MongoServer, named_server, own_database
from tests.parts.mosquitto import Mosquitto
from tests.parts.nats_server import NatsServer
from tests.parts.node_exporter import NodeExporter
from tests.parts.npm import AsyncApiParser
from tests.parts.opera import OperaParser
from tests.parts.part import Part, PartMissing, Progress
from tests.parts.prometheus import Prometheus
from tests.parts.qemu import Qemu
from tests.parts.runc import Runc

SomePart = TypeVar("SomePart", bound=Part)

_MISSING = pytest.StashKey[dict[str, tuple[str, set[str]]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MISSING] = {}
    capture = config.pluginmanager.getplugin("capturemanager")
    told = Progress.say

    def say(line: str) -> None:
        # Obtaining a part may take minutes: whoever waits sees why, whatever pytest captures.
        if capture is None:
            told(line)
            return
        with capture.global_and_fixture_disabled():
            told(line)

    Progress.say = staticmethod(say)


#: What starts processes of ours by the dozen: left out of `make check`, like all that is marked slow by itself.
_SLOW = (
    "charagent/test_agent.py",
    "charagent/test_kill.py",
    "cluster/",
    "docs/test_examples.py",
    "docs/test_reference.py",
    "examples/",
    "fleet/",
    "journey/",
    "minicloud/",
    "monitor/test_archive.py",
    "monitor/test_prometheus.py",
    "monitor/test_service.py",
    "parts/",
    "bus/test_frame.py",
    "bus/test_links.py",
    "rid/test_docs.py",
    "rid/test_federation",
    "rid/test_kept.py",
    "rid/test_standing.py",
    "rid/test_store.py",
    "rid/test_watch.py",
    "vim/cluster/test_agents.py",
    "vim/cluster/test_breaks.py",
    "vim/cluster/test_containers.py",
    "vim/cluster/test_real_node.py",
    "vim/cluster/test_rights.py",
    "vim/cluster/test_up.py",
    "vim/test_index.py",
    "vim/test_input.py",
    "vim/test_journey.py",
    "vim/test_kill.py",
    "vim/test_large.py",
    "vim/test_real.py",
    "worker/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and str(item.path.relative_to(here)).startswith(_SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def part(request: pytest.FixtureRequest) -> Callable[[SomePart], SomePart]:
    """``part(Qemu())`` obtains a part, or skips (in CI: fails) the test that needs it."""

    def need(wanted: SomePart) -> SomePart:
        try:
            with _untimed():
                wanted.obtain()
        except PartMissing as missing:
            node = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
            _, tests = request.config.stash[_MISSING].setdefault(wanted.name, (str(missing), set()))
            tests.add(node)
            if os.environ.get("CI", "").lower() in ("true", "1"):
                pytest.fail(f"the part {wanted.name} is missing: {missing}", pytrace=False)
            pytest.skip(f"the part {wanted.name} is missing: {missing}")
        return wanted

    return need


@contextmanager
def _untimed() -> Iterator[None]:
    """The test's own time stands still: making a part may take minutes, once."""
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = config.stash[_MISSING]
    if not missing:
        return
    terminalreporter.section("parts that could not be had", yellow=True)
    width = max(len(name) for name in [*missing, "part"])
    terminalreporter.write_line(f"{'part':<{width}}  tests  why")
    for name, (reason, tests) in sorted(missing.items()):
        terminalreporter.write_line(f"{name:<{width}}  {len(tests):>5}  {reason}")


@pytest.fixture(scope="session")
def broker(
    part: Callable[[NatsServer], NatsServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """One embedded broker for the whole run; each test has a minicloud of its own on it (``mc``)."""
    running = part(NatsServer()).start(tmp_path_factory.mktemp("broker"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def admin(broker: Broker) -> Credential:
    """A credential of the shared broker that may do everything."""
    return Credentials(broker.data).add("admin", "tests")


@pytest.fixture
def mc() -> str:
    """The token of a minicloud that no other test uses."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def credentials(broker: Broker, mc: str) -> Iterator[Credentials]:
    """The shared broker's credentials, for the test's own minicloud; revoked at its end."""
    made = Credentials(broker.data, mc)
    yield made
    made.revoke_many((entry.role, entry.name) for entry in made.list() if entry.minicloud == mc)


@pytest.fixture
def own_broker(part: Callable[[NatsServer], NatsServer], tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, to be killed, stopped and started at will."""
    running = part(NatsServer()).start(tmp_path / "data")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def mosquitto(part: Callable[[Mosquitto], Mosquitto]) -> Mosquitto:
    """MQTT clients by others."""
    return part(Mosquitto())


@pytest.fixture(scope="session")
def mongodb(
    part: Callable[[MongoServer], MongoServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a server that speaks MongoDB's protocol: a real one where ``MONGODB_URL`` names it."""
    if url := named_server():
        yield url
        return
    with part(MongoServer()).start(tmp_path_factory.mktemp("mongodb")) as server:
        yield server.url


@pytest.fixture
def database(mongodb: str) -> Iterator[Database[dict[str, Any]]]:
    """A MongoDB database of the test's own."""
    with own_database(mongodb) as made:
        yield made


@pytest.fixture(scope="session")
def qemu(part: Callable[[Qemu], Qemu]) -> Qemu:
    """QEMU for x86-64."""
    return part(Qemu())


@pytest.fixture(scope="session")
def runc(part: Callable[[Runc], Runc]) -> Runc:
    """The runc program."""
    return part(Runc())


@pytest.fixture(scope="session")
def busybox(part: Callable[[Busybox], Busybox]) -> Busybox:
    """A static busybox."""
    return part(Busybox())


@pytest.fixture(scope="session")
def node_exporter(part: Callable[[NodeExporter], NodeExporter]) -> NodeExporter:
    """Prometheus' node_exporter."""
    return part(NodeExporter())


@pytest.fixture(scope="session")
def prometheus(part: Callable[[Prometheus], Prometheus]) -> Prometheus:
    """Prometheus itself."""
    return part(Prometheus())


@pytest.fixture(scope="session")
def opera(part: Callable[[OperaParser], OperaParser]) -> OperaParser:
    """xOpera's parser of TOSCA."""
    return part(OperaParser())


@pytest.fixture(scope="session")
def asyncapi_parser(part: Callable[[AsyncApiParser], AsyncApiParser]) -> AsyncApiParser:
    """The independent parser of AsyncAPI documents."""
    return part(AsyncApiParser())
