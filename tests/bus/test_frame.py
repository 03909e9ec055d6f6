"""The frame around a real service in a process of its own: health, logs, metrics, its end and its twins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential, Credentials
from bus.frame import Frame
from bus.permissions import inbox_prefix
from bus.port import Endpoint
from bus.settings import Settings
from bus.streams import STREAMS
from schemas.deployment import Cancellation
from tests.bus.services import Cable, Toys


def endpoint(broker: Broker, credential: Credential) -> Endpoint:
    return Endpoint(broker.url, credential.user, credential.password, credential.inbox_prefix)


@pytest.fixture
async def toys(broker: Broker, admin: Credential, mc: str, tmp_path: Path) -> AsyncIterator[Toys]:
    """Toys on the shared broker, in a minicloud of the test's own."""
    bus = await Bus.connect(endpoint(broker, admin), mc, "tests")
    await bus.ensure_streams()
    made = Toys(bus, broker, admin, tmp_path)
    await made.listen()
    yield made
    made.end()
    for stream in STREAMS:
        await bus.jetstream.api(f"STREAM.DELETE.{stream.name(mc)}")
    await bus.close()


async def ask(toys: Toys, *reasons: str) -> None:
    """Give the consumers something to do."""
    bus = toys.bus
    for reason in reasons:
        await bus.publish(bus.subjects.cancel(reason), Cancellation(reason=reason))


# -- health, metrics, HTTP -----------------------------------------------------------------------


async def test_readiness_follows_the_broker_and_health_does_not(own_broker: Broker, tmp_path: Path) -> None:
    admin = Credentials(own_broker.data).add("admin", "tests")
    bus = await Bus.connect(endpoint(own_broker, admin), "home", "tests")
    toys = Toys(bus, own_broker, admin, tmp_path)
    try:
        toy = toys.start("one", http=True)
        assert (await toy.answers("/readyz", 200)).json() == {"ready": True, "connected": True}
        own_broker.kill()
        assert (await toy.answers("/readyz", 503)).json() == {"ready": False, "connected": False}
        assert (await toy.answers("/healthz", 200)).json() == {"status": "ok", "service": "toy"}
        assert "minicloud_bus_connected 0.0" in (await toy.answers("/metrics", 200)).text
        own_broker.start()
        assert (await toy.answers("/readyz", 200)).json() == {"ready": True, "connected": True}
        assert toy.process.poll() is None
    finally:
        toys.end()
        await bus.close()


async def test_a_service_has_metrics_of_its_own(toys: Toys) -> None:
    toy = toys.start("one", http=True)
    await toys.hear("ready", "one")
    answer = await toy.answers("/metrics", 200)
    assert answer.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert values["minicloud_bus_connected"] == "1.0"
    assert values["minicloud_dead_letters"] == "0.0"
    assert values['toy_words_total{word="hello"}'] == "1.0"
    assert float(values["process_resident_memory_bytes"]) > 1e6
    assert "process_cpu_seconds_total" in values


async def test_errors_over_http_are_documents(toys: Toys) -> None:
    toy = toys.start("one", http=True)
    await toys.hear("ready", "one")
    assert (await toy.answers("/fine", 200)).json() == {"fine": True}
    assert (await toy.answers("/no-such", 404)).json() == {
        "code": "NotFound",
        "message": "no such thing",
        "field": "thing",
        "expected": "another",
    }
    assert (await toy.answers("/nowhere", 404)).json()["code"] == "NotFound"
    assert (await toy.answers("/broken", 500)).json()["message"] == "RuntimeError: out of paper"
    assert (await toy.answers("/healthz", 200)).json()["status"] == "ok"
    (told,) = [line for line in toy.log() if line["event"] == "a route failed"]
    assert "out of paper" in told["exception"]


async def test_a_port_that_is_taken_is_told_by_its_setting(toys: Toys) -> None:
    first = toys.start("one", http=True)
    await first.answers("/readyz", 200)
    second = toys.start("two", http_port=first.http.rsplit(":", 1)[1])
    assert await second.ended() == 1
    last = second.log()[-1]
    assert (last["code"], last["level"]) == ("Conflict", "error")
    assert "setting http_port" in last["error"]


# -- logs ----------------------------------------------------------------------------------------


async def test_every_line_of_the_log_is_json_with_time_and_level(toys: Toys) -> None:
    toy = toys.start("one", log_level="debug")
    await toys.hear("ready", "one")
    toy.process.send_signal(signal.SIGTERM)
    assert await toy.ended() == 0
    lines = toy.log()
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    told = {line["event"]: line["level"] for line in lines}
    assert told["finer than most want"] == "debug"
    assert told["a library says something"] == "warning"
    assert told["ready"] == told["stopped"] == "info"


