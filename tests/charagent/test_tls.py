"""The agent over TLS, against a broker with a certificate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker import Broker
from bus.broker_config import BrokerSettings, Tls
from bus.credentials import Credentials
from tests.charagent.conftest import Start
from tests.parts.nats_server import NatsServer


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with ``cert.pem`` for 127.0.0.1, signed by itself, and ``key.pem``."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=broker"
    )
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def tls_broker(certificate: Path) -> Iterator[Broker]:
    tls = Tls(certificate / "cert.pem", certificate / "key.pem")
    with NatsServer().start(certificate / "data", BrokerSettings(tls=tls)) as broker:
        yield broker


def test_connects_to_a_broker_that_it_can_check(
    tls_broker: Broker, start_agent: Start, certificate: Path
) -> None:
    credential = Credentials(tls_broker.data, "home").add("agent", "pi-3")
    agent = start_agent(tls_broker, "home", credential, "--ca", str(certificate / "cert.pem"))
    agent.wait_until(lambda: "connected to" in agent.text())
    assert agent.stop() == 0


def test_refuses_a_broker_that_it_cannot_check(tls_broker: Broker, start_agent: Start) -> None:
    credential = Credentials(tls_broker.data, "home").add("agent", "pi-3")
    url = tls_broker.mqtt_url.replace("mqtt://", "mqtts://")
    agent = start_agent(tls_broker, "home", credential, "--broker", url)
    agent.wait_until(lambda: "certificate verify failed" in agent.text())
    assert "connected to" not in agent.text()
    assert agent.stop() == 0
