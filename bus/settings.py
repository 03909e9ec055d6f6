"""Settings of a service: environment first, then a TOML file, then what is said here.

Every setting ``x`` is ``MINICLOUD_X`` in the environment and ``x = ...`` in the file that
``MINICLOUD_CONFIG`` names. A secret is better given by file (``MINICLOUD_PASSWORD_FILE``): the
environment of a process is seen by whoever may see the process.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bus.permissions import inbox_prefix
from bus.port import Endpoint
from schemas.errors import InvalidDocument
from schemas.event import invalid
from schemas.names import Token

PREFIX = "MINICLOUD_"


class Settings(BaseModel):
    """What every service needs to know; services add their own by inheriting."""

    model_config = ConfigDict(extra="forbid")

    minicloud: Token = "home"
    broker: str = Field(default="nats://127.0.0.1:4222", description="where the bus is")
    mqtt: str = Field(default="mqtt://127.0.0.1:1883", description="where its MQTT side is")
    user: str = Field(default="", description="user name on the broker, <role>.<name>")
    password: str = Field(default="", repr=False)
    password_file: Path | None = None
    instance: str = Field(default="", description="a name that survives restarts of this one process")
    ca: str | None = Field(default=None, description="PEM file; asks for TLS")
    http_host: str = "127.0.0.1"
    http_port: int | None = Field(default=None, description="health, metrics and API; none: no HTTP")
    http_cert: Path | None = Field(default=None, description="PEM certificate; with it HTTP is encrypted")
    http_key: Path | None = Field(default=None, description="PEM key of http_cert")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["json", "text"] = "json"

    @classmethod
    def load(cls, environment: dict[str, str] | None = None, **given: Any) -> Self:
        """Read the settings; what is ``given`` wins over the environment, that over the file.

        Raises:
            InvalidDocument: names the setting, what was wrong and what would be right.
        """
        environment = dict(os.environ) if environment is None else environment
        merged = _from_file(environment.get(f"{PREFIX}CONFIG"))
        for name in cls.model_fields:
            value = environment.get(PREFIX + name.upper())
            if value is not None:
                merged[name] = value
        merged.update({name: value for name, value in given.items() if value is not None})
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            raise _by_setting(invalid(error, "settings"), cls.model_fields) from None
        if settings.password_file and not settings.password:
            settings.password = secret_in(settings.password_file, "password_file")
        return settings

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    def endpoint(self, name: str) -> Endpoint:
        """Where the bus is and who we are there."""
        return Endpoint(
            self.broker,
            self.user,
            self.password,
            inbox_prefix(self.user) if self.user else "_INBOX",
            name,
            self.ca,
        )


def _from_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:  # what is no TOML, and what is no text
        raise InvalidDocument(
            f"cannot be read: {_why(error)}", field=f"{path} ({PREFIX}CONFIG)", expected="a TOML file"
        ) from None


def secret_in(path: Path, setting: str) -> str:
    """The secret in a file that a setting names.

    Raises:
        InvalidDocument: there is none.
    """
    why = "it is empty"
    try:
        if secret := path.read_text().strip():
            return secret
    except (OSError, ValueError) as error:
        why = _why(error)
    raise InvalidDocument(
        f"{path} cannot be used: {why}",
        field=f"setting {setting} ({PREFIX}{setting.upper()})",
        expected="a file that holds the secret and that this process may read",
    )


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _by_setting(problem: InvalidDocument, known: Collection[str]) -> InvalidDocument:
    """The same, told in the words of whoever sets it."""
    name = str(problem.field)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        problem.message, problem.expected = (
            "there is no such setting",
            close[0] if close else ", ".join(known),
        )
    problem.field = f"setting {name} ({PREFIX}{name.upper()})"
    return problem
