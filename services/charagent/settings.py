"""Settings of the agent: the command line, then the environment, then a TOML file, then defaults.

``MINICLOUD_<NAME>`` in the environment and ``<name> = ...`` in the file that ``--config`` names mean the
same as ``--<name>`` (the broker is ``mqtt`` there); ``region`` and ``labels`` are tables in the file and
``key=value,...`` elsewhere.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from services.charagent.event import is_token


class SettingError(Exception):
    """A setting cannot be used: which, why, and what would be right."""


class Settings(NamedTuple):
    """How one agent runs.

    Attributes:
        minicloud: token of the minicloud.
        node: token of this node.
        broker: ``mqtt://host:port`` or ``mqtts://host:port``.
        user: user name on the broker; ``agent.<node>`` unless told otherwise.
        password: its secret, or "" where a file holds it.
        password_file: the file; read at every connection, so that a rotated secret needs no restart.
        ca: PEM file of who signed the broker's certificate; None is the system's.
        region: where the node is, such as ``{"country": "GR", "city": "Athens"}``.
        rack: what fails together with it.
        labels: whatever its owner says about it.
        interval: seconds between two samples of the metrics.
        compare: seconds between two looks at whether the node has changed.
        renew: longest time between two repeats of what the node is, in seconds.
        data: the agent's own folder: the spool, and an id where the machine has none.
        spool: bytes of disk that may be used while the broker is away.
        software: names of programs to look for; None is the list of ``software.py``.
        once: print the characterization and end.
        log_level: of the standard library's names.
    """

    minicloud: str
    node: str
    broker: str
    user: str
    password: str
    password_file: Path | None
    ca: str | None
    region: dict[str, str]
    rack: str | None
    labels: dict[str, str]
    interval: float
    compare: float
    renew: float
    data: Path
    spool: int
    software: list[str] | None
    once: bool
    log_level: str

    def secret(self) -> str:
        """The password as it is now.

        Raises:
            SettingError: its file cannot be read.
        """
        if self.password or self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text().strip()
        except OSError as error:
            raise SettingError(f"password_file cannot be read: {error}") from None

    @property
    def host(self) -> str:
        """The broker's host."""
        return urlsplit(self.broker).hostname or "127.0.0.1"

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.broker.startswith("mqtts:") or self.ca is not None

    @property
    def port(self) -> int:
        """The broker's port; MQTT's own where none is said."""
        return urlsplit(self.broker).port or (8883 if self.tls else 1883)


def load(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises:
        SettingError: names the setting, what was wrong and what would be right.
        SystemExit: ``--help``, or an option that does not exist.
    """
    environment = os.environ if environment is None else environment
    options = vars(_parser().parse_args(arguments))
    given = {name: value for name, value in options.items() if value is not None}
    file = _file(given.pop("config", None) or environment.get("MINICLOUD_CONFIG"))

    def setting(name: str, default: Any = None) -> Any:
        if name in given:
            return given[name]
        return environment.get(f"MINICLOUD_{name.upper()}", file.get(name, default))

    node = _token("node", setting("node", _host_name()))
    broker = str(setting("mqtt", "mqtt://127.0.0.1:1883"))
    parts = urlsplit(broker)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise SettingError(f"broker is {broker!r}: it should look like mqtt://host:1883 or mqtts://host:8883")
    settings = Settings(
        minicloud=_token("minicloud", setting("minicloud", "home")),
        node=node,
        broker=broker,
        user=str(setting("user", f"agent.{node}")),
        password=str(setting("password", "")),
        password_file=Path(setting("password_file")) if setting("password_file") else None,
        ca=setting("ca"),
        region=_pairs("region", setting("region", {})),
        rack=setting("rack"),
        labels=_pairs("labels", setting("labels", {})),
        interval=_at_least("interval", setting("interval", 5.0), 0.05),
        compare=_at_least("compare", setting("compare", 30.0), 0.05),
        renew=_at_least("renew", setting("renew", 300.0), 0.05),
        data=Path(setting("data", Path.home() / ".local/state/minicloud/agent")).absolute(),
        spool=int(_at_least("spool", setting("spool", 8 * 1024 * 1024), 65536)),
        software=_names(setting("software")),
        once=bool(given.get("once", False)),
        log_level=str(setting("log_level", "info")).upper(),
    )
    settings.secret()  # a file that is not there is told at the start
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.charagent",
        description="Tells a minicloud what this node is and how it is doing, over MQTT.",
        epilog="example: python -m services.charagent --minicloud home --node pi-3 --broker mqtt://10.0.0.2:1883"
        " --password-file /etc/minicloud/agent.password --region country=GR,city=Athens --label camera=yes",
    )
    option = parser.add_argument
    option("--minicloud", help="token of the minicloud (home)")
    option("--node", help="token of this node (the host's name)")
    # In the environment and the file, `broker` is the NATS side, which the other services use.
    option("--broker", dest="mqtt", help="mqtt://host:port, or mqtts:// for TLS")
    option("--user", help="user name on the broker (agent.<node>)")
    option("--password-file", dest="password_file", help="file with its password")
    option("--ca", help="PEM file of who signed the broker's certificate")
    option("--region", help="where the node is: country=GR,city=Athens")
    option("--rack", help="what fails together with the node")
    option("--label", dest="labels", action="append", metavar="KEY=VALUE", help="may be repeated")
    option("--interval", help="seconds between samples (5)")
    option("--compare", help="seconds between looks at whether the node changed (30)")
    option("--renew", help="seconds between repeats of what the node is, at most (300)")
    option("--data", help="the agent's own folder")
    option("--spool", help="bytes kept on disk while the broker is away (8388608)")
    option("--software", help="programs to look for: python3,docker,...")
    option("--log-level", dest="log_level", help="debug, info, warning or error (info)")
    option("--config", help="a TOML file with these settings")
    option("--once", action="store_const", const=True, help="print the characterization as JSON and end")
    return parser


def _file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    import tomllib  # noqa: PLC0415 - loaded by those who have a file only

    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"config {path} cannot be read: {error}; it should be a TOML file") from None


def _token(name: str, value: Any) -> str:
    if not is_token(str(value)):
        raise SettingError(f"{name} is {str(value)[:80]!r}: it should be 1 to 64 of a-z A-Z 0-9 _ -")
    return str(value)


def _host_name() -> str:
    return socket.gethostname().split(".")[0]


def _pairs(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(key): str(said) for key, said in value.items()}
    texts = value if isinstance(value, list) else str(value).split(",")
    pairs = {}
    for text in texts:
        key, equals, said = str(text).partition("=")
        if text and not (equals and is_token(key.strip())):
            raise SettingError(f"{name} holds {text!r}: it should be key=value, the key of a-z A-Z 0-9 _ -")
        if text:
            pairs[key.strip()] = said.strip()
    return pairs


def _names(value: Any) -> list[str] | None:
    if value is None or isinstance(value, list):
        return value
    return [name.strip() for name in str(value).split(",") if name.strip()]


def _at_least(name: str, value: Any, least: float) -> float:
    try:
        figure = float(value)
    except ValueError:
        figure = float("nan")
    if not figure >= least:  # NaN is refused too
        raise SettingError(f"{name} is {value!r}: it should be a number, {least:g} or more")
    return figure
