"""Each mistake has a message that says what would be right, and an exit code of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.minicloud.conftest import Stack, job, minicloud, typed

GOOD = json.loads(job("fine", "true"))


def test_no_stack_is_running(tmp_path: Path) -> None:
    for folder, state in ((tmp_path / "none", "there is no such folder"), (tmp_path, "it is empty")):
        said = typed("nodes", "--data", str(folder))
        assert said.code == 6
        assert f"no minicloud runs from {folder}: {state} (expected `minicloud up`" in said.err
        assert said.out == ""
    (tmp_path / "letter.txt").touch()
    assert "it is no data folder of a minicloud" in typed("nodes", "--data", str(tmp_path)).err
    (tmp_path / "credentials.json").touch()
    assert "it was stopped" in typed("nodes", MINICLOUD_DATA=str(tmp_path)).err


def test_nobody_answers_at_the_address_of_the_environment() -> None:
    said = minicloud("nodes", MINICLOUD_BROKER="nats://127.0.0.1:9", MINICLOUD_USER="user.ada")
    assert said.code == 6
    assert "no broker answers at nats://127.0.0.1:9" in said.err
    half = typed("nodes", MINICLOUD_BROKER="nats://127.0.0.1:9")
    assert (half.code, "MINICLOUD_USER is not" in half.err) == (1, True)


def test_a_second_stack_of_one_folder_is_refused_and_the_first_goes_on(stack: Stack) -> None:
    second = minicloud("up", "--data", str(stack.data))
    assert (second.code, second.out) == (1, "")
    assert "another process runs a broker here" in second.err
    assert stack.ask("nodes").code == 0


def test_a_password_that_is_not_the_users(stack: Stack) -> None:
    where = {"MINICLOUD_BROKER": stack.site["broker"], "MINICLOUD_USER": "user.local"}
    said = typed("nodes", MINICLOUD_PASSWORD="wrong", **where)
    assert said.code == 5
    assert "refuses user user.local (expected a credential made by `minicloud credentials add`" in said.err


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["noodes"], "expected `minicloud nodes`)"),
        (["deploy-it"], "`minicloud deploy`"),
        (["xyzzy"], "expected one of up, join,"),
        (["credentials", "lst"], "expected `minicloud credentials list`)"),
        (["nodes", "--widee"], "--wide"),
        (["deploy", "nowhere.yaml"], "File 'nowhere.yaml' does not exist"),
        (["deploy"], "Missing argument 'FILE'"),
        (["up", "--tls-cert", __file__], "--tls-cert and --tls-key belong together"),
        (["up", "--node", "a.b"], "1 to 64 of a-z A-Z 0-9 _ -"),
    ],
)
def test_a_command_that_cannot_be_read(words: list[str], right: str, tmp_path: Path) -> None:
    said = typed(*words, MINICLOUD_DATA=str(tmp_path / "data"))
    assert (said.code, said.out) == (2, "")
    assert right in said.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("name: a\nruntimes: [process\nimages: {}\n", ["-: line 3, column 7: expected ',' or ']'"]),
        ("- a\n- b\n", ["-: holds a list, not fields and values"]),
        ("", ["-: holds nothing, not fields and values"]),
        (json.dumps({**GOOD, "replica": 2}), ["replica: there is no such field (expected replicas)"]),
        (
            json.dumps({**GOOD, "resources": {"memry": "64MiB"}}),
            ["resources.memry: there is no such field (expected memory)"],
        ),
        (
            json.dumps({**GOOD, "ports": [{"name": "http", "port": 80, "hostport": 8080}]}),
            ["ports.0.hostport: there is no such field (expected hostPort)"],
        ),
        (
            json.dumps({**GOOD, "name": "a.b", "replicas": -1, "resources": {"memory": "64potatoes"}}),
            ["\n  name: ", "\n  replicas: ", "\n  resources.memory: '64potatoes' is not an amount of memory"],
        ),
    ],
)
def test_a_request_that_breaks_its_schema_is_told_field_by_field(
    text: str, complaints: list[str], tmp_path: Path
) -> None:
    # Before anything is connected to: there is no stack here.
    said = typed("deploy", "-", stdin=text, MINICLOUD_DATA=str(tmp_path))
    assert (said.code, said.out) == (1, "")
    for complaint in complaints:
        assert complaint in said.err


def test_what_the_platform_cannot_enforce_is_told_field_by_field(stack: Stack) -> None:
    said = stack.ask("deploy", "-", stdin=job("impossible", "true", data=[{"bucket": "photos"}]))
    assert said.code == 1
    assert "rejected" in said.out
    assert "\n              data" in said.out
    as_json = stack.ask(
        "deploy", "-", "-o", "json", stdin=job("impossible", "true", data=[{"bucket": "photos"}])
    )
    assert (as_json.code, as_json.json["to"]) == (1, "rejected")
    assert as_json.json["problems"][0]["field"].startswith("data")


def test_a_deployment_that_does_not_exist(stack: Stack) -> None:
    assert stack.ask("deploy", "-", "--until", "ends", stdin=job("known-one", "true")).code == 0
    for command in ("why", "logs", "cancel"):
        said = stack.ask(command, "knwon-one")
        assert said.code == 4
        assert "there is no deployment 'knwon-one' (expected known-one" in said.err
    missing = stack.ask("logs", "known-one", "--replica", "7")
    assert (missing.code, "no replica 7 (expected one of 0)" in missing.err) == (4, True)


def test_a_query_that_cannot_be_read(stack: Stack) -> None:
    said = stack.ask("query", "gup")
    assert said.code == 2
    assert "no attribute is named 'gup' (expected gpu)" in said.err


def test_it_did_not_happen_in_time(stack: Stack) -> None:
    said = stack.ask(
        "deploy", "-", "--until", "ends", "--timeout", "0.3", stdin=job("slow", "exec sleep 1000")
    )
    assert said.code == 7
    assert "slow has not settled within 0.3 s" in said.err
    assert stack.ask("cancel", "slow").code == 0
