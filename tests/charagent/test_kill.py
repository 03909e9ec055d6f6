"""The broker is killed while the agent empties its spool, again and again: nothing acknowledged is lost."""

from __future__ import annotations

import json
from pathlib import Path

import nats

from bus.broker import Broker
from bus.credentials import Credentials
from bus.streams import STREAMS
from services.charagent import event
from services.charagent.agent import UNSETTLED
from services.charagent.spool import Spool
from tests.charagent.conftest import Start

EVENTS = 4000
KILLS = 4


async def test_every_spooled_event_is_kept_by_the_stream(
    start_agent: Start, own_broker: Broker, tmp_path: Path
) -> None:
    credentials = Credentials(own_broker.data, "home")
    credential, admin = credentials.add("agent", "pi-3"), credentials.add("admin", "tests")
    topic = event.topic("home", "pi-3", event.MEASURED)
    spool = Spool(tmp_path / "agent" / "spool", 8 * 1024 * 1024)
    wanted = []
    for n in range(EVENTS):
        data = {"node": "pi-3", "interval": 5.0, "values": {"n": n}}
        payload = event.envelope(event.MEASURED, "home", "pi-3", data)
        wanted.append(json.loads(payload)["id"])
        spool.append(topic, payload)
    spool.close()

    (metrics,) = [stream for stream in STREAMS if stream.kind == "metrics"]
    connection = await nats.connect(own_broker.url, user=admin.user, password=admin.password)
    await connection.jetstream().add_stream(
        name="home_metrics", subjects=metrics.config("home")["subjects"], storage="file"
    )
    start_agent(own_broker, "home", credential, "--interval", "60")
    for kill in range(1, KILLS + 1):
        stored = 0
        while stored < EVENTS * kill // (KILLS + 2):
            stored = (await connection.jetstream().stream_info("home_metrics")).state.messages
        assert stored < EVENTS, "the spool was empty before the kill"
        await connection.close()
        own_broker.kill()
        own_broker.start()
        connection = await nats.connect(own_broker.url, user=admin.user, password=admin.password)

    ids: list[str] = []
    reader = await connection.jetstream().subscribe("mc.home.node.pi-3.metrics", ordered_consumer=True)
    while wanted[-1] not in ids[-1:]:
        message = await reader.next_msg(timeout=30)
        ids.append(json.loads(message.data)["id"])
    await connection.close()
    first_seen = list(dict.fromkeys(ids))
    assert [name for name in wanted if name not in set(ids)] == []
    assert first_seen == wanted  # in order, however often some were sent again
    assert len(ids) - EVENTS <= KILLS * UNSETTLED
