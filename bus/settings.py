"""Settings of a service: environment first, then a TOML file, then what is said here.

Every setting ``x`` is ``MINICLOUD_X`` in the environment and ``x = ...`` in the file that
``MINICLOUD_CONFIG`` names. A secret is better given by file (``MINICLOUD_PASSWORD_FILE``): the
environment of a process is seen by whoever may see the process.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    log_level: str = "info"
    log_format: str = Field(default="json", pattern="^(json|text)$")

    @classmethod
    def load(cls, environment: dict[str, str] | None = None, **given: Any) -> Self:
        """Read the settings; what is ``given`` wins over the environment, that over the file.

        Raises:
            InvalidDocument: names the setting, what was wrong and what would be right.
        """
        environment = dict(os.environ) if environment is None else environment
        merged: dict[str, Any] = {}
        file = environment.get(f"{PREFIX}CONFIG")
        if file:
            try:
                merged.update(tomllib.loads(Path(file).read_text()))
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise InvalidDocument(
                    f"cannot be read: {error}", field=file, expected="a TOML file"
                ) from None
        for name in cls.model_fields:
            value = environment.get(PREFIX + name.upper())
            if value is not None:
                merged[name] = value
        merged.update({name: value for name, value in given.items() if value is not None})
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            problem = invalid(error, "settings")
            problem.field = f"setting {problem.field} ({PREFIX}{str(problem.field).upper()})"
            raise problem from None
        if settings.password_file and not settings.password:
            try:
                settings.password = settings.password_file.read_text().strip()
            except OSError as error:
                raise InvalidDocument(str(error), field="setting password_file") from None
        return settings

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