async def test_the_level_is_a_setting(toys: Toys) -> None:
    toy = toys.start("one", log_level="error")
    await toys.hear("ready", "one")
    toy.process.send_signal(signal.SIGTERM)
    assert await toy.ended() == 0
    assert toy.log() == []


async def test_people_may_have_text_instead(toys: Toys) -> None:
    toy = toys.start("one", log_format="text", does="fail")
    await toys.hear("ready", "one")
    await toys.go()
    assert await toy.ended() == 1
    assert "[info" in toy.text()
    assert "RuntimeError: the disk is full" in toy.text()
    with pytest.raises(json.JSONDecodeError):
        toy.log()


# -- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_when_asked(toys: Toys, number: signal.Signals) -> None:
    toy = toys.start("one", http=True)
    await toy.answers("/readyz", 200)
    toy.process.send_signal(number)
    assert await toy.ended() == 0
    assert toy.log()[-1]["event"] == "stopped"


@pytest.mark.slow
async def test_a_service_that_does_not_end_when_asked_is_ended(toys: Toys) -> None:
    toy = toys.start("one", does="stay")
    await toys.hear("ready", "one")
    toy.process.send_signal(signal.SIGTERM)
    assert await toy.ended() == 0
    assert "did not end when asked to; cancelled" in [line["event"] for line in toy.log()]


async def test_a_part_that_fails_ends_the_service_and_the_log_tells_why(toys: Toys) -> None:
    toy = toys.start("one", does="fail")
    await toys.hear("ready", "one")
    await toys.go()
    assert await toy.ended() == 1
    (told,) = [line for line in toy.log() if "failed" in line["event"]]
    assert "RuntimeError: the disk is full" in told["exception"]
    assert "stopped" not in [line["event"] for line in toy.log()]


@pytest.mark.parametrize(
    ("does", "code", "told"),
    [
        ("raise", 1, "the roof is gone"),
        ("refuse", 1, "the house: somebody lives here"),
        ("return", 0, "stopped"),
    ],
)
async def test_a_service_that_ends_by_itself_says_how(toys: Toys, does: str, code: int, told: str) -> None:
    toy = toys.start("one", does=does)
    assert await toy.ended() == code
    assert told in json.dumps(toy.log()[-1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"does": "dance"}, "setting does (MINICLOUD_DOES)"),
        ({"http_port": "x"}, "setting http_port (MINICLOUD_HTTP_PORT)"),
        ({"password": "wrong"}, "refuses user"),
    ],
)
async def test_what_keeps_it_from_starting_is_told_in_the_log(
    toys: Toys, settings: dict[str, str], told: str
) -> None:
    toy = toys.start("one", **settings)
    assert await toy.ended() == 1
    line = toy.log()[-1]
    assert told in line["error"]
    assert line["event"] == "cannot run"


async def test_a_service_whose_credential_is_revoked_ends(toys: Toys, credentials: Credentials) -> None:
    credential = credentials.add("service", "toy")
    toy = toys.start("one", user=credential.user, password=credential.password)
    await toys.hear("ready", "one")
    credentials.revoke("service", "toy")
    assert await toy.ended() == 1
    assert "ended the connection" in json.dumps([line for line in toy.log() if line["event"] == "cut off"])


async def test_what_is_in_hand_is_finished_before_the_end_and_the_rest_is_handed_back(toys: Toys) -> None:
    await ask(toys, "slow-1", "b", "c")
    # So long that nothing but being handed back brings it to the other.
    first = toys.start("one", does="consume", ack_wait=600, http=True)
    await toys.hear("begun", "one", "slow-1")
    second = toys.start("two", does="consume", ack_wait=600)
    await toys.hear("ready", "two")
    first.process.send_signal(signal.SIGTERM)
    await first.answers("/readyz", 503)  # it holds a message still, and wants no more
    assert first.process.poll() is None
    await toys.go()
    await toys.hear("done", "two", "c")
    await toys.hear("done", "two", "b")
    assert await first.ended() == 0
    assert toys.said("done")[0] == ("one", "slow-1")
    assert Counter(about for _, about in toys.said("begun")) == {"slow-1": 1, "b": 1, "c": 1}
    await ask(toys, "d")
    await toys.hear("done", "two", "d")
    second.process.send_signal(signal.SIGTERM)
    assert await second.ended() == 0
    state = await toys.bus.jetstream.api(f"CONSUMER.INFO.{toys.bus.minicloud}_deployments.vim")
    assert (state["num_ack_pending"], state["num_pending"]) == (0, 0)


