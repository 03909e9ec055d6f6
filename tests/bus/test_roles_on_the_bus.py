"""The verbs of the bus with the credentials of those who will use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar

import pytest

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential, Credentials
from bus.merge import merged
from bus.permissions import consumer_name
from bus.port import Endpoint
from schemas.errors import Forbidden, Unavailable
from schemas.event import EventData


class Note(EventData):
    """Something to say."""

    event_type: ClassVar[str] = "minicloud.test.noted.v1"
    text: str


async def connect(broker: Broker, credential: Credential, mc: str) -> Bus:
    endpoint = Endpoint(broker.url, credential.user, credential.password, credential.inbox_prefix)
    return await Bus.connect(endpoint, mc, credential.user.replace(".", "/"), timeout=10)


@pytest.fixture
async def service(broker: Broker, credentials: Credentials, mc: str) -> AsyncIterator[Bus]:
    async with await connect(broker, credentials.add("service", f"vim-{mc}"), mc) as bus:
        await bus.ensure_streams()
        yield bus
        for stream in (await bus.jetstream.api("STREAM.NAMES"))["streams"]:
            if stream.startswith(f"{mc}_"):
                await bus.jetstream.api(f"STREAM.DELETE.{stream}")


async def until_synced(items: Any) -> list[str]:
    """The subjects that a watch tells before SYNC."""
    told: list[str] = []
    async with asyncio.timeout(10):
        async for item in items:
            if item.kind == "SYNC":
                return told
            told.append(item.subject)
    raise AssertionError("no SYNC")


async def test_a_user_publishes_a_request_and_watches_its_status_twice_at_once(
    broker: Broker, credentials: Credentials, service: Bus, mc: str
) -> None:
    status = service.subjects.status("hello")
    await service.publish(status, Note(text="running"))
    async with await connect(broker, credentials.add("user", f"ada-{mc}"), mc) as user:
        assert await user.publish(user.subjects.request("hello"), Note(text="please")) > 0
        decision = service.subjects.decision("hello")
        await service.publish(decision, Note(text="there"))
        async with user.watch({status: Note}) as one, user.watch({decision: Note}) as two:
            seen: set[str] = set()
            async with asyncio.timeout(10), aclosing(merged(one, two)) as items:
                async for item in items:
                    seen.add(item.subject)
                    if {status, decision} <= seen:
                        break
        async with user.watch({status: Note}) as one, user.watch({status: Note}) as two:
            assert await until_synced(one) == [status]
            assert await until_synced(two) == [status]


async def test_a_viewer_watches_resources(
    broker: Broker, credentials: Credentials, service: Bus, mc: str
) -> None:
    await service.publish(service.subjects.resource("pi-3"), Note(text="a node"))
    async with (
        await connect(broker, credentials.add("viewer", f"eve-{mc}"), mc) as viewer,
        viewer.watch({viewer.subjects.resource(): Note}) as items,
        viewer.watch({viewer.subjects.presence(): Note, viewer.subjects.worker(): Note}) as both,
    ):
        assert await until_synced(items) == [viewer.subjects.resource("pi-3")]
        assert await until_synced(both) == []


async def test_a_worker_watches_its_own_workloads_under_its_one_consumer_name(
    broker: Broker, credentials: Credentials, service: Bus, mc: str
) -> None:
    node = f"n-{mc}"
    for other in (node, "pi-4"):
        await service.publish(service.subjects.desired(other, "hello-0"), Note(text=other))
    async with await connect(broker, credentials.add("worker", node), mc) as worker:
        mine = worker.subjects.desired(node)
        both = {mine: Note, worker.subjects.observed(node): Note}
        async with worker.watch(both, consumer=consumer_name("worker", node)) as items:
            assert await until_synced(items) == [worker.subjects.desired(node, "hello-0")]
            await service.publish(service.subjects.desired(node, "hello-1"), Note(text="more"))
            async with asyncio.timeout(10):
                async for item in items:
                    if item.kind == "CHANGE":
                        assert item.subject == worker.subjects.desired(node, "hello-1")
                        break
        assert await worker.publish(worker.subjects.observed(node, "hello-0"), Note(text="up")) > 0


async def test_a_revoked_credential_is_told_so(broker: Broker, credentials: Credentials, mc: str) -> None:
    credential = credentials.add("user", f"bob-{mc}")
    credentials.revoke("user", f"bob-{mc}")
    with pytest.raises(Forbidden, match="credentials add"):
        await connect(broker, credential, mc)


async def test_an_absent_broker_is_told_in_time_and_awaited_until_then(own_broker: Broker) -> None:
    credential = Credentials(own_broker.data).add("admin", "root")
    own_broker.kill()
    endpoint = Endpoint(own_broker.url, credential.user, credential.password)
    with pytest.raises(Unavailable, match="minicloud up"):
        await Bus.connect(endpoint, "home", "test", timeout=0.3)
    waiting = asyncio.create_task(Bus.connect(endpoint, "home", "test", timeout=20))
    await asyncio.to_thread(own_broker.start)
    async with await waiting as bus:
        own_broker.kill()
        await asyncio.to_thread(own_broker.start)
        async with asyncio.timeout(20):
            await bus.ensure_streams()


async def test_a_service_answers_into_inboxes_only(
    broker: Broker, credentials: Credentials, service: Bus, mc: str
) -> None:
    async def echo(note: Note) -> dict[str, str]:
        return {"text": note.text}

    await service.serve("vim", "echo", Note, echo)
    target = service.subjects.desired("pi-3", "hello-0")
    async with await connect(broker, credentials.add("user", f"mal-{mc}"), mc) as user:
        await user.wire.publish(user.subjects.service("vim", "echo"), b'{"text": "forged"}', target)
        assert await user.request("vim", "echo", {"text": "fair"}) == {"text": "fair"}
    assert await service.jetstream.last(f"{mc}_workloads", target) is None
