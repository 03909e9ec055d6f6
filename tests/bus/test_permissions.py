"""What each role may do, tried for real both ways, by NATS and by MQTT."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest
from nats.aio.client import Client as NatsClient

from bus.broker import Broker
from bus.credentials import Credential, Credentials
from bus.permissions import ROLES, consumer_name, permissions, role_of
from bus.streams import STREAMS, stream_name, stream_of
from schemas.errors import InvalidName
from schemas.names import Subjects, topic
from tests.bus.clients import MqttClient, Told, nats_as, settle
from tests.parts.mosquitto import Mosquitto

NAMES = {
    "admin": "root", "service": "vim", "agent": "pi-3", "worker": "pi-3", "device": "thermo-1",
    "cluster": "alpha",
    "user": "ada", "viewer": "eve", "fleet": "sim", "minicloud": "pisa",
}  # fmt: skip

# Below `mc.<minicloud>.`: what a role may publish, and what it may not.
PUBLISH: dict[str, tuple[list[str], list[str]]] = {
    "admin": (["node.pi-3.desired.w-0", "anything.at.all"], []),
    "service": (["node.pi-3.desired.w-0", "resource.pi-3", "dead.vim"], []),
    "agent": (
        ["node.pi-3.characterization", "node.pi-3.metrics", "node.pi-3.presence"],
        [
            "node.pi-4.characterization",
            "node.pi-3.desired.w-0",
            "node.pi-3.observed.w-0",
            "node.pi-3.worker",
            "deployment.x.request",
            "svc.rid.query",
        ],
    ),
    "worker": (
        ["node.pi-3.observed.w-0", "node.pi-3.worker"],
        [
            "node.pi-4.observed.w-0",
            "node.pi-4.worker",
            "node.pi-3.desired.w-0",
            "node.pi-3.characterization",
            "deployment.x.request",
            "svc.vim.cancel",
        ],
    ),
    "cluster": (
        [
            "node.alpha-1.characterization",
            "node.alpha-1.presence",
            "node.alpha-1.metrics",
            "node.alpha-1.observed.w-0",
            "node.pi-3.cluster",
            "node.pi-3.observed.w-0",
            "lease.cluster-alpha",
        ],
        [
            "node.pi-3.characterization",
            "node.pi-3.presence",
            "node.pi-3.worker",
            "node.alpha-1.desired.w-0",
            "lease.cluster-beta",
            "lease.vim",
            "deployment.x.request",
            "svc.rid.query",
        ],
    ),
    "device": (
        ["device.thermo-1.temperature"],
        [
            "device.thermo-2.temperature",
            "node.thermo-1.metrics",
            "deployment.x.request",
            "query.best.answer",
            "svc.rid.keep",
        ],
    ),
    "user": (
        [
            "deployment.x.request",
            "deployment.x.cancel",
            "deployment.x.migrate",
            "svc.rid.query",
            "storage.bucket.photos.policy",
        ],
        [
            "deployment.x.status",
            "deployment.x.decision",
            "node.pi-3.desired.w-0",
            "resource.pi-3",
            "dead.vim",
            "query.best.question",
            "query.best.answer",
        ],
    ),
    "viewer": (
        ["svc.rid.query", "svc.rid.watch", "svc.rid.acknowledge.some-rid", "svc.rid.attributes"],
        [
            "svc.rid.keep",
            "deployment.x.request",
            "deployment.x.cancel",
            "deployment.x.migrate",
            "svc.vim.scale",
            "node.pi-3.metrics",
            "resource.pi-3",
        ],
    ),
    "fleet": (
        ["node.sim-1.characterization", "node.sim-1.metrics", "node.sim-1.presence"],
        ["node.pi-3.characterization", "node.pi-3.presence", "node.sim-1.worker", "deployment.x.request"],
    ),
}
SUBSCRIBE: dict[str, tuple[list[str], list[str]]] = {
    "admin": ([">", "node.*.metrics"], []),
    "service": ([">"], []),
    "agent": (["node.pi-3.presence"], ["node.pi-4.presence", "node.>", ">", "deployment.*.status"]),
    "worker": (
        ["node.pi-3.desired.*", "node.pi-3.observed.*", "svc.worker.*.pi-3"],
        ["node.pi-4.desired.*", "node.*.desired.*", "svc.worker.logs.pi-4", "svc.worker.*.*", ">"],
    ),
    "device": (
        ["device.thermo-1.command", "device.thermo-1.command.>", "query.best.answer", "query.*.answer"],
        [
            "query.best.question",
            "query.>",
            "device.thermo-2.command.>",
            "device.*.command.>",
            "node.*.metrics",
            ">",
        ],
    ),
    "cluster": (
        ["node.*.desired.*", "node.*.observed.*", "node.*.cluster", "svc.cluster.*.alpha"],
        ["node.*.metrics", "svc.cluster.*.beta", "svc.worker.logs.pi-3", "deployment.*.status", ">"],
    ),
    "user": (
        ["deployment.*.status", "node.>", "resource.*"],
        ["secret.x", "svc.rid.query", "svc.>"],
    ),
    "viewer": (["deployment.*.status", "node.>"], ["secret.x", "svc.rid.query"]),
    "fleet": (["node.*.presence"], ["node.*.desired.*", "deployment.*.status", ">"]),
}
MQTT_ONLY = ("agent", "device", "fleet")
BY_NATS_ONLY = "worker"
# Those who speak in the minicloud itself; what crosses a link is tried in test_links.py.
HERE = [role for role in ROLES if role != "minicloud"]


@pytest.fixture
def made(credentials: Credentials) -> dict[str, Credential]:
    """A credential of every role, in the test's own minicloud."""
    secrets = credentials.add_many([(role, NAMES[role]) for role in ROLES])
    return dict(zip(ROLES, secrets, strict=True))


