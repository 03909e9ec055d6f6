"""Where a minicloud is and who we are there: from the environment, or from a stack's data folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from bus.permissions import inbox_prefix
from bus.port import Endpoint
from bus.settings import Settings
from schemas.errors import Unavailable

STACK_FILE = "stack.json"


def data_folder(given: Path | None = None) -> Path:
    """The data folder: as given, else ``MINICLOUD_DATA``, else ``./.data``."""
    return (given or Path(os.environ.get("MINICLOUD_DATA") or ".data")).absolute()


@dataclass(frozen=True)
class Site:
    """A minicloud as a user reaches it.

    Attributes:
        minicloud: its token.
        broker: ``nats://host:port``.
        mqtt: ``mqtt://host:port``.
        user: user name on the broker.
        password: its secret.
        ca: PEM file for TLS, or None.
        node: the node that the embedded stack runs on, or None.
        http: the HTTP addresses of services by name.
    """

    minicloud: str
    broker: str
    mqtt: str
    user: str
    password: str
    ca: str | None = None
    node: str | None = None
    http: dict[str, str] | None = None

    @classmethod
    def find(cls, data: Path | None = None) -> Self:
        """The site that the environment names, else that of the data folder's running stack.

        Raises:
            Unavailable: neither is there.
        """
        if os.environ.get("MINICLOUD_BROKER") and os.environ.get("MINICLOUD_USER"):
            s = Settings.load()
            return cls(s.minicloud, s.broker, s.mqtt, s.user, s.password, s.ca)
        folder = data_folder(data)
        try:
            stack = json.loads((folder / STACK_FILE).read_text())
            secret = (folder / "secrets" / stack["user"]).read_text().strip()
        except (OSError, ValueError, KeyError):
            raise Unavailable(
                f"no minicloud runs from {folder}",
                expected="`minicloud up` there, or MINICLOUD_BROKER and MINICLOUD_USER in the environment",
            ) from None
        return cls(**{**stack, "password": secret})

    def save(self, data: Path) -> None:
        """Let commands find the stack; the secret stays in its own file."""
        known = {name: value for name, value in asdict(self).items() if name != "password"}
        temporary = data / f".{STACK_FILE}"
        temporary.write_text(json.dumps(known, indent=1) + "\n")
        temporary.replace(data / STACK_FILE)

    def endpoint(self, name: str) -> Endpoint:
        """How to connect."""
        return Endpoint(self.broker, self.user, self.password, inbox_prefix(self.user), name, self.ca)
