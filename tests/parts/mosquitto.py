"""Mosquitto's command-line clients: MQTT by somebody else's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bus.credentials import Credential
from tests.parts.debian import DebianPart
from tests.parts.part import Part
from tests.parts.process import PartProcess


class Mosquitto(Part):
    """``mosquitto_pub`` and ``mosquitto_sub``."""

    name = "mosquitto-clients"

    def __init__(self, *, use_installed: bool = True) -> None:
        packages = ("mosquitto-clients", "libmosquitto1")
        self._pub = DebianPart(self.name, packages, "usr/bin/mosquitto_pub", use_installed=use_installed)
        self._sub = DebianPart(
            "mosquitto-clients-sub", packages, "usr/bin/mosquitto_sub", use_installed=use_installed
        )

    @property
    def version(self) -> str:
        return self._pub.version

    def build(self, into: Path) -> None:
        self._pub.build(into)

    def obtain(self) -> Path:
        """``mosquitto_pub``; ``mosquitto_sub`` is obtained with it."""
        self._sub.obtain()
        return self._pub.obtain()

    def folders(self) -> list[Path]:
        """Where the two programs lie, for a ``PATH``."""
        return [self._pub.obtain().parent, self._sub.obtain().parent]

    def publish(
        self,
        port: int,
        credential: Credential,
        topic: str,
        payload: str,
        *,
        qos: int = 1,
        retain: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Publish one message; the ended ``mosquitto_pub``, whose exit status tells."""
        command: list[str | Path] = [
            self.obtain(),
            *_connection(port, credential),
            "-q",
            str(qos),
            "-t",
            topic,
            "-m",
            payload,
        ]
        return subprocess.run(
            [*command, *(["-r"] if retain else [])], capture_output=True, text=True, timeout=20, check=False
        )

    def subscribe(
        self, port: int, credential: Credential, topic: str, output: Path, *, qos: int = 1, count: int = 1
    ) -> PartProcess:
        """A subscriber that writes ``topic payload`` lines to ``output`` and ends after ``count``.

        It is subscribed when this returns, or has ended because it was refused.
        """
        command: list[str | Path] = [
            "stdbuf", "-oL", self._sub.obtain(), *_connection(port, credential),
            "-q", str(qos), "-t", topic, "-v", "-d", "-C", str(count),
        ]  # fmt: skip
        subscriber = PartProcess(command, output)
        subscriber.wait_until(
            lambda: "Subscribed" in subscriber.text() or subscriber.process.poll() is not None, timeout=10
        )
        return subscriber


def _connection(port: int, credential: Credential) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(port), "-u", credential.user, "-P", credential.password]