async def _arrived(observer: NatsClient, mc: str, subscription: Any) -> list[str]:
    """The subjects that reached an all-seeing subscriber, up to a mark that is sent now."""
    await observer.publish(f"mc.{mc}.mark", b"")
    subjects: list[str] = []
    while True:
        message = await subscription.next_msg(timeout=10)
        if message.subject == f"mc.{mc}.mark":
            return subjects
        subjects.append(message.subject.removeprefix(f"mc.{mc}."))


@pytest.mark.parametrize("role", [role for role in HERE if role not in MQTT_ONLY])
async def test_publishing_by_nats(
    role: str, broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    allowed, refused = PUBLISH[role]
    told = Told()
    async with nats_as(broker, admin) as observer, nats_as(broker, made[role], told) as client:
        seen = await observer.subscribe(f"mc.{mc}.>")
        await settle(observer)
        for subject in [*allowed, *refused]:
            await client.publish(f"mc.{mc}.{subject}", b"1")
        await settle(client)
        assert await _arrived(observer, mc, seen) == allowed
        await told.wait_for_errors(len(refused))


@pytest.mark.parametrize("role", [role for role in HERE if role != BY_NATS_ONLY])
async def test_publishing_by_mqtt(
    role: str, broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    allowed, refused = PUBLISH[role]
    async with nats_as(broker, admin) as observer:
        seen = await observer.subscribe(f"mc.{mc}.>")
        await settle(observer)
        with MqttClient(broker, made[role]) as client:
            for qos in (0, 1, 2):
                for subject in [*allowed, *refused]:
                    await asyncio.to_thread(client.publish, topic(f"mc.{mc}.{subject}"), qos=qos)
                # Sent at QoS 1 behind the others on the same connection: the broker has read them all.
                await asyncio.to_thread(client.publish, topic(f"mc.{mc}.{allowed[0]}"), qos=1)
                assert await _arrived(observer, mc, seen) == [*allowed, allowed[0]]


@pytest.mark.parametrize("role", [role for role in HERE if role not in MQTT_ONLY])
async def test_subscribing_by_nats(role: str, broker: Broker, made: dict[str, Credential], mc: str) -> None:
    allowed, refused = SUBSCRIBE[role]
    told = Told()
    async with nats_as(broker, made[role], told) as client:
        for subject in allowed:
            await client.subscribe(f"mc.{mc}.{subject}")
        await settle(client)
        assert told.errors == []
        for subject in refused:
            await client.subscribe(f"mc.{mc}.{subject}")
        await settle(client)
        await told.wait_for_errors(len(refused))


@pytest.mark.parametrize("role", [role for role in HERE if role != BY_NATS_ONLY])
def test_subscribing_by_mqtt(role: str, broker: Broker, made: dict[str, Credential], mc: str) -> None:
    allowed, refused = SUBSCRIBE[role]
    with MqttClient(broker, made[role]) as client:
        for qos in (0, 1):
            granted = [s for s in [*allowed, *refused] if client.subscribe(topic(f"mc.{mc}.{s}"), qos)]
            assert granted == allowed


@pytest.mark.parametrize("role", MQTT_ONLY)
async def test_small_roles_connect_by_mqtt_only(
    role: str, broker: Broker, made: dict[str, Credential]
) -> None:
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        async with nats_as(broker, made[role]):
            pass


@pytest.mark.parametrize("role", ["agent", "device", "fleet", "user", "viewer"])
def test_nobody_reads_by_mqtt_what_the_broker_delivers_to_others(
    role: str, broker: Broker, made: dict[str, Credential]
) -> None:
    with MqttClient(broker, made[role]) as client:
        assert not client.subscribe("$MQTT/sub/#")
        assert not client.subscribe("$MQTT/#")
        assert not client.subscribe("$JS/#")
        assert not client.subscribe("#")


async def test_a_user_reads_everything_of_its_minicloud_but_secrets_and_requests(
    broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    async with nats_as(broker, admin) as observer, nats_as(broker, made["user"]) as client:
        seen = await client.subscribe(f"mc.{mc}.>")
        await settle(client)
        for subject in ("secret.x", "svc.rid.query", "node.pi-3.metrics"):
            await observer.publish(f"mc.{mc}.{subject}", b"1")
        await observer.publish("mc.other.node.pi-3.metrics", b"1")
        assert await _arrived(observer, mc, seen) == ["node.pi-3.metrics"]


async def test_a_reader_joins_no_queue_group(broker: Broker, made: dict[str, Credential], mc: str) -> None:
    told = Told()
    async with nats_as(broker, made["user"], told) as client:
        await client.subscribe(f"mc.{mc}.node.*.metrics", queue="rid")
        await settle(client)
        await told.wait_for_errors(1)


async def test_answers_are_read_by_who_asked_only(broker: Broker, made: dict[str, Credential]) -> None:
    told = Told()
    async with nats_as(broker, made["viewer"], told) as client:
        for inbox in ("_INBOX.>", "_INBOX.user.ada.>", "_INBOX.service.*.*"):
            await client.subscribe(inbox)
        await settle(client)
        await told.wait_for_errors(3)


async def test_a_worker_answers_requests_to_its_node(
    broker: Broker, made: dict[str, Credential], mc: str
) -> None:
    async with nats_as(broker, made["service"]) as vim, nats_as(broker, made["worker"]) as worker:

        async def answer(message: Any) -> None:
            await message.respond(b"a line of the log")

        await worker.subscribe(f"mc.{mc}.svc.worker.logs.pi-3", cb=answer)
        await settle(worker)
        told = await vim.request(f"mc.{mc}.svc.worker.logs.pi-3", b"{}", timeout=10)
        assert told.data == b"a line of the log"


async def _api(client: NatsClient, subject: str, **request: Any) -> dict[str, Any] | None:
    """A JetStream answer, or None when the broker refused the request (which nobody then answers)."""
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def on_answer(message: Any) -> None:
        if not told.done():
            told.set_result(json.loads(message.data or b"{}") | {"headers": message.headers})

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=on_answer)
    client_told: list[str] = []

    async def on_error(error: Exception) -> None:
        client_told.append(str(error))
        if not told.done():
            told.set_exception(PermissionError(str(error)))

    client._error_cb = on_error
    await client.publish(f"$JS.API.{subject}", json.dumps(request).encode(), reply=inbox)
    try:
        return await asyncio.wait_for(told, 10)
    except PermissionError:
        return None
    finally:
        await subscription.unsubscribe()


async def test_a_worker_reads_the_workloads_of_its_own_node_only(
    broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    stream = stream_name(mc, "workloads")
    mine, others = f"mc.{mc}.node.pi-3.desired", f"mc.{mc}.node.pi-4.desired"
    name = consumer_name("worker", "pi-3")
    async with nats_as(broker, admin) as observer, nats_as(broker, made["worker"]) as worker:
        js = observer.jetstream()
        await js.add_stream(name=stream, subjects=[f"mc.{mc}.node.*.desired.*"], allow_direct=True)
        try:
            await js.publish(f"{mine}.w-0", b'"mine"')
            await js.publish(f"{others}.w-0", b'"theirs"')
            subscription = await worker.jetstream().pull_subscribe_bind(consumer=name, stream=stream)
            await worker.jetstream().add_consumer(
                stream, name=name, filter_subject=f"{mine}.*", ack_policy="explicit"
            )
            (message,) = await subscription.fetch(2, timeout=0.5)
            assert message.data == b'"mine"'
            await message.ack_sync()
            assert (
                await worker.jetstream().get_last_msg(stream, f"{mine}.w-0", direct=True)
            ).data == b'"mine"'

            config = {"name": name, "ack_policy": "none"}
            for subject in (
                f"CONSUMER.CREATE.{stream}.{name}.{others}.*",
                f"CONSUMER.CREATE.{stream}.{name}",
                f"CONSUMER.CREATE.{stream}",
                f"CONSUMER.CREATE.{stream}.other.{mine}.*",
                f"DIRECT.GET.{stream}.{others}.w-0",
                f"DIRECT.GET.{stream}",
                f"STREAM.MSG.GET.{stream}",
                f"STREAM.DELETE.{stream}",
                f"STREAM.PURGE.{stream}",
            ):
                assert await _api(worker, subject, stream_name=stream, config=config) is None, subject
            # The subject is its own, the filter inside is not: JetStream itself compares them.
            widened: list[dict[str, Any]] = [
                {"filter_subject": f"{others}.*"},
                {"filter_subjects": [f"{others}.*"]},
                {},
            ]
            for filters in widened:
                told = await _api(
                    worker,
                    f"CONSUMER.CREATE.{stream}.{name}.{mine}.*",
                    stream_name=stream,
                    config=config | filters,
                )
                assert told is not None
                assert told["error"]["code"] == 400
        finally:
            await js.delete_stream(stream)


@pytest.mark.parametrize("role", ["user", "viewer"])
async def test_nobody_has_its_own_words_sent_where_it_may_not_publish(
    role: str, broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    # JetStream answers to any subject, unchecked: what low roles write must not get there.
    subjects = Subjects(mc)
    told = Told()
    async with nats_as(broker, admin) as observer, nats_as(broker, made[role], told) as client:
        for stream in STREAMS:
            await observer.jetstream().add_stream(
                name=stream.name(mc), subjects=stream.subjects(subjects), allow_direct=True
            )
        try:
            target = subjects.desired("pi-4", "stolen")
            seen = await observer.subscribe(target)
            await settle(observer)
            asked = 0
            for subject in (
                subjects.request("x"),
                subjects.cancel("x"),
                subjects.reading("thermo-1", "t"),
                f"mc.{mc}.storage.bucket.photos.policy",
            ):
                await observer.jetstream().publish(subject, b"forged")
                kept = stream_of(subject).name(mc)
                name = consumer_name(role_of(role), NAMES[role])
                config = {"name": name, "filter_subject": subject, "deliver_subject": target}
                create = json.dumps({"stream_name": kept, "config": config | {"ack_policy": "none"}})
                for request, payload in (
                    (f"CONSUMER.CREATE.{kept}.{name}.{subject}", create),
                    (f"CONSUMER.CREATE.{kept}.{name}", create),
                    (f"CONSUMER.CREATE.{kept}", create),
                    (f"DIRECT.GET.{kept}.{subject}", ""),
                    (f"DIRECT.GET.{kept}", json.dumps({"last_by_subj": subject})),
                ):
                    await client.publish(f"$JS.API.{request}", payload.encode(), reply=target)
                    asked += 1
            await settle(client)
            await told.wait_for_errors(asked)
            await observer.publish(target, b"the end")
            assert (await seen.next_msg(timeout=10)).data == b"the end"
        finally:
            for stream in STREAMS:
                await observer.jetstream().delete_stream(stream.name(mc))


@pytest.mark.parametrize("role", ["user", "viewer"])
async def test_a_reader_reads_streams_and_changes_none(
    role: str, broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    stream = stream_name(mc, "deployments")
    own = "anything-else"
    async with nats_as(broker, admin) as observer, nats_as(broker, made[role]) as reader:
        js = observer.jetstream()
        await js.add_stream(name=stream, subjects=[f"mc.{mc}.deployment.*.*"], allow_direct=True)
        try:
            await js.add_consumer(stream, durable_name="vim", ack_policy="explicit")
            await js.publish(f"mc.{mc}.deployment.x.status", b'{"to": "running"}')

            read = reader.jetstream()
            subject = f"mc.{mc}.deployment.x.status"
            assert (await read.stream_info(stream)).state.messages == 1
            assert (await read.get_last_msg(stream, subject, direct=True)).data == b'{"to": "running"}'
            assert (await read.get_last_msg(stream, subject)).data == b'{"to": "running"}'
            await read.add_consumer(
                stream, name=own, filter_subject=f"mc.{mc}.deployment.*.status", ack_policy="none"
            )
            subscription = await read.pull_subscribe_bind(consumer=own, stream=stream)
            assert [message.subject for message in await subscription.fetch(1, timeout=10)] == [subject]
            await read.delete_consumer(stream, own)

            stealing = {"stream_name": stream, "config": {"name": "vim", "ack_policy": "explicit"}}
            for request in (
                f"CONSUMER.CREATE.{stream}",
                f"CONSUMER.CREATE.{stream}.vim",
                f"CONSUMER.CREATE.{stream}.vim.mc.{mc}.deployment.*.status",
                f"CONSUMER.CREATE.{stream}.other",
                f"CONSUMER.CREATE.{stream}.other.mc.{mc}.deployment.*.request",
                f"CONSUMER.CREATE.{stream}.other.mc.{mc}.deployment.>",
                f"CONSUMER.DURABLE.CREATE.{stream}.vim",
                f"CONSUMER.MSG.NEXT.{stream}.vim",
                f"CONSUMER.DELETE.{stream}.vim",
                f"CONSUMER.PAUSE.{stream}.vim",
                f"STREAM.MSG.DELETE.{stream}",
                f"STREAM.UPDATE.{stream}",
                f"STREAM.PURGE.{stream}",
                f"STREAM.DELETE.{stream}",
            ):
                assert await _api(reader, request, **stealing) is None, request
            assert (await js.consumer_info(stream, "vim")).num_ack_pending == 0
        finally:
            await js.delete_stream(stream)


def test_a_user_requests_and_reads_the_retained_status_by_somebody_elses_mqtt(
    broker: Broker, made: dict[str, Credential], mosquitto: Mosquitto, mc: str, tmp_path: Any
) -> None:
    status = f"mc/{mc}/deployment/hello/status"
    with MqttClient(broker, made["service"]) as vim:
        assert vim.subscribe(f"mc/{mc}/deployment/+/request")
        sent = mosquitto.publish(broker.ports.mqtt, made["user"], f"mc/{mc}/deployment/hello/request", "{}")
        assert sent.returncode == 0
        assert vim.next().topic == f"mc/{mc}/deployment/hello/request"
        vim.publish(status, "running", retain=True)
    with mosquitto.subscribe(broker.ports.mqtt, made["user"], status, tmp_path / "out") as subscriber:
        assert subscriber.process.wait(10) == 0
        assert f"{status} running" in subscriber.text()
    with mosquitto.subscribe(broker.ports.mqtt, made["device"], status, tmp_path / "refused") as subscriber:
        assert subscriber.process.wait(10) == 0
        assert "All subscription requests were denied" in subscriber.text()


def test_a_device_gets_its_commands_at_qos_1(broker: Broker, made: dict[str, Credential], mc: str) -> None:
    with MqttClient(broker, made["device"]) as device, MqttClient(broker, made["service"]) as monitor:
        assert device.subscribe(f"mc/{mc}/device/thermo-1/command/#", qos=1)
        monitor.publish(f"mc/{mc}/device/thermo-1/command/interval", "5", qos=1)
        told = device.next()
        assert (told.payload, told.qos) == (b"5", 1)


async def test_a_last_will_is_held_to_the_same_permissions(
    broker: Broker, admin: Credential, made: dict[str, Credential], mc: str
) -> None:
    async with nats_as(broker, admin) as observer:
        seen = await observer.subscribe(f"mc.{mc}.>")
        await settle(observer)
        for node in ("pi-4", "pi-3"):
            client = MqttClient(broker, made["agent"])
            client.paho.will_set(f"mc/{mc}/node/{node}/presence", "offline", qos=1)
            with client:
                client.cut()
                assert await asyncio.to_thread(client.disconnected.wait, 10)
        message = await seen.next_msg(timeout=10)
        assert message.subject == f"mc.{mc}.node.pi-3.presence"


def test_an_unknown_role_is_told_with_those_there_are() -> None:
    with pytest.raises(InvalidName, match=r"root.*one of admin, service, agent"):
        role_of("root")


def test_a_name_with_a_wildcard_widens_nothing() -> None:
    for role in ROLES:
        for name in ("*", ">", "a.b", "", "a b"):
            if role in ("admin", "service", "fleet"):
                continue
            with pytest.raises(InvalidName):
                permissions(role, name, "home")
