"""A minicloud with a real rid and vim in processes of their own, and an ear on every deployment."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential, Credentials
from bus.permissions import inbox_prefix
from bus.port import Endpoint, Message
from schemas.decision import Decision, DeploymentStatus
from schemas.errors import InvalidDocument, Unavailable
from schemas.event import read_event
from tests.parts.process import PartProcess, free_port
from tests.vim.fake import FakeNodes

GIB = 1024**3


class Stack:
    """The processes of one minicloud."""

    def __init__(self, broker: Broker, mc: str, folder: Path) -> None:
        self.broker = broker
        self.mc = mc
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.credentials = Credentials(broker.data, mc)
        self.processes: list[PartProcess] = []
        self.service = self.credentials.add("service", f"tests-{mc}")

    @property
    def mqtt_port(self) -> int:
        return int(self.broker.mqtt_url.rsplit(":", 1)[1])

    def environment(self, credential: Credential, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "MINICLOUD_MINICLOUD": self.mc,
            "MINICLOUD_BROKER": self.broker.url,
            "MINICLOUD_MQTT": self.broker.mqtt_url,
            "MINICLOUD_USER": credential.user,
            "MINICLOUD_PASSWORD": credential.password,
            "MINICLOUD_LOG_FORMAT": "text",
            "MINICLOUD_STALE_AFTER": "600",
            "MINICLOUD_LOST_AFTER": "1200",
            **more,
        }

    def start(
        self, module: str, *arguments: str, credential: Credential | None = None, **more: str
    ) -> PartProcess:
        log = self.folder / f"{module}-{len(self.processes)}.log"
        environment = self.environment(credential or self.service, **more)
        if "rid" not in module:
            environment = {k: v for k, v in environment.items() if not k.endswith("_AFTER")}
        process = PartProcess([sys.executable, "-m", module, *arguments], log, environment)
        self.processes.append(process)
        return process

    def rid(self) -> PartProcess:
        return self.start("services.rid", MINICLOUD_INSTANCE="rid-1")

    def vim(self, instance: str = "vim-1", **more: str) -> PartProcess:
        self.http = f"http://127.0.0.1:{(port := free_port())}"
        settings = {"MINICLOUD_HTTP_PORT": str(port), "MINICLOUD_LOOK_EVERY": "1"}
        return self.start("services.vim", MINICLOUD_INSTANCE=instance, **{**settings, **more})

    def close(self) -> None:
        for process in self.processes:
            process.stop()
        for entry in self.credentials.list():
            if entry.minicloud == self.mc:
                self.credentials.revoke(entry.role, entry.name)

    async def connect(self, credential: Credential | None = None, name: str = "tests") -> Bus:
        who = credential or self.service
        endpoint = Endpoint(self.broker.url, who.user, who.password, inbox_prefix(who.user))
        bus = await Bus.connect(endpoint, self.mc, name)
        await bus.ensure_streams()
        return bus


class Site:
    """One test's view: its own nodes, told from others' by a label, and what it hears."""

    def __init__(self, stack: Stack, bus: Bus) -> None:
        self.stack = stack
        self.bus = bus
        self.mc = stack.mc
        self.group = f"g{secrets.token_hex(4)}"
        self.nodes = FakeNodes(bus, self.group)
        self.heard: list[DeploymentStatus | Decision] = []
        self.sizes: list[int] = []
        self.revisions = 0
        self._news = asyncio.Event()

    async def listen(self) -> None:
        await self.bus.wire.subscribe(f"{self.bus.subjects.root}.deployment.*.*", self._hear)
        await self.bus.wire.flush()

    async def _hear(self, message: Message) -> None:
        aspect = message.subject.rsplit(".", 1)[1]
        kind = {"status": DeploymentStatus, "decision": Decision}.get(aspect)
        if kind is not None:
            with suppress(InvalidDocument):
                self.heard.append(read_event(message.data, kind).data)
                self.sizes.append(len(message.data))
                self._news.set()

    def name(self, word: str = "d") -> str:
        return f"{word}-{self.group}"

    def node(self, *words: str) -> list[str]:
        return [f"{word}-{self.group}" for word in words]

    def request(self, **fields: Any) -> dict[str, Any]:
        document: dict[str, Any] = {
            "runtimes": ["process"],
            "images": {"process": {"command": ["/bin/sleep", "1000"]}},
            "where": {"label.group": self.group},
        }
        return {**document, **fields}

    async def publish(self, deployment: str, aspect: str, payload: bytes | dict[str, Any]) -> int:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        subject = f"{self.bus.subjects.root}.deployment.{deployment}.{aspect}"
        return await self.bus.jetstream.publish(subject, data, secrets.token_hex(8))

    async def deploy(self, word: str = "d", **fields: Any) -> str:
        """Publish a request; returns the deployment's id."""
        await self.publish(self.name(word), "request", self.request(**fields))
        return self.name(word)

    async def cancel(self, deployment: str, reason: str = "") -> None:
        await self.publish(deployment, "cancel", {"reason": reason})

    def statuses(self, deployment: str) -> list[DeploymentStatus]:
        return [
            one for one in self.heard if isinstance(one, DeploymentStatus) and one.deployment == deployment
        ]

    def decisions(self, deployment: str) -> list[Decision]:
        return [one for one in self.heard if isinstance(one, Decision) and one.deployment == deployment]

    def states(self, deployment: str) -> list[str]:
        return [status.state for status in self.statuses(deployment)]

    def last(self, deployment: str) -> DeploymentStatus | None:
        return (self.statuses(deployment) or [None])[-1]

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 25.0) -> Any:
        """Wait until something heard makes the condition true."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := condition()):
                    self._news.clear()
                    # Workers are heard elsewhere, so it is looked at now and then, too.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 0.05)
                return found
        except TimeoutError:
            told = "\n".join(
                f"{one.deployment} {one.sequence} gen {one.generation} {one.state} {one.reason} {one.message}"
                if isinstance(one, DeploymentStatus)
                else f"{one.deployment} DECISION gen {one.generation} {one.outcome} "
                f"{[(p.replica, p.node, p.runtime) for p in one.placements]} {one.message}"
                for one in self.heard[-20:]
            )
            logs = "\n".join(process.text()[-1500:] for process in self.stack.processes[-2:])
            raise AssertionError(f"not within {seconds} s: {what}; heard:\n{told}\n{logs}") from None

    async def until_state(
        self,
        deployment: str,
        state: str,
        *,
        generation: int | None = None,
        reason: str | None = None,
        seconds: float = 25.0,
    ) -> DeploymentStatus:
        """The last status once it is so."""

        def so() -> DeploymentStatus | None:
            last = self.last(deployment)
            if last is None or last.state != state:
                return None
            if generation not in (None, last.generation) or reason not in (None, last.reason):
                return None
            return last

        wanted = f"{deployment} {state} {reason or ''} {generation or ''}"
        found: DeploymentStatus = await self.until(so, wanted, seconds)
        return found

    async def in_order(self, deployment: str, *expected: str) -> None:
        """Wait until the states were said in this order, others between them."""

        def so() -> bool:
            left = iter(self.states(deployment))
            return all(state in left for state in expected)

        await self.until(so, f"{deployment}: {expected}")

    def check_sequence(self, deployment: str) -> None:
        """Statuses are numbered without a gap or a repeat, and none says what the one before said."""
        statuses = self.statuses(deployment)
        numbers = [status.sequence for status in statuses]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
        self.check_facts(deployment)

    def check_facts(self, deployment: str) -> None:
        """No status says what the one before said."""
        statuses = self.statuses(deployment)
        facts = [
            status.model_dump_json(exclude={"sequence", "previous", "observed_at"}) for status in statuses
        ]
        assert all(one != other for one, other in itertools.pairwise(facts)), facts

    async def looks(self, count: int) -> None:
        """Return after vim has begun to look at everything so many times more, by its own metric."""

        async def looked() -> float:
            async with httpx.AsyncClient() as http:
                page = (await http.get(f"{self.stack.http}/metrics")).text
            return float(re.search(r"^vim_looks_total (\S+)", page, re.MULTILINE)[1])  # type: ignore[index]

        end = await looked() + count
        async with asyncio.timeout(60):
            while await looked() < end:
                await asyncio.sleep(0.05)

    async def found(self, count: int, **ask: Any) -> None:
        """Wait until the index has so many nodes of ours."""
        async with asyncio.timeout(30):
            while True:
                with suppress(Unavailable):
                    answer = await self.bus.request(
                        "rid", "query", {"where": {"label.group": self.group, "worker": True}, "limit": 1}
                    )
                    if answer["total"] == count:
                        return
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.nodes.close()
        await self.bus.close()
