"""Settings of rid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from bus.permissions import inbox_prefix, user_name
from bus.port import Endpoint
from bus.settings import Settings
from schemas.errors import InvalidDocument


class RidSettings(Settings):
    """What rid needs to know beyond what every service does."""

    engine: Literal["auto", "columns", "rows"] = Field(
        default="auto", description="columns need NumPy; rows are for machines without it"
    )
    stale_after: float = Field(default=15.0, gt=0, description="seconds of silence, at least 3 intervals")
    lost_after: float = Field(default=60.0, gt=0, description="seconds of silence")
    metrics_every: float = Field(
        default=30.0, ge=0, description="seconds between change events of a node for metrics alone"
    )
    material: float = Field(
        default=0.1, ge=0, le=10, description="part by which a metric must have moved to be worth an event"
    )
    most_attributes: int = Field(
        default=512, ge=1, le=100_000, description="bound on attributes that nobody foresaw"
    )
    means_every: float = Field(
        default=10.0, ge=0, le=60, description="seconds between samples of the running means; 0: no means"
    )
    mongodb_url: str = Field(
        default="", repr=False, description="keeps the index over restarts; none: the bus alone does"
    )
    mongodb_database: str = Field(
        default="", max_length=63, description="its name there; minicloud_<minicloud> by default"
    )
    store_every: float = Field(default=5.0, gt=0, description="seconds between writes of changes to MongoDB")
    store_metrics_every: float = Field(
        default=60.0, gt=0, description="seconds between writes of what changed by its metrics alone"
    )
    link_password: str = Field(
        default="", repr=False, description="secret of minicloud.<minicloud>; set, rid speaks on the links"
    )
    link_password_file: Path | None = None
    copies: bool = Field(default=True, description="whether to keep copies of other miniclouds' nodes")
    copy_within: float = Field(
        default=5.0, gt=0, description="seconds that a copy may be behind and still answer in mode auto"
    )
    heartbeat_every: float = Field(
        default=1.0, gt=0, le=60, description="seconds between heartbeats on the links, and of changes there"
    )

    @property
    def link(self) -> Endpoint | None:
        """Where the links of the minicloud are and who we are there; None where it has none."""
        secret = self.link_password
        if self.link_password_file and not secret:
            try:
                secret = self.link_password_file.read_text().strip()
            except OSError as error:
                raise InvalidDocument(str(error), field="setting link_password_file") from None
        if not secret:
            return None
        user = user_name("minicloud", self.minicloud)
        return replace(self.endpoint("rid"), user=user, password=secret, inbox_prefix=inbox_prefix(user))
