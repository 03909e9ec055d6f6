"""Settings: from the environment, a TOML file and a secret's file; an error names the setting and its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from bus.settings import Settings
from schemas.errors import InvalidDocument


class Own(Settings):
    workers: int = Field(default=2, ge=1, le=64)
    folder: Path = Path("data")


def load(environment: dict[str, str] | None = None, **given: Any) -> Own:
    return Own.load(environment or {}, **given)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "minicloud.toml"
    path.write_text('minicloud = "cellar"\nworkers = 8\nfolder = "/var/lib/x"\nlog_level = "WARNING"\n')
    return path


def test_without_any_there_are_defaults_that_work_on_one_machine() -> None:
    settings = load()
    assert (settings.minicloud, settings.broker, settings.http_port) == (
        "home",
        "nats://127.0.0.1:4222",
        None,
    )


def test_the_environment_says_them_in_capitals() -> None:
    settings = load({"MINICLOUD_MINICLOUD": "attic", "MINICLOUD_WORKERS": "7", "MINICLOUD_FOLDER": "/a b"})
    assert (settings.minicloud, settings.workers, settings.folder) == ("attic", 7, Path("/a b"))


def test_a_file_says_them_and_the_environment_wins_and_what_is_given_wins_over_both(config: Path) -> None:
    environment = {"MINICLOUD_CONFIG": str(config)}
    assert (load(environment).minicloud, load(environment).workers) == ("cellar", 8)
    assert load(environment).log_level == "warning"
    assert load({**environment, "MINICLOUD_WORKERS": "9"}).workers == 9
    assert load({**environment, "MINICLOUD_WORKERS": "9"}, workers=10).workers == 10
    assert load(environment, workers=None).workers == 8


def test_a_secret_is_read_from_its_file_and_shown_by_nobody(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush-hush\n")
    settings = load({"MINICLOUD_PASSWORD_FILE": str(secret), "MINICLOUD_USER": "service.rid"})
    endpoint = settings.endpoint("rid")
    assert (endpoint.password, endpoint.user, endpoint.inbox_prefix) == (
        "hush-hush",
        "service.rid",
        "_INBOX.service.rid",
    )
    assert "hush" not in f"{settings!r} {endpoint!r}"
    assert load({"MINICLOUD_PASSWORD_FILE": str(secret), "MINICLOUD_PASSWORD": "mine"}).password == "mine"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HTTP_PORT", "eighty", "integer"),
        ("MINICLOUD", "my home", "pattern"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning', 'error' or 'critical'"),
        ("LOG_FORMAT", "xml", "'json' or 'text'"),
    ],
)
def test_a_wrong_value_names_the_setting_and_what_would_be_right(name: str, value: str, told: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        load({f"MINICLOUD_{name}": value})
    assert f"setting {name.lower()} (MINICLOUD_{name})" in str(refused.value)
    assert told in str(refused.value)


def test_a_typo_in_the_file_names_its_nearest_neighbour(config: Path) -> None:
    config.write_text("http_prot = 80\n")
    with pytest.raises(InvalidDocument, match=r"setting http_prot .*no such setting \(expected http_port\)"):
        load({"MINICLOUD_CONFIG": str(config)})


@pytest.mark.parametrize("content", [b"not toml", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(config: Path, content: bytes | None) -> None:
    config.unlink() if content is None else config.write_bytes(content)
    with pytest.raises(InvalidDocument) as refused:
        load({"MINICLOUD_CONFIG": str(config)})
    assert str(config) in str(refused.value)
    assert "MINICLOUD_CONFIG" in str(refused.value)
    assert refused.value.expected == "a TOML file"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", None])
def test_a_secret_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(InvalidDocument, match="setting password_file") as refused:
        load({"MINICLOUD_PASSWORD_FILE": str(secret)})
    assert str(secret) in str(refused.value)
    assert refused.value.expected


def test_what_the_environment_says_of_others_is_not_ours() -> None:
    assert load({"MINICLOUD_NO_SETTING_OF_OURS": "1", "WORKERS": "9"}) == load()