async def test_what_a_killed_service_held_is_done_by_the_next(toys: Toys) -> None:
    await ask(toys, "slow-1", "b")
    first = toys.start("one", does="consume", ack_wait=1)
    await toys.hear("begun", "one", "slow-1")
    first.kill()
    toys.start("two", does="consume", ack_wait=1)
    await toys.hear("begun", "two", "slow-1")
    await toys.go()
    await toys.hear("done", "two", "slow-1")
    await toys.hear("done", "two", "b")


# -- two of the same kind ------------------------------------------------------------------------


async def test_two_with_the_same_durable_share_the_work(toys: Toys) -> None:
    for name in ("one", "two"):
        toys.start(name, does="consume")
        await toys.hear("ready", name)
    reasons = [f"slow-{n}" for n in range(20)]
    await ask(toys, *reasons)
    # Each holds one at the same moment: neither waits for the other.
    await toys.until(lambda: {who for who, _ in toys.said("begun")} == {"one", "two"}, "both at work")
    await toys.go()
    await toys.until(lambda: len(toys.said("done")) >= len(reasons), "all of it done")
    assert sorted(about for _, about in toys.said("done")) == sorted(reasons)
    assert {who for who, _ in toys.said("done")} == {"one", "two"}


def acted(diary: Path) -> dict[str, tuple[float, float]]:
    """When each holder acted, first and last."""
    spans: dict[str, tuple[float, float]] = {}
    for line in diary.read_text().splitlines():
        who, at = line.split()
        first, _ = spans.get(who, (float(at), 0.0))
        spans[who] = (first, float(at))
    return spans


async def test_a_standby_takes_over_at_once_from_a_holder_that_stops(toys: Toys, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    one = toys.start("one", does="lease", diary=diary)
    await toys.hear("held", "one")
    toys.start("two", does="lease", diary=diary)
    await toys.hear("ready", "two")
    assert toys.said("held") == [("one", "")]
    one.process.send_signal(signal.SIGTERM)
    await toys.hear("held", "two")
    assert await one.ended() == 0
    spans = acted(diary)
    assert spans["one"][1] < spans["two"][0]
    assert spans["two"][0] - spans["one"][1] < 4  # it was given up, not waited out


async def test_a_holder_that_comes_back_takes_its_own_lease_at_once_and_nobody_elses(toys: Toys) -> None:
    former = toys.bus.lease("toy", "one")
    await former.acquire()
    assert former._renewer
    former._renewer.cancel()  # it dies: nothing is renewed, nothing given up
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(toys.bus.lease("toy", "two").acquire(), 0.5)
    again = toys.bus.lease("toy", "one")
    await asyncio.wait_for(again.acquire(), 3)
    assert again.held
    await again.release()
    assert not again.held


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "frozen", "cut"])
async def test_a_standby_takes_over_from_a_holder_that_is_lost_and_they_never_act_both(
    toys: Toys, broker: Broker, tmp_path: Path, how: str
) -> None:
    diary = tmp_path / "diary"
    cable = Cable("127.0.0.1", broker.ports.nats)
    await cable.open()
    try:
        one = toys.start("one", does="lease", diary=diary, broker=cable.url)
        await toys.hear("held", "one")
        toys.start("two", does="lease", diary=diary)
        await toys.hear("ready", "two")
        match how:
            case "killed":
                one.kill()
            case "frozen":
                one.process.send_signal(signal.SIGSTOP)
            case "cut":
                cable.cut()
        await toys.hear("held", "two")
        if how == "frozen":
            one.process.send_signal(signal.SIGCONT)
        cable.mend()
        if how != "killed":
            await toys.hear("lost", "one")  # it knows, and waits for its turn
        spans = acted(diary)
        assert spans["one"][1] < spans["two"][0]
        assert toys.said("held") == [("one", ""), ("two", "")]
    finally:
        await cable.close()


async def test_a_part_that_loses_a_cancellation_ends_all_the_same(
    broker: Broker, credentials: Credentials, mc: str
) -> None:
    mine = credentials.add("service", "some")
    endpoint = Endpoint(broker.url, mine.user, mine.password, inbox_prefix(mine.user))
    async with await Bus.connect(endpoint, mc, "some") as bus:
        frame = Frame("some", Settings(), bus)
        lost = 0

        async def forgetful() -> None:
            nonlocal lost
            while lost < 2:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                lost += 1
            await asyncio.Event().wait()

        task = frame.spawn(forgetful())
        await asyncio.sleep(0)  # let it begin
        async with asyncio.timeout(10):
            await frame.close()
        assert task.cancelled()
        assert lost == 2
