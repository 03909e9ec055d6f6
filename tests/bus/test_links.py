"""Links between miniclouds: what crosses one, and that nothing else does, tried with real brokers."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client as NatsClient

from bus.broker import Broker, BrokerSettings, Join, Tls
from bus.credentials import Credential, Credentials
from schemas.errors import InvalidDocument
from tests.bus.clients import Told, nats_as, settle, wait_until
from tests.bus.links import linked, sites

NAMES = ("athens", "pisa", "graz")


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Broker]]:
    """Athens is the hub; Pisa and Graz joined it."""
    with sites(tmp_path_factory.mktemp("links"), *NAMES) as running:
        yield running


def own(broker: Broker, minicloud: str) -> Credential:
    """The credential of a minicloud's own rid on the link."""
    return Credentials(broker.data).ensure("minicloud", minicloud)


async def heard(client: NatsClient, subject: str) -> asyncio.Queue[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    await client.subscribe(subject, cb=queue.put)
    await settle(client)
    return queue


async def interest(broker: Broker, subject: str) -> None:
    """Wait until the broker knows that somebody beyond a link wants a subject."""
    await asyncio.to_thread(
        wait_until,
        lambda: any(
            subject in leaf.get("subscriptions_list", []) for leaf in broker.monitor("leafz?subs=1")["leafs"]
        ),
        f"interest in {subject}",
    )


async def test_each_minicloud_hears_all_and_asks_all(brokers: dict[str, Broker]) -> None:
    async with AsyncExitStack() as stack:
        links = {
            name: await stack.enter_async_context(nats_as(broker, own(broker, name)))
            for name, broker in brokers.items()
        }
        beats = {name: await heard(link, "mc.*.federation.heartbeat") for name, link in links.items()}

        def answering(name: str) -> Any:
            async def answer(message: Any) -> None:
                await message.respond(name.encode())

            return answer

        for name, link in links.items():
            await link.subscribe(f"mc.{name}.svc.rid.query", queue="rid", cb=answering(name))
            await settle(link)
        for name in NAMES[1:]:
            await interest(brokers["athens"], f"mc.{name}.svc.rid.query")
            await interest(brokers[name], "mc.*.federation.heartbeat")
            for other in NAMES:
                if other != name:
                    await interest(brokers[name], f"mc.{other}.svc.rid.query")
        for name, link in links.items():
            await link.publish(f"mc.{name}.federation.heartbeat", name.encode())
            for other in NAMES:
                answer = await link.request(f"mc.{other}.svc.rid.query", b"?", timeout=5)
                assert answer.data == other.encode()
        for queue in beats.values():
            got = {(await asyncio.wait_for(queue.get(), 5)).data.decode() for _ in NAMES}
            assert got == set(NAMES)
            assert queue.empty()


async def test_what_is_said_in_a_minicloud_stays_there(brokers: dict[str, Broker]) -> None:
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            nats_as(brokers["athens"], Credentials(brokers["athens"].data).ensure("admin", "root"))
        )
        link = await stack.enter_async_context(nats_as(brokers["athens"], own(brokers["athens"], "athens")))
        everything = await heard(here, ">")
        beats = await heard(link, "mc.*.federation.heartbeat")
        there = brokers["pisa"]
        beat = await stack.enter_async_context(nats_as(there, own(there, "pisa")))
        for role in ("admin", "user"):
            speaker = await stack.enter_async_context(
                nats_as(there, Credentials(there.data).ensure(role, "strange"), Told())
            )
            for subject in (
                "mc.athens.deployment.x.request",
                "mc.athens.node.pi-3.desired.w-0",
                "mc.athens.svc.vim.cancel",
                "mc.athens.federation.heartbeat",
                "mc.pisa.federation.heartbeat",
                "$JS.API.STREAM.NAMES",
            ):
                await speaker.publish(subject, b"forged")
            await settle(speaker)
        # Said last and heard first: nothing was on its way before it.
        await interest(there, "mc.*.federation.heartbeat")
        await beat.publish("mc.pisa.federation.heartbeat", b"true")
        assert (await asyncio.wait_for(beats.get(), 5)).data == b"true"
        assert beats.empty()
        assert everything.empty()


async def test_a_minicloud_cannot_pass_for_another_nor_listen_in(brokers: dict[str, Broker]) -> None:
    # Whoever owns a broker may say anything on it: the hub's own broker must hold the link to its name.
    pisa = brokers["pisa"]
    forged = Credentials(pisa.data).ensure("minicloud", "graz")
    async with (
        nats_as(brokers["athens"], own(brokers["athens"], "athens")) as athens,
        nats_as(pisa, forged) as forger,
        nats_as(pisa, own(pisa, "pisa")) as honest,
        nats_as(brokers["graz"], own(brokers["graz"], "graz")) as graz,
    ):
        beats = await heard(athens, "mc.*.federation.heartbeat")
        tapped = await heard(forger, "_INBOX.minicloud.graz.>")
        stolen = await heard(forger, "mc.graz.svc.rid.query")

        async def answer(message: Any) -> None:
            await message.respond(b"graz")

        await graz.subscribe("mc.graz.svc.rid.query", cb=answer)
        await athens.subscribe("mc.athens.svc.rid.query", cb=answer)
        await settle(graz)
        await settle(athens)
        await interest(brokers["athens"], "mc.graz.svc.rid.query")
        assert (await athens.request("mc.graz.svc.rid.query", b"?", timeout=5)).data == b"graz"
        assert (await graz.request("mc.athens.svc.rid.query", b"?", timeout=5)).data == b"graz"
        await interest(pisa, "mc.*.federation.heartbeat")
        await forger.publish("mc.graz.federation.heartbeat", b"forged")
        await settle(forger)
        await honest.publish("mc.pisa.federation.heartbeat", b"true")
        assert (await asyncio.wait_for(beats.get(), 5)).data == b"true"
        assert tapped.empty()
        assert stolen.empty()


