"""Cutting the links that other miniclouds made to a running broker: whoever still may, links again at once.

The broker asks a link for its credential only when it is made, and no reload ends one. So a revoked
minicloud is sent away by the broker's system account, whose only user lives as long as one change.
"""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any, Final

from schemas.errors import Unavailable

SYSTEM_ACCOUNT: Final = "SYSTEM"
SYSTEM_USER: Final = "system"
_PATIENCE: Final = 5.0


def cut_links(folder: Path, password: str) -> int:
    """End every link that was made to the broker which runs from a folder.

    Args:
        folder: the broker's folder.
        password: of the user :data:`SYSTEM_USER`, as the broker knows it now.

    Returns:
        How many there were.

    Raises:
        Unavailable: the broker cannot be told; the links stand until it is restarted.
    """
    try:
        ports = json.loads((folder / "ports.json").read_text())
        links = _monitor(ports["monitor"], "leafz").get("leafs") or []
        made_to_us = [link["id"] for link in links if not link["is_spoke"]]
        if made_to_us:
            _kick(_monitor(ports["monitor"], "varz"), password, made_to_us)
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(
            f"links of the broker could not be cut: {error}",
            field=str(folder),
            expected="a restart of the broker, so that nobody stays linked without a credential",
        ) from error
    return len(made_to_us)


def _monitor(port: int, page: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=_PATIENCE) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def _kick(server: dict[str, Any], password: str, links: list[int]) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server["host"], server["host"])  # noqa: S104
    known = {"user": SYSTEM_USER, "pass": password, "verbose": False, "pedantic": False}
    said = [b"CONNECT " + json.dumps(known).encode() + b"\r\n"]
    # It acts only for those who want to hear of it; the answer itself tells nothing more.
    for link in links:
        body = json.dumps({"cid": link}).encode()
        said.append(
            b"PUB $SYS.REQ.SERVER.%b.KICK _INBOX.cut %d\r\n" % (server["server_id"].encode(), len(body))
        )
        said.append(body + b"\r\n")
    said.append(b"PING\r\n")
    with socket.create_connection((host, server["port"]), timeout=_PATIENCE) as plain:
        greeting = b""
        while not greeting.endswith(b"\r\n"):
            greeting += _some(plain)
        with _secured(plain) if server.get("tls_required") else plain as wire:
            wire.sendall(b"".join(said))
            answer = b""
            while b"PONG" not in answer:
                answer += _some(wire)
                if b"-ERR" in answer:
                    raise OSError(answer.decode(errors="replace").strip())


def _secured(plain: socket.socket) -> ssl.SSLSocket:
    # Our own broker on our own machine, found by its own files: its name need not be in its certificate.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def _some(wire: socket.socket) -> bytes:
    read = wire.recv(65536)
    if not read:
        raise OSError("the broker closed the connection")
    return read
