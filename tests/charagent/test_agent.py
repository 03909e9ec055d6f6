"""The agent as a process, on a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bus.broker import Broker
from bus.credentials import Credential, Credentials
from schemas.event import read_event
from schemas.node import Characterization, Measurement, Presence
from tests.charagent.conftest import Ear, Start, listen

KINDS = {"characterization": Characterization, "metrics": Measurement, "presence": Presence}


async def test_says_that_it_is_there_what_it_is_and_how_it_does(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential
) -> None:
    agent = start_agent(broker, mc, credential, "--region", "country=GR,city=Athens", "--label", "camera=yes")
    await ear.until(lambda: len(ear.of("measured")) >= 3)

    assert [event["type"].split(".")[2] for event in ear.heard[:2]] == ["presence", "characterized"]
    for subject, payload in ear.raw:
        aspect = subject.rsplit(".", 1)[1]
        event = read_event(payload, KINDS[aspect])
        assert event.source == f"/{mc}/node/pi-3"
        assert event.type == KINDS[aspect].event_type
        assert not event.data.model_extra  # nothing that the schema does not know
    (characterized,) = ear.of("characterized")
    what = characterized["data"]
    assert what["region"] == {"country": "GR", "city": "Athens"}
    assert what["labels"] == {"camera": "yes"}
    assert what["cpu"]["cores"] == len(os.sched_getaffinity(0))
    assert what["software"] == {"python3": ".".join(map(str, sys.version_info[:3]))}
    assert {runtime["name"] for runtime in what["runtimes"]} >= {"process"}
    values = ear.of("measured")[-1]["data"]["values"]
    assert {"cpu.used", "cpu.free", "memory.available", "load.1m", "network.rx"} <= values.keys()
    assert 0 <= values["cpu.used"] <= 100
    assert agent.stop() == 0


async def test_repeats_itself_for_whoever_was_not_there_yet(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential
) -> None:
    start_agent(broker, mc, credential, "--renew", "0.2")
    await ear.until(lambda: len(ear.of("characterized")) >= 3)
    assert len({event["id"] for event in ear.of("characterized")}) == 1  # one fact, one id
    assert set(ear.states()) == {"online"}


async def test_says_goodbye_on_sigterm(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential
) -> None:
    agent = start_agent(broker, mc, credential)
    await ear.until(lambda: ear.of("measured"))
    agent.process.send_signal(signal.SIGTERM)
    await ear.until(lambda: ear.states() == ["online", "offline"])
    assert ear.of("presence")[-1]["data"]["reason"] == "stopping"
    assert agent.process.wait(5) == 0


async def test_its_last_will_speaks_when_it_is_killed(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential
) -> None:
    agent = start_agent(broker, mc, credential)
    await ear.until(lambda: ear.of("measured"))
    agent.kill()
    await ear.until(lambda: ear.states() == ["online", "offline"])
    first, last = (event["data"] for event in ear.of("presence"))
    assert last["reason"] == "connection lost"
    assert last["session"] == first["session"]

    start_agent(broker, mc, credential)
    await ear.until(lambda: ear.states() == ["online", "offline", "online"])
    assert ear.of("presence")[-1]["data"]["session"] != first["session"]


async def test_the_broker_dies_and_nothing_measured_meanwhile_is_lost(
    start_agent: Start, own_broker: Broker
) -> None:
    credentials = Credentials(own_broker.data, "home")
    agent_credential, admin = credentials.add("agent", "pi-3"), credentials.add("admin", "tests")
    ear, connection = await listen(own_broker, admin, "home")
    agent = start_agent(own_broker, "home", agent_credential)
    await ear.until(lambda: ear.of("measured"))

    own_broker.kill()
    await connection.close()
    spool = Path(agent.command[agent.command.index("--data") + 1]) / "spool"

    def spooled() -> int:
        return sum(file.read_bytes().count(b"\n") for file in spool.glob("*.events"))

    agent.wait_until(lambda: spooled() >= 15)
    agent.kill()  # and it dies too: what it kept is on disk
    kept = [
        line.split(b" ", 2)[2] for f in sorted(spool.glob("*.events")) for line in f.read_bytes().splitlines()
    ]

    own_broker.start()
    ear, connection = await listen(own_broker, admin, "home")
    start_agent(own_broker, "home", agent_credential)
    await ear.until(lambda: len(ear.of("measured")) >= len(kept) + 3)
    ids = [event["id"] for event in ear.heard if event["type"] != "minicloud.node.presence.v1"]
    assert ids[: len(kept)] == [json.loads(payload)["id"] for payload in kept]
    assert ear.of("characterized")
    times = [event["time"] for event in ear.of("measured")]
    assert times == sorted(times)
    await connection.close()


async def test_returns_by_itself_when_the_broker_does(start_agent: Start, own_broker: Broker) -> None:
    credentials = Credentials(own_broker.data, "home")
    agent_credential, admin = credentials.add("agent", "pi-3"), credentials.add("admin", "tests")
    ear, connection = await listen(own_broker, admin, "home")
    agent = start_agent(own_broker, "home", agent_credential)
    await ear.until(lambda: ear.of("measured"))
    await connection.close()
    own_broker.kill()
    agent.wait_until(lambda: "connection broke" in agent.text())
    own_broker.start()
    ear, connection = await listen(own_broker, admin, "home")
    await ear.until(lambda: ear.states()[-1:] == ["online"] and ear.of("characterized"))
    assert agent.stop() == 0
    await connection.close()


async def test_notices_a_credential_that_may_not_speak_for_the_node(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credentials: Credentials
) -> None:
    stranger = credentials.add("agent", "pi-4")
    agent = start_agent(broker, mc, stranger)
    agent.wait_until(lambda: "minicloud credentials add agent pi-3" in agent.text())
    assert ear.heard == []
    assert agent.stop() == 0


async def test_notices_a_credential_that_is_refused(
    start_agent: Start, broker: Broker, mc: str, credential: Credential
) -> None:
    agent = start_agent(broker, mc, Credential(credential.user, "wrong"))
    agent.wait_until(lambda: "the broker refuses user 'agent.pi-3'" in agent.text())
    assert agent.stop() == 0


async def test_takes_a_rotated_secret_without_a_restart(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential, credentials: Credentials
) -> None:
    agent = start_agent(broker, mc, credential)
    await ear.until(lambda: ear.of("measured"))
    changed = credentials.rotate("agent", "pi-3")
    Path(agent.command[agent.command.index("--password-file") + 1]).write_text(changed.password)
    await ear.until(lambda: ear.states() == ["online", "offline", "online"])


async def test_hears_that_another_agent_has_its_name(
    ear: Ear, start_agent: Start, broker: Broker, mc: str, credential: Credential, tmp_path: Path
) -> None:
    agent = start_agent(broker, mc, credential)
    await ear.until(lambda: ear.of("measured"))
    start_agent(broker, mc, credential, "--data", str(tmp_path / "other"))
    agent.wait_until(lambda: "another agent speaks for pi-3" in agent.text())


async def test_stops_at_once_while_the_broker_is_away(start_agent: Start, own_broker: Broker) -> None:
    credential = Credentials(own_broker.data, "home").add("agent", "pi-3")
    own_broker.stop()
    agent = start_agent(own_broker, "home", credential)
    agent.wait_until(lambda: "no MQTT broker answers" in agent.text())
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(2) == 0


def test_refuses_to_share_its_folder(
    start_agent: Start, broker: Broker, mc: str, credential: Credential, tmp_path: Path
) -> None:
    first = start_agent(broker, mc, credential)
    first.wait_until(lambda: "connected" in first.text())
    second = start_agent(broker, mc, credential)
    assert second.process.wait(10) == 2
    assert "another agent uses it" in second.text()


def test_once_prints_the_characterization(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "services.charagent",
        "--once",
        "--node",
        "pi-3",
        "--data",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    what = Characterization.model_validate_json(done.stdout)
    assert what.node == "pi-3"
    assert "python3" in what.software
    assert set(json.loads(done.stdout)) <= set(Characterization.model_fields)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--node", "a.b"], "node is 'a.b'"),
        (["--minicloud", "#"], "minicloud is '#'"),
        (["--broker", "nats://127.0.0.1:1"], "mqtt://host:1883"),
        (["--interval", "0"], "interval is '0'"),
        (["--label", "x"], "labels holds 'x'"),
        (["--password-file", "/nowhere"], "password_file cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(options: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "services.charagent", "--node", "pi-3", "--once", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_its_imports_stay_light() -> None:
    code = (
        "import sys, services.charagent.__main__\n"
        "from services.charagent.lean import import_paho\n"
        "import_paho(tls=False)\n"
        "heavy = ['asyncio', 'pydantic', 'nats', 'numpy', 'bus', 'schemas', 'ssl', '_hashlib',\n"
        "         'http', 'email', 'dataclasses', 'inspect', 'dns']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_stood_in_for_ssl_is_gone_afterwards() -> None:
    code = (
        "from services.charagent.lean import import_paho\n"
        "import_paho(tls=False)\n"
        "import ssl, urllib.request, hashlib\n"
        "print(ssl.create_default_context().check_hostname, urllib.request.urlopen.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True urlopen"
