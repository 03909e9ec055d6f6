"""The fleet simulator: many agents in one process, each a real MQTT connection with a last will of its own.

In: how many, where the broker is, whose credential. Out: on the bus, exactly what real agents say, with
machines from ``hardware.py``, metrics from ``walk.py`` and the label ``simulated``; no worker is ever
claimed, so nothing is placed on them. paho's clients are driven by the one event loop, without threads.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from bus.tls import trust
from minicloud.hardware import machine
from minicloud.walk import Walk
from schemas.errors import Forbidden, InvalidDocument, Unavailable
from schemas.names import token
from services.charagent import event

CONNECTING: Final = 32  # connections in the making at a time
KEEPALIVE: Final = 30  # seconds
FIRST_REPEAT: Final = 4.0  # seconds from the connection to the first repeat; doubled each time
LONGEST_REPEAT: Final = 300.0
TICK: Final = 0.05  # seconds between two bundles of metrics
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_TRUST_WITHIN: Final = 20.0
_REPORT_EVERY: Final = 10.0
_ROOM: Final = 64  # file descriptors for everything but the connections


class FleetReport(NamedTuple):
    """What a fleet did.

    Attributes:
        nodes: how many there were.
        connected_in: seconds until the last of them was online; None if it never came to that.
        published: metrics sent.
        lost: connections that broke on the way.
    """

    nodes: int
    connected_in: float | None
    published: int
    lost: int


async def run_fleet(
    count: int,
    broker: str,
    minicloud: str,
    credential_for: Callable[[str], tuple[str, str]],
    rate: float,
    seed: int,
    on_progress: Callable[[str], None],
    stop: asyncio.Event,
    ca: str | None = None,
) -> FleetReport:
    """Simulate ``count`` nodes, ``sim-00000`` and on, until ``stop`` is set.

    Args:
        count: how many.
        broker: ``mqtt://host:port`` or ``mqtts://host:port``.
        minicloud: whose nodes they are.
        credential_for: user name and password for a node's name; one of role ``fleet`` serves all.
        rate: metrics events a second, of each node.
        seed: the same one gives the same machines.
        on_progress: told in a line how it goes.
        stop: ends the fleet: every node says goodbye.
        ca: PEM file of who signed the broker's certificate; None is whom the system trusts.

    Raises:
        InvalidDocument: a count, rate or broker that cannot be used.
        Forbidden: the broker refuses the credential, or drops what it says.
        Unavailable: no broker answers.
    """
    where = urlsplit(broker)
    if count < 1 or rate <= 0:
        raise InvalidDocument(f"{count} nodes at {rate} a second", expected="more than none of both")
    if where.scheme not in ("mqtt", "mqtts") or not where.hostname:
        raise InvalidDocument(f"{broker!r} is no broker", field="broker", expected="mqtt://host:port")
    _allow_files(count + _ROOM)
    fleet = _Fleet(token(minicloud, "minicloud"), where.hostname, where.port or 1883, on_progress)
    if where.scheme == "mqtts" or ca:
        fleet.tls = trust(ca)
    rng = random.Random(seed)  # noqa: S311 - machines, not secrets
    for index in range(count):
        name = f"sim-{index:05d}"
        fleet.nodes.append(_Node(fleet, index, name, credential_for(name), rng.getrandbits(64), 1 / rate))
    return await fleet.run(rate, stop)


class _Fleet:
    """What the nodes share."""

    def __init__(self, minicloud: str, host: str, port: int, say: Callable[[str], None]) -> None:
        self.minicloud = minicloud
        self.host = host
        self.port = port
        self.tls: SSLContext | None = None
        self.say = say
        self.nodes: list[_Node] = []
        self.loop = asyncio.get_running_loop()
        self.slots = asyncio.Semaphore(CONNECTING)
        self.online = 0
        self.published = 0
        self.lost = 0
        self.started = time.monotonic()
        self.connected_in: float | None = None
        self.everybody = asyncio.Event()

    async def run(self, rate: float, stop: asyncio.Event) -> FleetReport:
        await self._try_one(self.nodes[0], stop)
        tasks = [asyncio.create_task(node.stay_connected()) for node in self.nodes]
        tasks += [asyncio.create_task(self._measure(rate)), asyncio.create_task(self._report(rate))]
        stopping = asyncio.create_task(stop.wait())
        try:
            # No task ends by itself unless something is wrong: then that is what the caller hears.
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            for task in [stopping, *tasks]:
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            for position, node in enumerate(self.nodes):
                node.leave()
                if position % 100 == 99:
                    await asyncio.sleep(0)  # let what the sockets did not take at once go out
            await asyncio.sleep(TICK)
            for node in self.nodes:
                node.drop()
        return FleetReport(len(self.nodes), self.connected_in, self.published, self.lost)

    def came_online(self) -> None:
        self.online += 1
        if self.online == len(self.nodes) and self.connected_in is None:
            self.connected_in = time.monotonic() - self.started
            self.everybody.set()

    async def _try_one(self, node: _Node, stop: asyncio.Event) -> None:
        """One node must hear itself before the others start: a refused publish is told nowhere else."""
        trying = asyncio.create_task(node.hear_itself())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([trying, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if trying.done():
            trying.result()
        else:
            trying.cancel()

    async def _measure(self, rate: float) -> None:
        """Send metrics, spread evenly: the k-th of N nodes a k-th of the interval after the first."""
        position, due, last = 0, 0.0, self.loop.time()
        while True:
            await asyncio.sleep(TICK)
            now = self.loop.time()
            # After a standstill nothing is made up for: at most one sample a node.
            due = min(due + (now - last) * rate * len(self.nodes), len(self.nodes))
            last = now
            for _ in range(int(due)):
                self.published += self.nodes[position].measure()
                position = (position + 1) % len(self.nodes)
            due -= int(due)
            self._look_after(now)

    def _look_after(self, now: float) -> None:
        """Keepalives, for a slice of the nodes at a time: each about once a second."""
        slices = round(1 / TICK)
        for node in self.nodes[int(now / TICK) % slices :: slices]:
            node.look_after()

    async def _report(self, rate: float) -> None:
        await self.everybody.wait()
        self.say(f"fleet: {self.online} nodes online in {self.connected_in:.1f} s, {rate:g} events/s each")
        while True:
            before = self.published
            await asyncio.sleep(_REPORT_EVERY)
            speed = (self.published - before) / _REPORT_EVERY
            self.say(f"fleet: {self.online} of {len(self.nodes)} nodes online, {speed:.0f} events/s")


class _Node:
    """One simulated agent and its connection."""

    def __init__(
        self, fleet: _Fleet, index: int, name: str, credential: tuple[str, str], seed: int, interval: float
    ) -> None:
        rng = random.Random(seed)  # noqa: S311 - machines, not secrets
        self._fleet = fleet
        self._name = name
        self._interval = interval
        self._session = os.urandom(8).hex()
        self._model, self._what = machine(rng, index, fleet.minicloud, name)
        self._walk = Walk(rng, self._model, self._what, interval)
        self._word = self._envelope(event.CHARACTERIZED, self._what)
        self._online = False
        self._repeat_at = self._repeat_after = 0.0
        self._since = event.now()
        self._gone = asyncio.Event()
        self._welcome: asyncio.Future[None] | None = None
        self._heard = asyncio.Event()
        self._topics = {
            kind: event.topic(fleet.minicloud, name, kind)
            for kind in (event.CHARACTERIZED, event.MEASURED, event.PRESENCE)
        }
        self._client = self._make_client(credential)

    def _make_client(self, credential: tuple[str, str]) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"agent-{self._fleet.minicloud}-{self._name}-{self._session}",
        )
        client.username_pw_set(*credential)
        if self._fleet.tls:
            client.tls_set_context(self._fleet.tls)
        client.will_set(self._topics[event.PRESENCE], self._presence("offline", "connection lost"), qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        return client

    async def stay_connected(self) -> None:
        """Connect, and connect again whenever the connection breaks."""
        delay = _FIRST_DELAY
        while True:
            try:
                if not self._online:
                    await self._connect()
                delay = _FIRST_DELAY
                await self._gone.wait()
            except Unavailable:
                pass
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all return at once
            delay = min(_LONGEST_DELAY, delay * 2)

    async def hear_itself(self) -> None:
        """Connect and wait for the node's own presence to come back.

        Raises:
            Forbidden: it does not.
        """
        await self._connect()
        # The connection announced the node already; whoever subscribes late has to be told again.
        self._client.subscribe(self._topics[event.PRESENCE], qos=0)
        deadline = self._fleet.loop.time() + _TRUST_WITHIN
        while not self._heard.is_set():
            self._say(event.PRESENCE, self._presence("online", "started"), 1)
            try:
                await asyncio.wait_for(self._heard.wait(), 1.0)
            except TimeoutError:
                if self._fleet.loop.time() > deadline:
                    raise Forbidden(
                        f"the broker drops what this credential says for node {self._name}",
                        field="credential",
                        expected=f"role fleet in minicloud {self._fleet.minicloud}",
                    ) from None
        self._client.unsubscribe(self._topics[event.PRESENCE])

    def measure(self) -> int:
        """Publish one sample; how many events that were."""
        if not self._online:
            return 0
        if self._fleet.loop.time() >= self._repeat_at:
            self._introduce()
        data = {"node": self._name, "interval": self._interval, "values": self._walk.step()}
        return self._say(event.MEASURED, self._envelope(event.MEASURED, data), 0)

    def look_after(self) -> None:
        """Keepalives; notices a broker that fell silent."""
        if self._client.socket() is not None:
            # Publishing writes at once; what the socket did not take then goes out here.
            if self._client.want_write():
                self._client.loop_write()
            self._client.loop_misc()

    def leave(self) -> None:
        """Say goodbye and disconnect."""
        if self._online:
            self._say(event.PRESENCE, self._presence("offline", "stopping"), 1)
        self._online = False
        self._client.disconnect()

    def drop(self) -> None:
        """Close what is left of a connection, in the loop's thread."""
        link = self._client.socket()
        if link is not None:
            self._fleet.loop.remove_reader(link)
            link.close()

    async def _connect(self) -> None:
        fleet = self._fleet
        self._gone.clear()
        self._welcome = welcome = fleet.loop.create_future()
        async with fleet.slots:
            try:
                # TCP may take its time; paho waits for it, so a thread does.
                await asyncio.to_thread(self._client.connect, fleet.host, fleet.port, KEEPALIVE)
                await asyncio.wait_for(welcome, _TRUST_WITHIN)
            except (OSError, TimeoutError) as error:
                self.drop()
                raise Unavailable(f"no MQTT broker at {fleet.host}:{fleet.port}: {error}") from None
        self._since = event.now()
        self._repeat_after = FIRST_REPEAT
        self._introduce()
        self._online = True
        fleet.came_online()

    def _introduce(self) -> None:
        """Say that the node is there and what it is; again later, ever more rarely, as real agents do."""
        self._say(event.PRESENCE, self._presence("online", "started"), 1)
        self._say(event.CHARACTERIZED, self._word, 1)
        self._repeat_at = self._fleet.loop.time() + self._repeat_after
        self._repeat_after = min(LONGEST_REPEAT, 2 * self._repeat_after)

    def _say(self, kind: str, payload: bytes, qos: int) -> int:
        return int(
            self._client.publish(self._topics[kind], payload, qos=qos).rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        )

    def _presence(self, state: str, reason: str) -> bytes:
        data = {
            "node": self._name,
            "state": state,
            "reason": reason,
            "session": self._session,
            "since": self._since,
        }
        return self._envelope(event.PRESENCE, data)

    def _envelope(self, kind: str, data: dict[str, Any]) -> bytes:
        return event.envelope(kind, self._fleet.minicloud, self._name, data)

    # -- what paho calls -----------------------------------------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._welcome is None or self._welcome.done():
            return
        if reason.is_failure:
            self._welcome.set_exception(
                Forbidden(f"the broker refuses: {reason}", expected="a credential of role fleet")
            )
        else:
            self._welcome.set_result(None)

    def _on_disconnect(self, *_: Any) -> None:
        if self._online:
            self._online = False
            self._fleet.online -= 1
            self._fleet.lost += 1
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(OSError("the broker closed the connection"))
        self._gone.set()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if self._session.encode() in message.payload:
            self._heard.set()

    def _on_socket_open(self, _client: Any, _data: Any, link: Any) -> None:
        # paho calls this in the connecting thread; the loop must not be touched from there.
        self._fleet.loop.call_soon_threadsafe(self._watch, link)

    def _watch(self, link: socket.socket) -> None:
        if self._client.socket() is link:  # else it was closed meanwhile, and its number may be another's
            self._fleet.loop.add_reader(link.fileno(), self._client.loop_read)

    def _on_socket_close(self, _client: Any, _data: Any, link: Any) -> None:
        if _in_loop(self._fleet.loop):
            self._fleet.loop.remove_reader(link)


def _in_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs in the loop's own thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed < wanted:
        raise InvalidDocument(
            f"{wanted} open files are needed and {hard} allowed",
            field="count",
            expected="`ulimit -Hn` raised",
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
