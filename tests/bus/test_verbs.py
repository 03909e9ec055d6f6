"""The verbs of the bus against a real broker, killed and started again in between."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bus.broker import Broker
from bus.bus import Bus, gather_published
from bus.consume import Retry
from bus.credentials import Credential, Credentials
from bus.port import Endpoint
from bus.streams import STREAMS
from schemas.dead import DeadLetter
from schemas.errors import Conflict, InvalidDocument, NotFound, RequestTimeout, TooOld, Unavailable
from schemas.event import Event
from schemas.node import Measurement, Presence


def endpoint(broker: Broker, credential: Credential) -> Endpoint:
    return Endpoint(broker.url, credential.user, credential.password, credential.inbox_prefix)


@pytest.fixture
async def bus(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Bus]:
    connected = await Bus.connect(endpoint(broker, admin), mc, "tests")
    await connected.ensure_streams()
    yield connected
    for stream in STREAMS:
        await connected.jetstream.api(f"STREAM.DELETE.{stream.name(mc)}")
    await connected.close()


@pytest.fixture
async def own_bus(own_broker: Broker) -> AsyncIterator[Bus]:
    admin = Credentials(own_broker.data).add("admin", "tests")
    connected = await Bus.connect(endpoint(own_broker, admin), "home", "tests")
    await connected.ensure_streams()
    yield connected
    await connected.close()


def measured(node: str, value: float) -> Measurement:
    return Measurement(node=node, interval=1, values={"load.1m": value})


def present(node: str, session: str = "s") -> Presence:
    return Presence.model_validate(
        {
            "node": node,
            "state": "online",
            "reason": "started",
            "session": session,
            "since": "2026-01-01T00:00:00Z",
        }
    )


async def test_what_is_emitted_reaches_a_live_subscriber_typed(bus: Bus) -> None:
    got: asyncio.Queue[Event[Measurement]] = asyncio.Queue()
    await bus.subscribe(bus.subjects.metrics(), Measurement, got.put)
    await bus.flush()
    await bus.emit(bus.subjects.metrics("a"), measured("a", 0.5), about="a")
    received = await asyncio.wait_for(got.get(), 5)
    assert received.data == measured("a", 0.5)
    assert (received.subject, received.source) == ("a", f"/{bus.minicloud}/tests")


async def test_a_repeat_under_the_same_id_is_stored_once(bus: Bus) -> None:
    first = await bus.publish(bus.subjects.presence("a"), present("a"), event_id="same")
    again = await bus.publish(bus.subjects.presence("a"), present("a"), event_id="same")
    assert first == again


async def test_a_write_on_top_of_somebody_elses_is_a_conflict(bus: Bus) -> None:
    revision = await bus.publish(bus.subjects.presence("a"), present("a", "1"), expect=0)
    await bus.publish(bus.subjects.presence("a"), present("a", "2"), expect=revision)
    with pytest.raises(Conflict):
        await bus.publish(bus.subjects.presence("a"), present("a", "3"), expect=revision)


async def test_a_message_larger_than_the_broker_takes_is_refused_with_the_limit(bus: Bus) -> None:
    with pytest.raises(InvalidDocument, match="at most"):
        await bus.publish(bus.subjects.presence("a"), present("a", "x" * 2_000_000))


async def test_consume_retries_with_backoff_then_buries_with_the_reason_and_goes_on(bus: Bus) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def handler(event: Event[Presence]) -> None:
        seen.append(event.data.session)
        if event.data.session == "bad":
            raise ValueError("no such luck")
        if event.data.session == "last":
            done.set()

    for session in ("good", "bad", "last"):
        await bus.publish(bus.subjects.request(session), present("a", session))
    retry = Retry(tries=3, first=0.01)
    consumption = await bus.consume(bus.subjects.request(), Presence, handler, durable="vim", retry=retry)
    await asyncio.wait_for(done.wait(), 10)
    async with bus.watch({bus.subjects.dead(): DeadLetter}) as letters:
        async for item in letters:
            if item.event:
                letter = item.event.data
                break
    await consumption.stop()
    assert seen.count("bad") == 3
    assert letter.reason == "no such luck"
    assert letter.deliveries == 3
    assert '"session":"bad"' in letter.payload


async def test_noise_goes_whole_to_the_dead_letters_and_the_flow_goes_on(bus: Bus) -> None:
    noise = bytes(range(256)) * 3900
    got: asyncio.Queue[Event[Presence]] = asyncio.Queue()
    await bus.consume(bus.subjects.request(), Presence, got.put, durable="vim")
    await bus.jetstream.publish(bus.subjects.request("x"), noise, "noise")
    await bus.publish(bus.subjects.request("y"), present("y"))
    assert (await asyncio.wait_for(got.get(), 10)).data.node == "y"
    async with bus.watch({bus.subjects.dead(): DeadLetter}) as letters:
        async for item in letters:
            if item.event:
                break
    assert item.event is not None
    letter = item.event.data
    assert (letter.subject, letter.encoding, letter.size) == (bus.subjects.request("x"), "base64", len(noise))
    assert "Invalid JSON" in letter.reason


async def test_watch_gives_the_present_state_then_sync_then_changes(bus: Bus) -> None:
    for session in ("1", "2"):
        await bus.publish(bus.subjects.presence("a"), present("a", session))
    last = await bus.publish(bus.subjects.presence("b"), present("b"))
    said = []
    async with bus.watch({bus.subjects.presence(): Presence}) as items:
        async for item in items:
            said.append((item.kind, item.event.data.node if item.event else None, item.revision))
            if item.kind == "SYNC":
                changed = await bus.publish(bus.subjects.presence("a"), present("a", "3"))
            if item.kind == "CHANGE":
                break
    assert said == [
        ("ITEM", "a", last - 1),
        ("ITEM", "b", last),
        ("SYNC", None, last),
        ("CHANGE", "a", changed),
    ]


async def test_watch_of_nothing_says_sync_at_once_and_bookmarks_while_idle(bus: Bus) -> None:
    async with bus.watch({bus.subjects.presence(): Presence}) as items:
        kinds = [(await asyncio.wait_for(anext(items), 10)).kind for _ in range(2)]
    assert kinds == ["SYNC", "BOOKMARK"]


async def test_watch_resumes_after_a_revision(bus: Bus) -> None:
    revisions = [await bus.publish(bus.subjects.resource(name), present(name)) for name in "abcd"]
    async with bus.watch({bus.subjects.resource(): Presence}, since=revisions[1]) as items:
        names = [(await anext(items)).event.data.node for _ in range(2)]
    assert names == ["c", "d"]


async def test_a_revision_that_is_no_longer_kept_is_told_as_too_old(bus: Bus) -> None:
    revisions = [await bus.publish(bus.subjects.resource(name), present(name)) for name in "abcd"]
    await bus.jetstream.api(f"STREAM.PURGE.{bus.minicloud}_resources", {"seq": revisions[3]})
    with pytest.raises(TooOld, match="no longer kept"):
        async with bus.watch({bus.subjects.resource(): Presence}, since=revisions[0]):
            pass


async def test_requests_are_answered_typed_and_errors_come_back_as_raised(bus: Bus) -> None:
    async def answer(which: Presence) -> dict[str, str]:
        if which.node == "gone":
            raise NotFound("no such node", field="node", expected="pi-3")
        return {"node": which.node}

    await bus.serve("rid", "get", Presence, answer)
    assert await bus.request("rid", "get", present("a")) == {"node": "a"}
    with pytest.raises(NotFound, match="expected pi-3"):
        await bus.request("rid", "get", present("gone"))
    with pytest.raises(InvalidDocument, match="node"):
        await bus.request("rid", "get", {"session": 3})
    with pytest.raises(Unavailable, match="nobody answers"):
        await bus.request("rid", "nonsense", {})


async def test_a_service_that_does_not_answer_is_a_typed_timeout(bus: Bus) -> None:
    async def answer(_: Presence) -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    await bus.serve("rid", "slow", Presence, answer)
    with pytest.raises(RequestTimeout):
        await bus.request("rid", "slow", present("a"), timeout=0.1)


async def test_services_are_discoverable_as_nats_micro_services(bus: Bus) -> None:
    async def answer(_: Presence) -> dict[str, str]:
        return {}

    name = f"svc{bus.minicloud}"
    await bus.serve(name, "get", Presence, answer)
    info = await bus.wire.request(f"$SRV.INFO.{name}", b"", 5)
    assert b'"subject": "' + bus.subjects.service(name, "get").encode() in info.data


async def test_one_of_two_holds_a_lease_and_the_other_takes_over_when_it_is_released(bus: Bus) -> None:
    first, second = bus.lease("vim", "one"), bus.lease("vim", "two")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    assert first.held
    assert not second.held
    await first.release()
    await asyncio.wait_for(waiting, 10)
    assert second.held
    await second.release()


async def test_whoever_restarts_under_the_same_name_takes_its_lease_back_at_once(bus: Bus) -> None:
    await bus.lease("vim", "same").acquire()
    again = bus.lease("vim", "same")
    await asyncio.wait_for(again.acquire(), 2)
    assert again.held


async def test_publishes_in_flight_when_the_broker_is_killed_are_all_stored_once(
    own_broker: Broker, own_bus: Bus
) -> None:
    subject = own_bus.subjects.resource
    publishing = [
        asyncio.ensure_future(own_bus.publish(subject("a"), present("a", str(i)))) for i in range(2000)
    ]
    await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
    own_broker.kill()
    own_broker.start()
    revisions = await gather_published(publishing)
    assert len(set(revisions)) == 2000
    async with own_bus.watch({subject(): Presence}, since=0) as items:
        sessions = [(await asyncio.wait_for(anext(items), 20)).event.data.session for _ in range(2000)]
    assert sorted(sessions, key=int) == [str(i) for i in range(2000)]


async def test_a_watch_goes_on_without_a_gap_when_the_broker_is_killed(
    own_broker: Broker, own_bus: Bus
) -> None:
    subject = own_bus.subjects.resource("a")
    async with own_bus.watch({subject: Presence}) as items:
        assert (await anext(items)).kind == "SYNC"
        seen = []
        for round_ in range(3):
            revision = await own_bus.publish(subject, present("a", str(round_)))
            while True:
                item = await asyncio.wait_for(anext(items), 30)
                if item.event:
                    seen.append(item.event.data.session)
                    assert item.revision == revision
                    break
            own_broker.kill()
            own_broker.start()
    assert seen == ["0", "1", "2"]


async def test_consume_hands_out_everything_at_least_once_when_the_broker_is_killed(
    own_broker: Broker, own_bus: Bus
) -> None:
    seen: set[str] = set()
    half, whole = asyncio.Event(), asyncio.Event()

    async def handler(event: Event[Presence]) -> None:
        seen.add(event.data.session)
        if len(seen) == 500:
            half.set()
        if len(seen) == 1000:
            whole.set()

    subject = own_bus.subjects.request("a")
    await gather_published([own_bus.publish(subject, present("a", str(i))) for i in range(1000)])
    await own_bus.consume(subject, Presence, handler, durable="vim")
    await asyncio.wait_for(half.wait(), 20)
    own_broker.kill()
    own_broker.start()
    await asyncio.wait_for(whole.wait(), 30)


async def test_what_nobody_stores_fails_after_its_own_time_and_the_rest_waits_on(
    own_broker: Broker, own_bus: Bus
) -> None:
    own_broker.kill()
    subject = own_bus.subjects.presence("a")
    patient = asyncio.ensure_future(own_bus.publish(subject, present("a", "patient"), timeout=60))
    hasty = asyncio.ensure_future(own_bus.publish(subject, present("a", "hasty"), timeout=0.1))
    with pytest.raises(Unavailable, match=r"within 0\.1 s"):
        await asyncio.wait_for(hasty, 10)
    assert not patient.done()
    own_broker.start()
    assert await asyncio.wait_for(patient, 30) > 0


async def test_a_question_that_was_lost_with_the_connection_is_asked_again(
    own_broker: Broker, own_bus: Bus
) -> None:
    own_broker.kill()
    own_broker.start()  # and our side has not noticed yet: what it sends goes nowhere
    async with asyncio.timeout(30):
        assert await own_bus.jetstream.last("home_presence", own_bus.subjects.presence("a")) is None
    own_broker.kill()
    own_broker.start()
    async with asyncio.timeout(30), own_bus.watch({own_bus.subjects.presence(): Presence}) as items:
        assert (await anext(items)).kind == "SYNC"
