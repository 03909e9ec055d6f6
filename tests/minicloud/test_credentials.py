"""Credentials by the command, and what each change does to whoever is connected."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bus.bus import Bus
from bus.permissions import inbox_prefix
from bus.port import Endpoint
from schemas.errors import Forbidden
from tests.minicloud.conftest import Running, Stack, minicloud, typed


async def connect(stack: Stack, user: str, password: str) -> Bus:
    endpoint = Endpoint(stack.site["broker"], user, password, inbox_prefix(user), "tests")
    return await Bus.connect(endpoint, "home", "tests", timeout=20)


def test_a_secret_is_shown_once_and_listed_never(stack: Stack) -> None:
    made = stack.ask("credentials", "add", "device", "thermo-1", "-o", "json")
    assert made.code == 0
    assert made.json["user"] == "device.thermo-1"
    listed = stack.ask("credentials", "list", "-o", "json")
    assert made.json["password"] not in listed.out
    (entry,) = [each for each in listed.json if each["user"] == "device.thermo-1"]
    assert (entry["role"], entry["minicloud"], entry["rotated"]) == ("device", "home", None)
    assert ["device.thermo-1", "device", "thermo-1"] in [
        row[:3] for row in stack.ask("credentials", "list").rows
    ]
    assert stack.ask("credentials", "list", "-o", "yaml").yaml == listed.json
    assert stack.ask("credentials", "revoke", "device", "thermo-1").out == "revoked: device thermo-1\n"
    assert "thermo-1" not in stack.ask("credentials", "list").out


def test_a_user_elsewhere_is_told_how_to_connect(stack: Stack, tmp_path: Path) -> None:
    made = stack.ask("credentials", "add", "viewer", "eve")
    secret = tmp_path / "secret"
    secret.write_text(made.out.split()[-1])
    line = next(line for line in made.err.splitlines() if "export" in line)
    told = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
    said = minicloud("nodes", "-o", "json", **{**told, "MINICLOUD_PASSWORD_FILE": str(secret)})
    assert (said.code, len(said.json) >= 1) == (0, True)
    assert stack.ask("credentials", "revoke", "viewer", "eve").code == 0
    refused = typed("nodes", **{**told, "MINICLOUD_PASSWORD_FILE": str(secret)})
    assert (refused.code, "refuses user viewer.eve" in refused.err) == (5, True)


def test_a_command_that_goes_on_ends_when_its_user_is_revoked(stack: Stack, tmp_path: Path) -> None:
    made = stack.ask("credentials", "add", "user", "short", "-o", "json").json
    where = {"MINICLOUD_BROKER": stack.site["broker"], "MINICLOUD_USER": made["user"]}
    with Running(tmp_path, "watch", MINICLOUD_PASSWORD=made["password"], **where) as watching:
        watching.until(lambda: "in step" in watching.out)
        assert stack.ask("credentials", "revoke", "user", "short").code == 0
        assert watching.process.wait(40) == 5
    assert (
        "ended the connection of user user.short (expected a credential that is not revoked" in watching.err
    )


@pytest.mark.parametrize("change", ["rotate", "revoke"])
async def test_a_changed_credential_disconnects_its_user_at_once(stack: Stack, change: str) -> None:
    made = (await asyncio.to_thread(stack, "credentials", "add", "user", change, "-o", "json")).json
    bus = await connect(stack, made["user"], made["password"])
    try:
        assert bus.wire.connected
        assert (await asyncio.to_thread(stack, "credentials", change, "user", change)).code == 0
        async with asyncio.timeout(20):
            await bus.wire.ended.wait()
        with pytest.raises(Forbidden):
            await connect(stack, made["user"], made["password"])
    finally:
        await bus.close()


def test_mistakes_are_told_with_what_would_be_right(stack: Stack, tmp_path: Path) -> None:
    twice = stack.ask("credentials", "add", "user", "local")
    assert (twice.code, "or `rotate` for a new secret" in twice.err) == (1, True)
    unknown = stack.ask("credentials", "revoke", "user", "nobody-here")
    assert (unknown.code, "expected one of" in unknown.err) == (4, True)
    role = stack.ask("credentials", "add", "boss", "x")
    assert (role.code, "'agent'" in role.err) == (2, True)
    name = stack.ask("credentials", "add", "user", "a.b")
    assert (name.code, "1 to 64 of" in name.err) == (2, True)
    empty = typed("credentials", "list", "--data", str(tmp_path / "none"))
    assert (empty.code, "no credentials in" in empty.err) == (4, True)
    assert not (tmp_path / "none").exists()
    homeless = typed("credentials", "add", "node", "pi-3", "--data", str(tmp_path))
    assert (homeless.code, "no minicloud runs from" in homeless.err) == (6, True)
