"""The text that makes another machine a node: everything that its agent and worker must know, in one line.

In: the site and the two credentials of the node. Out: a line to paste, ``mc1.`` and compressed JSON, and
back. A line that was cut or changed on the way is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from bus.credentials import Credential
from bus.permissions import inbox_prefix, user_name
from bus.port import Endpoint
from minicloud.site import Site
from schemas.errors import InvalidDocument
from schemas.names import token

#: What a node needs a credential for.
NODE_ROLES: Final = ("agent", "worker")
_PREFIX: Final = "mc1."
_EXPECTED: Final = "the whole line that `minicloud credentials add node NAME` prints"
_LARGEST: Final = 64 * 1024


@dataclass(frozen=True)
class Invitation:
    """What a new node is told.

    Attributes:
        minicloud: the token of the minicloud.
        node: the node's own.
        broker: where NATS is.
        mqtt: where MQTT is.
        secrets: of the node's agent and worker, by role.
        ca: PEM certificates of who signed the broker's; None without TLS, or for the system's.
        local_only: whether the broker can be reached from its own machine only.
    """

    minicloud: str
    node: str
    broker: str
    mqtt: str
    secrets: dict[str, str]
    ca: str | None = None
    local_only: bool = False

    @classmethod
    def to(cls, site: Site, node: str, credentials: Iterable[Credential]) -> Self:
        """The invitation of ``node`` to ``site``."""
        return cls(
            minicloud=site.minicloud,
            node=node,
            broker=site.broker_elsewhere,
            mqtt=site.mqtt_elsewhere,
            secrets={each.user.partition(".")[0]: each.password for each in credentials},
            ca=Path(site.ca).read_text() if site.ca else None,
            local_only=site.address is None,
        )

    def text(self) -> str:
        """The line to paste."""
        document = {
            "minicloud": self.minicloud,
            "node": self.node,
            "broker": self.broker,
            "mqtt": self.mqtt,
            "secrets": self.secrets,
            "ca": self.ca,
        }
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
        return _PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Self:
        """What a pasted line says.

        Raises:
            InvalidDocument: it is none, or not whole.
        """
        line = "".join(text.split())  # terminals and mails break long lines
        if not line.startswith(_PREFIX):
            raise InvalidDocument("is no join text", field="join", expected=f"{_PREFIX}...: {_EXPECTED}")
        packed = line.removeprefix(_PREFIX)
        try:
            document = json.loads(_unpacked(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))))
            return cls(
                minicloud=token(document["minicloud"], "minicloud"),
                node=token(document["node"], "node"),
                broker=str(document["broker"]),
                mqtt=str(document["mqtt"]),
                secrets={role: str(document["secrets"][role]) for role in NODE_ROLES},
                ca=document["ca"],
            )
        except (binascii.Error, zlib.error, ValueError, KeyError, TypeError):
            raise InvalidDocument("is not whole", field="join", expected=_EXPECTED) from None

    def worker_endpoint(self, ca: Path | None) -> Endpoint:
        """How the node's worker connects by NATS."""
        user = user_name("worker", self.node)
        return Endpoint(
            self.broker,
            user,
            self.secrets["worker"],
            inbox_prefix(user),
            f"join-{self.node}",
            str(ca) if ca else None,
        )


def _unpacked(packed: bytes) -> bytes:
    """What was compressed; the end carries a checksum, so what has no end is not whole."""
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(packed, _LARGEST)
    if not unpacking.eof:
        raise ValueError("no end")
    return unpacked
