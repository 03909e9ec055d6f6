"""Credentials: shown once, kept hashed, and changed while the broker runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import bus.credentials as store
from bus.broker import Broker
from bus.broker_config import USERS_FILE
from bus.credentials import ALPHABET, SECRET_LENGTH, Credential, Credentials
from minicloud.commands.credentials import credentials as command
from schemas.errors import Conflict, InvalidDocument, InvalidName, NotFound
from tests.bus.clients import MqttClient, Told, nats_as, settle, wait_until


def mode(path: Path) -> str:
    return oct(path.stat().st_mode)[-3:]


def test_a_secret_is_random_easy_to_type_and_stored_hashed_only(tmp_path: Path) -> None:
    made = Credentials(tmp_path / "data").add("agent", "pi-3")
    assert made.user == "agent.pi-3"
    assert len(made.password) == SECRET_LENGTH >= 22
    assert set(made.password) <= set(ALPHABET)
    assert made.password != Credentials(tmp_path / "data").add("agent", "pi-4").password
    for path in (tmp_path / "data").rglob("*"):
        assert not path.is_file() or made.password not in path.read_text()
    assert mode(tmp_path / "data") == "700"
    assert mode(tmp_path / "data" / "credentials.json") == "600"
    assert mode(tmp_path / "data" / "broker" / USERS_FILE) == "600"


def test_the_same_principal_twice_is_a_conflict_and_changes_nothing(tmp_path: Path) -> None:
    made = Credentials(tmp_path)
    made.add("user", "ada")
    before = (tmp_path / "credentials.json").read_bytes()
    with pytest.raises(Conflict, match="rotate"):
        made.add("user", "ada")
    with pytest.raises(Conflict):
        made.add_many([("user", "bob"), ("user", "ada")])
    assert (tmp_path / "credentials.json").read_bytes() == before


def test_what_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    made = Credentials(tmp_path)
    made.add("user", "ada")
    with pytest.raises(NotFound, match=r"no credential user adda .*one of ada"):
        made.revoke("user", "adda")
    with pytest.raises(NotFound, match="add agent pi-3"):
        made.rotate("agent", "pi-3")
    for role, name in (("root", "ada"), ("user", "a.b"), ("user", "*"), ("user", "x" * 65)):
        with pytest.raises(InvalidName):
            made.add(role, name)


def test_a_damaged_file_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(InvalidDocument, match=r"credentials\.json"):
        Credentials(tmp_path).list()


def test_a_folder_remembers_its_minicloud(tmp_path: Path) -> None:
    Credentials(tmp_path, "farm").add("user", "ada")
    Credentials(tmp_path).add("user", "bob")
    Credentials(tmp_path, "other").add("user", "cyd")
    assert [(entry.name, entry.minicloud) for entry in Credentials(tmp_path).list()] == [
        ("ada", "farm"),
        ("bob", "farm"),
        ("cyd", "other"),
    ]


def test_ensure_keeps_the_secret_for_this_machine_and_heals_a_lost_one(tmp_path: Path) -> None:
    made = Credentials(tmp_path)
    first = made.ensure("service", "rid")
    assert made.ensure("service", "rid") == first
    kept = tmp_path / "secrets" / "service.rid"
    assert mode(kept) == "600"
    kept.unlink()
    second = made.ensure("service", "rid")
    assert second.password != first.password
    made.rotate("service", "rid")
    assert made.ensure("service", "rid").password != second.password


async def test_a_new_credential_works_at_once(own_broker: Broker) -> None:
    made = Credentials(own_broker.data)
    async with nats_as(own_broker, made.add("admin", "root")) as client:
        assert client.is_connected
    with MqttClient(own_broker, made.add("agent", "pi-3")) as agent:
        assert agent.refused is None


@pytest.mark.parametrize("change", ["revoke", "rotate"])
async def test_a_changed_credential_is_disconnected_and_others_stay(own_broker: Broker, change: str) -> None:
    made = Credentials(own_broker.data)
    ada, bob, pi = made.add_many([("user", "ada"), ("user", "bob"), ("agent", "pi-3")])
    gone, there = Told(), Told()
    async with nats_as(own_broker, ada, gone), nats_as(own_broker, bob, there) as stays:
        with MqttClient(own_broker, pi) as agent:
            new = [getattr(made, change)(role, name) for role, name in (("user", "ada"), ("agent", "pi-3"))]
            await asyncio.wait_for(gone.closed.wait(), 10)
            assert await asyncio.to_thread(agent.disconnected.wait, 10)
            await settle(stays)
            assert there.errors == []
    with MqttClient(own_broker, pi) as agent:
        assert agent.refused == "Not authorized"
    if change == "rotate":
        with MqttClient(own_broker, new[1]) as agent:
            assert agent.refused is None


def test_a_change_that_the_broker_refuses_is_taken_back(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Credentials(own_broker.data)
    made.add("user", "ada")
    right = store.render_users
    monkeypatch.setattr(store, "render_users", lambda *known: right(*known) + "\nno_such_setting: 1\n")
    with pytest.raises(InvalidDocument, match="no_such_setting"):
        made.add("user", "bob")
    monkeypatch.undo()
    assert [entry.name for entry in made.list()] == ["ada"]


def test_commands_at_the_same_time_lose_nothing(own_broker: Broker) -> None:
    program = "import sys; from minicloud.commands.credentials import credentials; credentials()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, "add", "device", f"d{i}", "--data", own_broker.data],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for i in range(4)
    ]
    said = [process.communicate(timeout=60)[0] for process in running]
    for i, text in enumerate(said):
        with MqttClient(own_broker, Credential(f"device.d{i}", text.split()[-1])) as device:
            assert device.refused is None


@pytest.mark.slow
async def test_five_thousand_credentials_reload_fast_and_disconnect_nobody(own_broker: Broker) -> None:
    made = Credentials(own_broker.data)
    told = Told()
    async with nats_as(own_broker, made.add("admin", "root"), told) as client:
        made.add_many(("device", f"d{i}") for i in range(5000))
        started = time.monotonic()
        last = made.add("agent", "pi-3")
        assert time.monotonic() - started < 5
        await settle(client)
        assert told.errors == []
        with MqttClient(own_broker, last) as agent:
            assert agent.refused is None
            made.revoke("agent", "pi-3")
            wait_until(agent.disconnected.is_set, "the revoked agent is disconnected")


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(command, [*words, "--data", str(data)])


def test_the_command_makes_lists_rotates_and_revokes(own_broker: Broker) -> None:
    data = own_broker.data
    shown = json.loads(run(data, "add", "agent", "pi-3", "--output", "json").stdout)
    assert shown["user"] == "agent.pi-3"
    with MqttClient(own_broker, Credential(shown["user"], shown["password"])) as agent:
        assert agent.refused is None
        (listed,) = yaml.safe_load(run(data, "list", "--output", "yaml").stdout)
        assert listed["user"] == "agent.pi-3"
        assert "hash" not in listed
        rotated = run(data, "rotate", "agent", "pi-3")
        assert rotated.exit_code == 0
        assert "not shown again" in rotated.stderr
        wait_until(agent.disconnected.is_set, "the old secret's connection ends")
    assert run(data, "revoke", "agent", "pi-3").output == "revoked: agent pi-3\n"
    assert "make one with" in run(data, "list").output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "agent", "a.b"], "1 to 64 of a-z"),
        (["add", "root", "x"], "admin"),
        (["revoke", "agent", "pi-9"], "no credential agent pi-9"),
        (["rotate", "agent", "pi-9"], "`add agent pi-9` first"),
    ],
)
def test_the_command_says_what_was_wrong_and_what_to_do(tmp_path: Path, words: list[str], told: str) -> None:
    Credentials(tmp_path).add("user", "ada")
    ended = run(tmp_path, *words)
    assert ended.exit_code != 0
    assert told in ended.output


def test_a_mistyped_data_folder_is_not_an_empty_site(tmp_path: Path) -> None:
    ended = run(tmp_path / "typo", "list")
    assert ended.exit_code == 4
    assert "MINICLOUD_DATA" in ended.output
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("words", [[], ["add"], ["list"], ["rotate"], ["revoke"]])
def test_help_has_examples(words: list[str]) -> None:
    shown = CliRunner().invoke(command, [*words, "--help"])
    assert shown.exit_code == 0
    assert "minicloud credentials" in shown.output
