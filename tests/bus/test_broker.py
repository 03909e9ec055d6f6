"""The embedded broker: ready when it says so, closed to strangers, the same after a restart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import nats
import psutil
import pytest

from bus.broker import Broker, BrokerSettings, Tls, Violation
from bus.broker_log import LogCursor, parse_violation
from bus.broker_process import running_pid
from bus.credentials import Credential, Credentials
from schemas.errors import Conflict, Unavailable
from tests.bus.clients import MqttClient, nats_as, wait_until

_PARENT = """
import sys
from pathlib import Path
from bus.broker import Broker
broker = Broker(Path(sys.argv[1]))
broker.start()
print(broker.pid, broker.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own_admin(own_broker: Broker) -> Credential:
    return Credentials(own_broker.data).add("admin", "root")


def test_it_is_ready_and_well_when_start_returns(own_broker: Broker) -> None:
    assert own_broker.monitor("healthz") == {"status": "ok"}
    shown = own_broker.monitor("varz")
    assert shown["jetstream"]["config"]
    assert shown["host"] == "127.0.0.1"
    assert shown["mqtt"]["port"] == own_broker.ports.mqtt


def test_its_files_are_for_its_owner_only(own_broker: Broker) -> None:
    folder = own_broker.data / "broker"
    assert oct(folder.stat().st_mode)[-3:] == "700"
    for name in ("broker.conf", "users.conf"):
        assert oct((folder / name).stat().st_mode)[-3:] == "600"


async def test_strangers_are_refused_even_while_there_are_no_credentials(own_broker: Broker) -> None:
    for options in ({}, {"user": "nobody", "password": "x"}):
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await nats.connect(own_broker.url, allow_reconnect=False, **options)
    with MqttClient(own_broker, None) as stranger:
        assert stranger.refused == "Not authorized"
    with MqttClient(own_broker, Credential("nobody", "x")) as stranger:
        assert stranger.refused == "Not authorized"


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_messages_credentials_and_ports_outlive_it(
    own_broker: Broker, own_admin: Credential, how: str
) -> None:
    ports = own_broker.ports
    async with nats_as(own_broker, own_admin) as client:
        await client.jetstream().add_stream(name="kept", subjects=["kept.*"])
        await client.jetstream().publish("kept.one", b"1")
    getattr(own_broker, how)()
    assert not own_broker.running
    own_broker.start()
    assert own_broker.ports == ports
    async with nats_as(own_broker, own_admin) as client:
        assert (await client.jetstream().get_last_msg("kept", "kept.one")).data == b"1"


def stored(broker: Broker, stream: str) -> int:
    """How many messages a stream holds, by the monitoring."""
    accounts = broker.monitor("jsz?accounts=true&streams=true").get("account_details", [])
    streams = [found for account in accounts for found in account.get("stream_detail", [])]
    return sum(found["state"]["messages"] for found in streams if found["name"] == stream)


async def test_a_retained_message_outlives_a_killed_broker(own_broker: Broker, own_admin: Credential) -> None:
    with MqttClient(own_broker, own_admin) as client:
        client.publish("mc/home/deployment/hello/status", "running", retain=True)
    # Acknowledged is not yet known to be stored: a kill right here once left nothing retained.
    wait_until(lambda: stored(own_broker, "$MQTT_rmsgs") == 1, "the retained message is stored")
    own_broker.kill()
    own_broker.start()
    with MqttClient(own_broker, own_admin) as client:
        assert client.subscribe("mc/home/deployment/hello/status")
        assert client.next().payload == b"running"


def test_poll_tells_how_it_ended(own_broker: Broker) -> None:
    assert own_broker.poll() is None
    os.kill(own_broker.pid, signal.SIGKILL)
    wait_until(lambda: own_broker.poll() is not None, "the broker's end is seen")
    assert own_broker.poll() == -signal.SIGKILL
    with pytest.raises(Unavailable, match="not running"):
        _ = own_broker.pid
    own_broker.start()
    assert own_broker.monitor("healthz") == {"status": "ok"}


def test_stop_leaves_no_process(own_broker: Broker) -> None:
    pid = own_broker.pid
    own_broker.stop()
    own_broker.stop()
    assert not psutil.pid_exists(pid)
    assert running_pid(own_broker.data / "broker") is None


def test_two_owners_of_one_folder_are_refused(own_broker: Broker) -> None:
    with pytest.raises(Conflict, match=f"pid {own_broker.pid}"):
        Broker(own_broker.data).start()
    assert own_broker.monitor("healthz") == {"status": "ok"}


def test_a_broker_whose_parent_was_killed_is_replaced(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _PARENT,
            tmp_path,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    orphan, url = parent.stdout.readline().split()
    parent.kill()
    parent.communicate()
    assert psutil.pid_exists(int(orphan))
    with Broker(tmp_path) as heir:
        assert not psutil.pid_exists(int(orphan)) or psutil.Process(int(orphan)).status() == "zombie"
        assert heir.url == url


def test_a_taken_fixed_port_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = Broker(tmp_path, BrokerSettings(port=port))
        with pytest.raises(Conflict, match=f"{port}.*address already in use"):
            broker.start()
        assert not broker.running
    broker.start()
    assert broker.url == f"nats://127.0.0.1:{port}"
    broker.stop()


def test_a_remembered_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.start()
    before = broker.ports
    broker.stop()
    with socket.create_server(("127.0.0.1", before.nats)), broker:
        assert broker.ports.nats != before.nats


def test_a_broken_configuration_is_told_with_the_brokers_own_words(tmp_path: Path) -> None:
    broker = Broker(tmp_path, BrokerSettings(sync_interval="soon"))
    with pytest.raises(Unavailable, match=r"soon|sync_interval"):
        broker.start()
    assert not broker.running


async def test_a_refused_mqtt_publish_is_counted_and_told_with_its_user(tmp_path: Path) -> None:
    told: list[Violation] = []
    with Broker(tmp_path, on_violation=told.append) as broker:
        device = Credentials(tmp_path).add("device", "thermo-1")
        with MqttClient(broker, device, "thermo-1") as client:
            client.publish("mc/home/device/thermo-2/temperature")
            wait_until(lambda: bool(told), "the refusal is told")
        assert told[0].kind == "publish"
        assert told[0].user == "device.thermo-1"
        assert told[0].subject == "mc.home.device.thermo-2.temperature"
        assert told[0].client == "thermo-1"
        with MqttClient(broker, Credential(device.user, "wrong")):
            wait_until(lambda: broker.violations["authentication"] == 1, "the refused password is told")
        assert broker.violations["publish"] == 1


async def test_a_message_over_the_limit_is_refused(own_broker: Broker, own_admin: Credential) -> None:
    async with nats_as(own_broker, own_admin) as client:
        assert client.max_payload == 1024 * 1024
        with pytest.raises(nats.errors.MaxPayloadError):
            await client.publish("x", b"x" * (client.max_payload + 1))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for loopback, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command: list[str | Path] = ["openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


async def test_with_certificates_it_speaks_tls_only(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with Broker(tmp_path / "data", BrokerSettings(tls=Tls(cert, key, ca=cert))) as broker:
        admin = Credentials(broker.data).add("admin", "root")
        assert broker.url.startswith("tls://")
        assert broker.mqtt_url.startswith("mqtts://")
        async with nats_as(broker, admin, tls=ssl.create_default_context(cafile=str(cert))) as client:
            assert (await client.jetstream().account_info()).streams == 0
        secure = MqttClient(broker, admin)
        secure.paho.tls_set(str(cert))
        with secure:
            assert secure.refused is None
            assert secure.subscribe("mc/#")
        with socket.create_connection(("127.0.0.1", broker.ports.mqtt), timeout=5) as plain:
            plain.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
            assert plain.recv(4) != b"\x20\x02\x00\x00"


def test_a_log_cursor_reads_whole_lines_once_and_follows_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    cursor = LogCursor(path)
    with path.open("a") as log:
        log.write("one\ntw")
    assert cursor.lines() == ["one"]
    with path.open("a") as log:
        log.write("o\n")
    assert cursor.lines() == ["two"]
    path.rename(tmp_path / "old")
    path.write_text("new\n")
    assert cursor.lines() == ["new"]
    assert cursor.lines() == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '[ERR] 127.0.0.1:4 - cid:14 - "py" - "$G/user:user.u" - Subscription Violation - Subject "mc.x"',
            Violation("subscribe", "127.0.0.1:4", 14, "py", "user.u", "mc.x"),
        ),
        (
            '[1] x [ERR] 127.0.0.1:4 - mid:34 - "d1" - Publish Violation - Subject "mc.home.device.e.t"',
            Violation("publish", "127.0.0.1:4", 34, "d1", None, "mc.home.device.e.t"),
        ),
        (
            '[1] x [ERR] 127.0.0.1:4 - cid:22 - authentication error - User "viewer.eve"',
            Violation("authentication", "127.0.0.1:4", 22, "", "viewer.eve", None),
        ),
        ("[1] x [INF] Server is ready", None),
    ],
)
def test_a_line_of_the_log_is_read(line: str, expected: Violation | None) -> None:
    assert parse_violation(line) == expected
