"""Publish once for both sides: kept by JetStream and retained for MQTT.

The broker retains only what an MQTT client publishes, and its stream takes in the same message; so
the message goes out by MQTT, and is confirmed by finding it stored. Two publishes would put every
status twice into the log.
"""

from __future__ import annotations

import asyncio

from bus.bus import Bus
from bus.mqtt import MqttBus
from bus.streams import stream_of
from schemas.errors import Unavailable
from schemas.event import EventData


async def publish_retained(
    bus: Bus, mqtt: MqttBus, subject: str, data: EventData, *, about: str, timeout: float = 30.0
) -> int:
    """Publish ``data`` retained and return its revision once JetStream has stored it.

    Only one writer a subject: its last message is how the storing is confirmed.

    Raises:
        Unavailable: not stored within ``timeout`` seconds; asking again is safe for whoever compares
            what is stored with what should be.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    whole = bus.event(data, about)
    await mqtt.publish(subject, whole, retain=True, timeout=timeout)
    mark = whole.id.encode()
    stream = stream_of(subject).name(bus.minicloud)
    pause = 0.0
    while loop.time() < deadline:
        stored = await bus.jetstream.last(stream, subject)
        if stored and mark in stored[1]:
            return stored[0]
        await asyncio.sleep(pause)
        pause = min(0.05, pause + 0.002)
    raise Unavailable("acknowledged over MQTT but not found in the stream", field=subject)