async def test_on_the_link_a_rid_does_what_the_role_says_and_no_more(brokers: dict[str, Broker]) -> None:
    told = Told()
    async with nats_as(brokers["athens"], own(brokers["athens"], "athens"), told) as link:
        refused = [
            "mc.athens.deployment.x.request",
            "mc.pisa.federation.heartbeat",
            "mc.athens.resource.a",
            "x",
        ]
        for subject in refused:
            await link.publish(subject, b"1")
        unheard = ["mc.pisa.svc.rid.query", "_INBOX.>", "_INBOX.minicloud.pisa.>", ">"]
        for subject in unheard:
            await link.subscribe(subject)
        await settle(link)
        await told.wait_for_errors(len(refused) + len(unheard))


@pytest.mark.parametrize("role", ["admin", "service", "user", "agent"])
def test_only_a_minicloud_links_brokers(role: str, brokers: dict[str, Broker], tmp_path: Path) -> None:
    hub = brokers["athens"]
    intruder = Credentials(hub.data).ensure(role, "intruder")
    before = hub.violations["authentication"]
    join = Join(hub.leaf_url, intruder.user, intruder.password)
    with Broker(tmp_path, BrokerSettings(name="intruder", join=(join,))) as broker:
        wait_until(lambda: hub.violations["authentication"] > before, "the hub refuses it")
        assert linked(broker, 0)


def test_a_revoked_minicloud_is_cut_off_and_let_in_again_with_a_new_secret(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa") as both, ExitStack() as stack:
        hub = Credentials(both["athens"].data)
        hub.revoke("minicloud", "pisa")
        wait_until(lambda: linked(both["athens"], 0), "the link is cut")
        both["pisa"].stop()
        there = hub.add("minicloud", "pisa")
        join = Join(both["athens"].leaf_url, there.user, there.password)
        again = stack.enter_context(Broker(both["pisa"].data, BrokerSettings(name="pisa", join=(join,))))
        wait_until(lambda: linked(both["athens"]), "the link stands again")
        # A credential that comes and goes elsewhere leaves the link alone.
        Credentials(again.data).ensure("user", "ada")
        hub.ensure("user", "ada")
        assert both["athens"].monitor("varz")["leafnodes"] == 1


def test_a_minicloud_that_never_linked_is_revoked_without_ado(own_broker: Broker) -> None:
    known = Credentials(own_broker.data)
    known.add("minicloud", "pisa")
    known.revoke("minicloud", "pisa")
    assert [entry.user for entry in known.list()] == []


def test_the_link_stands_again_after_the_hub_was_killed(tmp_path: Path) -> None:
    with sites(tmp_path, "athens", "pisa", "graz") as brokers:
        brokers["athens"].kill()
        brokers["athens"].start()
        wait_until(lambda: linked(brokers["athens"], 2), "both are back", 20)


def test_a_link_by_tls_is_made_to_the_right_broker_only_and_can_be_cut(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    right, wrong = _certificate(tmp_path / "right"), _certificate(tmp_path / "wrong")
    known = Credentials(tmp_path / "athens", "athens")
    there = known.add("minicloud", "pisa")
    settings = BrokerSettings(name="athens", leaf_port=0, tls=Tls(*right))
    with Broker(tmp_path / "athens", settings) as hub:
        assert hub.leaf_url.startswith("tls://")
        for ca, stands in ((wrong[0], False), (right[0], True)):
            join = Join(hub.leaf_url, there.user, there.password, ca)
            with Broker(tmp_path / "pisa", BrokerSettings(name="pisa", join=(join,))) as pisa:
                log = pisa.data / "broker" / "broker.log"
                if stands:
                    wait_until(lambda: linked(hub), "the link stands")
                    known.revoke("minicloud", "pisa")
                    wait_until(lambda: linked(hub, 0), "the link is cut")
                else:
                    wait_until(lambda log=log: "certificate" in log.read_text(), "pisa refuses the broker")
                    assert linked(hub, 0)


def _certificate(folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command: list[str | Path] = ["openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("url", ["nats://hub:7422", "hub", "nats-leaf://", "nats-leaf://u:p@hub"])
def test_a_place_to_join_that_is_none_is_told(url: str) -> None:
    with pytest.raises(InvalidDocument, match="nats-leaf://host:7422"):
        Join(url, "minicloud.pisa", "x")


async def test_what_a_data_folder_kept_before_there_were_accounts_is_still_there(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        admin = Credentials(tmp_path).add("admin", "root")
        async with nats_as(broker, admin) as client:
            await client.jetstream().add_stream(name="kept", subjects=["kept.*"])
            await client.jetstream().publish("kept.one", b"1")
    store = tmp_path / "broker" / "jetstream" / "jetstream"
    shutil.move(store / "MINICLOUD", store / "$G")
    with Broker(tmp_path) as broker:
        async with nats_as(broker, admin) as client:
            assert (await client.jetstream().get_last_msg("kept", "kept.one")).data == b"1"
            with pytest.raises(nats.errors.Error):
                await client.jetstream().add_stream(name="other", subjects=["kept.one"])
