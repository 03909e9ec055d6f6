"""paho-mqtt, without the parts of the standard library that an agent on plain MQTT never calls.

``paho.mqtt.client`` imports ``ssl``, ``urllib.request`` (with it HTTP and e-mail), OpenSSL's hashes and,
where it is installed, dnspython: for TLS, proxies, WebSockets and SRV records. On a node of 512 MB they
are a quarter of the agent's memory. So while paho is imported, small stand-ins take their places;
afterwards they are gone, and anybody's own import gets the real module. With TLS nothing is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


def import_hashlib() -> Any:
    """The module ``hashlib``, without OpenSSL unless it is loaded already."""
    if "hashlib" not in sys.modules:
        with _stand_ins():
            return import_module("hashlib")
    return import_module("hashlib")


def import_paho(*, tls: bool) -> Any:
    """The module ``paho.mqtt.client``."""
    if not tls and "paho.mqtt.client" not in sys.modules:
        with _stand_ins():
            return import_module("paho.mqtt.client")
    return import_module("paho.mqtt.client")


@contextmanager
def _stand_ins() -> Iterator[None]:
    import urllib  # noqa: PLC0415 - the empty package; its `request` is what weighs

    placed: dict[str, ModuleType | None] = {
        "ssl": _Ssl("ssl"),
        "urllib.request": _Request("urllib.request"),
        "dns": None,  # paho looks for it and does without
        "_hashlib": None,  # None makes the import fail; hashlib then takes its own, smaller functions
    }
    placed = {name: module for name, module in placed.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    if "urllib.request" in placed:
        setattr(urllib, "request", placed["urllib.request"])  # noqa: B010 - as an import would bind it
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]
        if "urllib.request" in placed:
            delattr(urllib, "request")


class _Ssl(ModuleType):
    """What paho's plain path touches of ``ssl``: exceptions that are never raised there."""

    class SSLWantReadError(OSError):
        pass

    class SSLWantWriteError(OSError):
        pass


class _Request(ModuleType):
    """What paho asks ``urllib.request`` where a SOCKS package is installed: there is no proxy."""

    @staticmethod
    def getproxies() -> dict[str, str]:
        return {}
