"""Every part is obtained and does something real."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, ReplaceOne
from pymongo.database import Database

from bus.broker import Broker
from bus.credentials import Credential
from tests.parts.busybox import Busybox
from tests.parts.cni import CniPlugins
from tests.parts.containerd import Containerd
from tests.parts.debian import DebianPart
from tests.parts.etcd import Etcd
from tests.parts.go import GoPart
from tests.parts.kubernetes import KubernetesNode, KubernetesServers
from tests.parts.kwok import Kwok
from tests.parts.mongodb import MongoServer
from tests.parts.mosquitto import Mosquitto
from tests.parts.nats_server import NatsServer
from tests.parts.nftables import Nftables
from tests.parts.node_exporter import NodeExporter
from tests.parts.npm import AsyncApiParser
from tests.parts.opera import OperaParser
from tests.parts.part import Part, PartMissing, Progress
from tests.parts.prometheus import Prometheus
from tests.parts.qemu import Qemu, QemuArm
from tests.parts.runc import Runc


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", staticmethod(said.append))
    return said


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINICLOUD_PARTS", str(tmp_path / "parts"))
    return tmp_path / "parts"


class Counted(Part):
    """A part that counts how often it is made."""

    name = "counted"
    version = "1"

    def __init__(self) -> None:
        self.made = 0

    def build(self, into: Path) -> None:
        self.made += 1
        (into / "it").write_text("whole")


class Failing(Counted):
    name = "failing"

    def build(self, into: Path) -> None:
        (into / "it").write_text("half")
        raise PartMissing("no such thing here")


def test_a_part_is_made_once_and_then_cached(own_cache: Path, progress: list[str]) -> None:
    counted = Counted()
    assert (counted.obtain() / "it").read_text() == "whole"
    assert counted.obtain() == own_cache / "counted" / "1"
    assert counted.made == 1
    assert progress == [
        "parts: counted: obtaining 1",
        f"parts: counted: ready in {own_cache / 'counted' / '1'}",
    ]


def test_two_runs_at_once_make_a_part_once(own_cache: Path, progress: list[str]) -> None:
    counted = Counted()
    runs = [threading.Thread(target=counted.obtain) for _ in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert counted.made == 1


def test_a_part_that_cannot_be_had_says_why_and_leaves_no_half_of_it(
    own_cache: Path, progress: list[str]
) -> None:
    failing = Failing()
    assert failing.available() == "no such thing here"
    assert [path.name for path in (own_cache / "failing").iterdir()] == [".lock"]


class Slow(Counted):
    """A part that takes longer than its test may."""

    name = "slow"

    def build(self, into: Path) -> None:
        threading.Event().wait(1.5)


@pytest.mark.timeout(1, method="signal")
def test_the_making_of_a_part_is_not_the_time_of_the_test(
    own_cache: Path, progress: list[str], part: Callable[[Slow], Slow]
) -> None:
    assert part(Slow()).available() is None


def test_an_unknown_debian_package_is_a_missing_part(own_cache: Path) -> None:
    reason = DebianPart("none", ("minicloud-no-such-package",), "usr/bin/no-such-program").available()
    assert reason is not None
    assert "minicloud-no-such-package" in reason


def test_nats_server_tells_its_version() -> None:
    assert NatsServer().version.startswith("2.")


def test_busybox_is_static_and_runs(busybox: Busybox) -> None:
    said = subprocess.run([busybox.obtain(), "echo", "hello"], capture_output=True, text=True, check=True)
    assert said.stdout == "hello\n"


def test_runc_runs(runc: Runc) -> None:
    said = subprocess.run([runc.obtain(), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("runc version")


def test_qemu_runs(qemu: Qemu) -> None:
    said = subprocess.run([qemu.obtain(), "--version"], capture_output=True, text=True, check=True)
    assert "QEMU emulator" in said.stdout


def test_qemu_for_arm64_runs(part: Callable[[QemuArm], QemuArm]) -> None:
    said = subprocess.run(
        [part(QemuArm()).obtain(), "-machine", "help"], capture_output=True, text=True, check=True
    )
    assert "virt-7.2" in said.stdout or "virt " in said.stdout


def test_node_exporter_serves_its_page_and_stops(node_exporter: NodeExporter, tmp_path: Path) -> None:
    running, url = node_exporter.start(tmp_path / "out")
    with running, urllib.request.urlopen(url, timeout=10) as page:
        assert b"node_cpu_seconds_total" in page.read()
    assert running.process.poll() is not None


@pytest.mark.parametrize(
    ("built", "program", "says"),
    [
        (Etcd(), "etcd", "etcd Version: {}"),
        (Kwok(), "kwok", "kwok version {}"),
        (Containerd(), "containerd", "containerd/v2 {}"),
        (KubernetesServers(), "kube-apiserver", "Kubernetes {}"),
        (KubernetesNode(), "kubelet", "Kubernetes {}"),
        (CniPlugins(), "bridge", "CNI bridge plugin"),
    ],
    ids=lambda built: built.name if isinstance(built, Part) else "",
)
def test_go_programs_are_of_the_version_that_is_asked_for(
    part: Callable[[GoPart], GoPart], built: GoPart, program: str, says: str
) -> None:
    version = built.version.removeprefix("v") if program in ("etcd", "containerd") else built.version
    command = [part(built).obtain() / program, "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert says.format(version) in said.stdout + said.stderr


def test_nft_runs(part: Callable[[Nftables], Nftables]) -> None:
    said = subprocess.run(
        [part(Nftables()).obtain(), "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("nftables v")


class Broken(GoPart):
    """A Go program that does not compile."""

    def __init__(self, folder: Path) -> None:
        super().__init__("broken", "etcd", ["."], "no time")
        self.module = folder / "module"
        self.module.mkdir()
        (self.module / "go.mod").write_text("module broken\n")
        (self.module / "main.go").write_text("package main\nfunc main() { undefined() }\n")

    version = "v1"


def test_a_go_part_that_does_not_compile_says_why(
    own_cache: Path, progress: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(tmp_path)
    if shutil.which("go") is not None:
        assert "undefined" in str(broken.available())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no `go` on this machine; 1.26 or newer is needed" in str(broken.available())


def test_mosquitto_reads_what_mosquitto_wrote(
    mosquitto: Mosquitto, broker: Broker, admin: Credential, mc: str, tmp_path: Path
) -> None:
    topic = f"mc/{mc}/device/thermo-1/temperature"
    with mosquitto.subscribe(broker.ports.mqtt, admin, topic, tmp_path / "out") as subscriber:
        assert mosquitto.publish(broker.ports.mqtt, admin, topic, "21.5").returncode == 0
        assert subscriber.process.wait(10) == 0
        assert f"{topic} 21.5" in subscriber.text()


def test_mongodb_finds_what_was_written(database: Database[dict[str, Any]]) -> None:
    nodes = database["nodes"]
    for turn in (1, 2):
        nodes.bulk_write(
            [ReplaceOne({"_id": at}, {"load": at / 2, "turn": turn}, upsert=True) for at in range(100)]
        )
    assert nodes.count_documents({"turn": 2}) == 100
    best = nodes.find({"load": {"$gte": 10, "$lt": 20}}).sort([("load", -1)]).limit(2)
    assert [found["_id"] for found in best] == [39, 38]


def test_mongodb_keeps_what_it_acknowledged_over_a_restart(
    part: Callable[[MongoServer], MongoServer], tmp_path: Path
) -> None:
    server = part(MongoServer())
    with server.start(tmp_path / "data") as running, MongoClient[dict[str, Any]](running.url) as client:
        client["a"]["b"].insert_one({"_id": 1})
    with server.start(tmp_path / "data") as running, MongoClient[dict[str, Any]](running.url) as client:
        assert client["a"]["b"].find_one() == {"_id": 1}


def test_the_asyncapi_parser_tells_right_from_wrong(asyncapi_parser: AsyncApiParser, tmp_path: Path) -> None:
    document = tmp_path / "asyncapi.yaml"
    document.write_text("asyncapi: 3.0.0\ninfo: {title: t, version: '1'}\nchannels: {}\n")
    assert not [problem for problem in asyncapi_parser.problems(document) if problem["severity"] == 0]
    document.write_text("asyncapi: 3.0.0\ninfo: {title: t}\n")
    assert any("version" in problem["message"] for problem in asyncapi_parser.problems(document))


@pytest.mark.slow
@pytest.mark.parametrize(
    "unpacked",
    [Mosquitto(use_installed=False), Runc(use_installed=False), Busybox(use_installed=False)],
    ids=lambda unpacked: str(unpacked.name),
)
def test_a_debian_part_runs_unpacked(unpacked: Part, own_cache: Path, progress: list[str]) -> None:
    if isinstance(reason := unpacked.available(), str):
        pytest.skip(reason)
    program = unpacked.obtain()
    assert program.is_relative_to(own_cache)
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert "sage" in said.stdout + said.stderr


@pytest.mark.slow
def test_an_unpacked_qemu_finds_its_firmware(own_cache: Path, progress: list[str], tmp_path: Path) -> None:
    unpacked = Qemu(use_installed=False)
    if isinstance(reason := unpacked.available(), str):
        pytest.skip(reason)
    sector = tmp_path / "boot.img"
    # mov al, 0; out 0xf4, al; hlt: the debug-exit device turns 0 into exit status 1.
    sector.write_bytes(bytes([0xB0, 0x00, 0xE6, 0xF4, 0xF4]).ljust(510, b"\0") + b"\x55\xaa")
    ended = subprocess.run(
        [
            unpacked.obtain(), "-machine", "pc", "-accel", "tcg", "-display", "none", "-nodefaults",
            "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-drive", f"file={sector},format=raw",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr


def test_prometheus_answers_who_knows_its_password_and_nobody_else(
    prometheus: Prometheus, tmp_path: Path
) -> None:
    with prometheus.start(tmp_path / "data", [], "tests", "secret") as it:
        ask = urllib.request.Request(f"{it.url}/api/v1/query?query=vector(7)")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(ask, timeout=10)
        ask.add_header("Authorization", f"Basic {base64.b64encode(b'tests:secret').decode()}")
        with urllib.request.urlopen(ask, timeout=10) as answer:
            assert json.load(answer)["data"]["result"][0]["value"][1] == "7"


def test_opera_reads_a_tosca_document_and_refuses_another(opera: OperaParser, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    template = "topology_template: {node_templates: {one: {type: %s}}}"
    path.write_text("tosca_definitions_version: tosca_simple_yaml_1_3\n" + template % "tosca.nodes.Compute")
    assert opera.nodes(path) == ["one"]
    path.write_text("tosca_definitions_version: tosca_simple_yaml_1_3\n" + template % "tosca.nodes.Nothing")
    with pytest.raises(AssertionError, match="Nothing"):
        opera.nodes(path)


def test_a_missing_part_is_told_in_a_table_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    test = tmp_path / "test_needs.py"
    test.write_text(
        textwrap.dedent("""
            from tests.conftest import *
            from tests.parts.debian import DebianPart

            def test_it(part):
                part(DebianPart("nothing", ("minicloud-no-such-package",), "usr/bin/no-such-program"))
        """)
    )
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", str(test)]
    command[0] = __import__("sys").executable

    def run(ci: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("CI", ci)
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)

    skipped = run("")
    assert skipped.returncode == 0, skipped.stdout
    assert "parts that could not be had" in skipped.stdout
    assert "nothing" in skipped.stdout
    failed = run("true")
    assert failed.returncode == 1
    assert "the part nothing is missing" in failed.stdout
