"""Where a minicloud is and who we are there: from the environment, or from a stack's data folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from bus.permissions import inbox_prefix
from bus.port import Endpoint
from bus.settings import Settings
from schemas.errors import Forbidden, InvalidDocument, Unavailable

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
        address: the name or address by which other machines reach it; None: none can.
    """

    minicloud: str
    broker: str
    mqtt: str
    user: str
    password: str
    ca: str | None = None
    node: str | None = None
    http: dict[str, str] | None = None
    address: str | None = None

    @classmethod
    def find(cls, data: Path | None = None) -> Self:
        """The stack of the data folder that is given, else the site that the environment names, else ``.data``'s.

        Raises:
            Unavailable: neither is there.
            InvalidDocument: the environment names a broker and nobody who we are there.
        """
        if data is None and os.environ.get("MINICLOUD_BROKER"):
            if not os.environ.get("MINICLOUD_USER"):
                raise InvalidDocument(
                    "MINICLOUD_BROKER is set and MINICLOUD_USER is not",
                    expected="both, for that site; or neither, for the stack of a data folder",
                )
            s = Settings.load()
            return cls(s.minicloud, s.broker, s.mqtt, s.user, s.password, s.ca)
        return cls.of(data_folder(data))

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The stack that runs from a data folder.

        Raises:
            Unavailable: none does.
            Forbidden: it is somebody else's folder.
        """
        try:
            stack: dict[str, Any] = json.loads((folder / STACK_FILE).read_text())
            secret = (folder / "secrets" / stack["user"]).read_text().strip()
        except PermissionError as error:
            raise Forbidden(
                f"{error.filename} is not readable by this user", expected="the owner of the data folder"
            ) from None
        except (OSError, ValueError, KeyError):
            raise _nothing_runs(folder) from None
        return cls(**{**stack, "password": secret})

    def save(self, data: Path) -> None:
        """Let commands find the stack; the secret stays in its own file."""
        known = {name: value for name, value in asdict(self).items() if name != "password"}
        temporary = data / f".{STACK_FILE}"
        temporary.write_text(json.dumps(known, indent=1) + "\n")
        temporary.replace(data / STACK_FILE)

    @property
    def broker_elsewhere(self) -> str:
        """``broker`` as other machines reach it."""
        return self._elsewhere(self.broker)

    @property
    def mqtt_elsewhere(self) -> str:
        """``mqtt`` as other machines reach it."""
        return self._elsewhere(self.mqtt)

    def _elsewhere(self, url: str) -> str:
        return with_host(url, self.address) if self.address else url

    def endpoint(self, name: str) -> Endpoint:
        """How to connect."""
        return Endpoint(self.broker, self.user, self.password, inbox_prefix(self.user), name, self.ca)


def with_host(url: str, host: str) -> str:
    """``url`` with another host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}"


def _nothing_runs(folder: Path) -> Unavailable:
    if not folder.exists():
        state = ": there is no such folder"
    elif (folder / "credentials.json").exists():
        state = ": it was stopped"
    elif any(folder.iterdir()):
        state = ": it is no data folder of a minicloud"
    else:
        state = ": it is empty"
    return Unavailable(
        f"no minicloud runs from {folder}{state}",
        expected="`minicloud up`, another --data, or MINICLOUD_BROKER and MINICLOUD_USER in the environment",
    )
