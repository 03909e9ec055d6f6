"""Another machine joins over TLS with one pasted line; who cannot prove itself is not trusted."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from minicloud.invitation import Invitation
from schemas.errors import InvalidDocument
from tests.minicloud.conftest import NODE, Running, Stack, minicloud, server, typed
from tests.parts.nats_server import NatsServer


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate of that name for 127.0.0.1, with its key beside it."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hub"
    )
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {folder}/{name}.key -out {folder}/{name}.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    made = tmp_path_factory.mktemp("tls")
    certificate(made, "hub")
    certificate(made, "stranger")
    return made


@pytest.fixture(scope="module")
def hub(part: Callable[[NatsServer], NatsServer], folder: Path) -> Iterator[Stack]:
    part(NatsServer())
    options = ["--fleet", "1", "--tls-cert", str(folder / "hub.pem"), "--tls-key", str(folder / "hub.key")]
    running = Stack(folder / "data", *options, "--tls-ca", str(folder / "hub.pem"))
    try:
        yield running
    finally:
        assert running.end() == 0


def test_the_whole_stack_speaks_tls(hub: Stack) -> None:
    assert hub.site["broker"].startswith("tls://")
    assert hub.site["mqtt"].startswith("mqtts://")
    hub.wait_for_nodes(NODE)
    hub.until(lambda: "sim-00000" in hub.ask("nodes").out)
    assert hub.ask("deploy", "-", stdin=server("encrypted")).code == 0
    assert hub.ask("cancel", "encrypted").code == 0
    assert hub.err.count("ended") == 0
    told = hub.ask("credentials", "add", "user", "ada")
    assert f"a copy of {hub.site['ca']}" in told.err
    assert told.err.rstrip().endswith("MINICLOUD_CA=ca.pem")


def test_a_broker_that_cannot_prove_itself_is_not_trusted(hub: Stack, folder: Path) -> None:
    secret = folder / "data" / "secrets" / "user.local"
    where = {
        "MINICLOUD_BROKER": hub.site["broker"],
        "MINICLOUD_USER": "user.local",
        "MINICLOUD_PASSWORD_FILE": str(secret),
    }
    assert typed("nodes", MINICLOUD_CA=str(folder / "hub.pem"), **where).code == 0
    right = "(expected the certificate of who signed the broker's, by setting ca (MINICLOUD_CA))"
    for ca in ({"MINICLOUD_CA": str(folder / "stranger.pem")}, {}):
        said = typed("nodes", **ca, **where)
        assert said.code == 6
        assert "the certificate of the broker at tls://127.0.0.1" in said.err
        assert right in said.err
    nowhere = typed("nodes", MINICLOUD_CA="/nowhere.pem", **where)
    assert (nowhere.code, "ca /nowhere.pem: there is no such file" in nowhere.err) == (1, True)


def test_a_secret_is_not_said_in_the_clear(stack: Stack, folder: Path) -> None:
    said = minicloud(
        "nodes",
        MINICLOUD_BROKER=stack.site["broker"].replace("nats://", "tls://"),
        MINICLOUD_USER="user.local",
        MINICLOUD_PASSWORD="something",
        MINICLOUD_CA=str(folder / "hub.pem"),
    )
    assert said.code == 6
    assert "offers no TLS, so it was not given the password" in said.err


def test_a_machine_joins_with_one_line_and_runs_what_it_is_told(hub: Stack, tmp_path: Path) -> None:
    made = hub("credentials", "add", "node", "pi-3")
    assert made.code == 0
    assert "type `minicloud join` and paste that line" in made.err
    invitation = Invitation.read(made.out)
    assert (invitation.minicloud, invitation.node) == ("home", "pi-3")
    assert set(invitation.secrets) == {"agent", "worker"}

    line = tmp_path / "line.txt"
    line.write_text(made.out)
    data = tmp_path / "pi"
    first = minicloud("join", "-", "--check", "--data", str(data), stdin=made.out)
    assert (first.code, first.out) == (0, "joined: node pi-3 of minicloud home\n")
    for kept in (data / "join.json", data / "ca.pem", *(data / "secrets").iterdir()):
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600, kept

    # Once joined, a start needs no line.
    pi = Running(tmp_path / "run", "join", "--data", str(data), "--label", "camera=yes")
    try:
        hub.wait_for_nodes(NODE, "pi-3")
        (node,) = hub.ask("query", "label.camera=yes", "-o", "json").json["nodes"]
        assert node["name"] == "pi-3"
        for process in psutil.Process(pi.process.pid).children(recursive=True):
            assert not set(invitation.secrets.values()) & set(" ".join(process.cmdline()).split())
        told = hub.ask("deploy", "-", "-o", "json", stdin=server("far", where={"label.camera": "yes"}))
        assert (told.code, told.json["node"]) == (0, "pi-3")
        assert hub.ask("logs", "far").out == "it is up\n"

        # What dies is started again.
        victim = next(
            process
            for process in psutil.Process(pi.process.pid).children()
            if "services.charagent" in process.cmdline()
        )
        victim.kill()
        pi.until(lambda: "agent ended (signal SIGKILL); started again" in pi.out)
        assert hub.ask("cancel", "far").code == 0

        revoked = hub.ask("credentials", "revoke", "node", "pi-3", "-o", "json")
        assert [each["role"] for each in revoked.json] == ["agent", "worker"]
        hub.until(lambda: "pi-3" not in hub.ask("query", "name=pi-3,state=alive").out)
    finally:
        assert pi.end() == 0
    refused = minicloud("join", str(line), "--data", str(data))
    assert (refused.code, "refuses user worker.pi-3" in refused.err) == (5, True)


def test_what_is_pasted_must_be_whole(tmp_path: Path) -> None:
    line = Invitation(
        "home", "pi-3", "nats://10.0.0.2:4222", "mqtt://10.0.0.2:1883", {"agent": "a", "worker": "b"}
    )
    text = line.text()
    assert Invitation.read(f"  {text[:40]}\n{text[40:]}\n") == line
    for wrong in ("", "hello", text[:-4], text[:30] + "A" + text[31:], "mc1." + "A" * 50):
        with pytest.raises(InvalidDocument, match="whole line that `minicloud credentials add node NAME`"):
            Invitation.read(wrong)
    said = minicloud("join", "-", "--data", str(tmp_path / "pi"), stdin=text[:-4])
    assert (said.code, "join: is not whole" in said.err) == (1, True)
    assert not (tmp_path / "pi").exists()


def test_a_stack_is_not_made_a_node_of_another(hub: Stack, folder: Path) -> None:
    line = hub.ask("credentials", "add", "node", "confused", "-o", "json").json["join"]
    said = minicloud("join", "-", "--data", str(folder / "data"), stdin=line)
    assert (said.code, "belongs to a stack of its own" in said.err) == (1, True)
    rotated = hub.ask("credentials", "rotate", "node", "confused", "-o", "json").json["join"]
    assert Invitation.read(rotated).secrets != Invitation.read(line).secrets
    assert json.loads((folder / "data" / "stack.json").read_text())["minicloud"] == "home"
