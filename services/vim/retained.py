"""Publish once for both sides: kept by JetStream and retained for MQTT.

The broker retains only what an MQTT client publishes, and its stream takes in the same message; so
the message goes out by MQTT, and is confirmed by hearing it come back in the stream that we watch
anyway. Two publishes would put every status twice into the log.
"""

from __future__ import annotations

import asyncio

from bus.bus import Bus
from bus.mqtt import MqttBus
from schemas.errors import Unavailable
from schemas.event import EventData


class Retained:
    """Publishes retained messages.

    Args:
        bus: makes the events.
        mqtt: sends them.
    """

    def __init__(self, bus: Bus, mqtt: MqttBus) -> None:
        self._bus = bus
        self._mqtt = mqtt
        self._awaited: dict[str, asyncio.Future[int]] = {}

    def heard(self, event_id: str, revision: int) -> None:
        """The watch has this event, stored under this revision."""
        awaited = self._awaited.get(event_id)
        if awaited is not None and not awaited.done():
            awaited.set_result(revision)

    async def publish(self, subject: str, data: EventData, *, about: str, timeout: float = 30.0) -> int:
        """Publish ``data`` retained and return its revision once JetStream has stored it.

        Raises:
            Unavailable: not stored within ``timeout`` seconds; asking again is safe for whoever compares
                what is stored with what should be.
        """
        whole = self._bus.event(data, about)
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._awaited[whole.id] = stored
        try:
            async with asyncio.timeout(timeout):
                await self._mqtt.publish(subject, whole, retain=True, timeout=timeout)
                return await stored
        except TimeoutError:
            raise Unavailable("acknowledged over MQTT but not found in the stream", field=subject) from None
        finally:
            del self._awaited[whole.id]
