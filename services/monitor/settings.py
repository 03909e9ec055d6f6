"""Settings of the monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field

from bus.settings import Settings, secret_in
from schemas.errors import InvalidDocument

_SECRETS = ("api_password", "api_token", "prometheus_password")


class MonitorSettings(Settings):
    """What the monitor needs to know beyond what every service does."""

    http_port: int | None = Field(default=3000, description="health, metrics and API; 0: any free port")
    api_user: str = Field(default="monitor", description="who asks by basic authentication")
    api_password: str = Field(default="", repr=False, description="the password of api_user")
    api_password_file: Path | None = None
    api_token: str = Field(default="", repr=False, description="what is asked with as a bearer token")
    api_token_file: Path | None = None
    stale_after: float = Field(default=15.0, gt=0, description="seconds of silence, at least 3 intervals")
    lost_after: float = Field(default=60.0, gt=0, description="seconds of silence")
    most_attributes: int = Field(
        default=512, ge=1, le=100_000, description="bound on metrics that nobody foresaw"
    )
    mongodb_url: str = Field(
        default="", repr=False, description="keeps the archive; none: what the bus keeps is the archive"
    )
    mongodb_database: str = Field(
        default="", max_length=63, description="its name there; minicloud_<minicloud> by default"
    )
    archive_days: int = Field(default=365, ge=1, description="how long the archive keeps what a node was")
    prometheus_url: str = Field(default="", description="the Prometheus to ask for pods and disks")
    prometheus_user: str = Field(default="", description="who we are there, by basic authentication")
    prometheus_password: str = Field(default="", repr=False)
    prometheus_password_file: Path | None = None
    cpu_high: float = Field(default=90.0, gt=0, description="per cent of busy CPU, mean of 5 minutes")
    memory_low: float = Field(default=5.0, ge=0, le=100, description="per cent of memory that can be had")
    disk_low: float = Field(default=10.0, ge=0, le=100, description="per cent of disk space that is free")
    look_every: float = Field(default=2.0, gt=0, description="seconds between looks for nodes in trouble")
    hot: float = Field(default=85.0, description="degrees Celsius of the processor")

    @classmethod
    def load(cls, environment: dict[str, str] | None = None, **given: Any) -> Self:
        """Read the settings; see :meth:`bus.settings.Settings.load`.

        Raises:
            InvalidDocument: names the setting, what was wrong and what would be right. The API without a
                secret is wrong, too: nobody is answered anonymously.
        """
        settings = super().load(environment, **given)
        for name in _SECRETS:
            path = getattr(settings, f"{name}_file")
            if path and not getattr(settings, name):
                setattr(settings, name, secret_in(path, f"{name}_file"))
        if settings.http_port is not None and not (settings.api_password or settings.api_token):
            raise InvalidDocument(
                "the API has no secret, and answers nobody without",
                field="setting api_password_file (MINICLOUD_API_PASSWORD_FILE)",
                expected="a file with a password, or api_token_file with a token",
            )
        return settings
