"""The embedded stack: one broker and one process a service on this machine, started and watched.

What dies is started again with a pause that grows while it keeps dying. Everything ends with us on
SIGTERM or Ctrl-C, in order. If we are killed, the services end by the kernel's hand, while the broker and the
workloads run on: the next stack over the same folder takes them over.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from bus.broker import Broker
from bus.broker_config import BrokerSettings, Join, Tls
from bus.bus import Bus
from bus.credentials import Credentials
from bus.permissions import user_name
from bus.port import Endpoint
from minicloud.site import Site, with_host
from schemas.errors import InvalidDocument, Unavailable

_PR_SET_PDEATHSIG: Final = 1
_SETTLED: Final = 15.0  # seconds of life after which an end is not one more of a row
#: Seconds between looks at whether a process still lives.
_LOOK_AGAIN: Final = 0.1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def node_name(text: str | None = None) -> str:
    """A token for this machine: its host name, with what may not be in a token replaced."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text or socket.gethostname().split(".")[0])[:64] or "node"


@dataclass
class StackSettings:
    """What the embedded stack is made of.

    Attributes:
        data: folder for everything that must survive a restart; secrets in it have mode 0600.
        minicloud: its token.
        node: this machine's name in it.
        fleet: how many simulated nodes run beside.
        host: where the broker listens.
        nats_port: 0 picks a free one and keeps it.
        mqtt_port: likewise.
        rid_port: HTTP port of rid; 0 picks a free one.
        vim_port: HTTP port of vim; likewise.
        monitor_port: HTTP port of the monitor, likewise; None runs none.
        tls: certificates; with them everything connects encrypted. Its ``ca`` is whom all of them trust,
            None is whom the system trusts.
        address: the name or address that other machines reach this one by, and that its certificate is
            for; None where none can.
        agent_options: passed on to the agent: labels, region, interval.
        allow_root: whether workloads whose request says so may run as root.
        clusters: Kubernetes clusters that take workloads, too: each one's kubeconfig by its name.
        leaf_port: where other miniclouds may join; 0 picks a free one and keeps it, None lets nobody in.
        join: miniclouds to join, ``nats-leaf://host:port``.
        leaf_password_file: our secret there, one a line in the order of ``join``.
        leaf_ca: PEM file that the certificates of joined brokers are checked against.
    """

    data: Path
    minicloud: str = "home"
    node: str = field(default_factory=node_name)
    fleet: int = 0
    host: str = "127.0.0.1"
    nats_port: int = 0
    mqtt_port: int = 0
    rid_port: int = 0
    vim_port: int = 0
    monitor_port: int | None = None
    tls: Tls | None = None
    address: str | None = None
    agent_options: list[str] = field(default_factory=list)
    allow_root: bool = False
    clusters: dict[str, Path] = field(default_factory=dict)
    leaf_port: int | None = None
    join: list[str] = field(default_factory=list)
    leaf_password_file: Path | None = None
    leaf_ca: Path | None = None

    @property
    def linked(self) -> bool:
        """Whether there are links to other miniclouds."""
        return self.leaf_port is not None or bool(self.join)

    def joins(self) -> tuple[Join, ...]:
        """The miniclouds to join, with our secrets there.

        Raises:
            InvalidDocument: there is no secret for one of them.
        """
        secrets: list[str] = []
        if self.leaf_password_file is not None:
            try:
                secrets = self.leaf_password_file.read_text().split()
            except OSError as error:
                raise InvalidDocument(str(error), field="leaf-password-file") from None
        if len(secrets) < len(self.join):
            raise InvalidDocument(
                f"{len(self.join)} miniclouds to join and {len(secrets)} secrets",
                field="leaf-password-file",
                expected=f"the secret that `minicloud credentials add minicloud {self.minicloud}` shows there",
            )
        user = user_name("minicloud", self.minicloud)
        return tuple(
            Join(url, user, secret, self.leaf_ca) for url, secret in zip(self.join, secrets, strict=False)
        )


@dataclass
class Service:
    """One process of the stack.

    Attributes:
        orphaned: what the kernel sends it when we are killed.
    """

    name: str
    arguments: list[str]
    environment: dict[str, str]
    orphaned: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restarts: int = 0


class Stack:
    """The embedded stack of one machine.

    Args:
        settings: what it is made of.
        on_event: told in a line what happens: started, ended, started again.
    """

    def __init__(self, settings: StackSettings, on_event: Callable[[str], None] = lambda _: None) -> None:
        self.settings = settings
        self.data = settings.data.absolute()
        self._say = on_event
        self._credentials = Credentials(self.data, settings.minicloud)
        self.broker = Broker(
            self.data,
            BrokerSettings(
                host=settings.host,
                port=settings.nats_port,
                mqtt_port=settings.mqtt_port,
                tls=settings.tls,
                # Brokers that are linked must have different names.
                name=settings.minicloud if settings.linked else "minicloud",
                leaf_port=settings.leaf_port,
                join=settings.joins(),
            ),
        )
        self._ca = str(settings.tls.ca.absolute()) if settings.tls and settings.tls.ca else None
        self._processes = Processes(self.data, on_event)
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        self.site: Site | None = None

    async def start(self) -> Site:
        """Start the broker, then every service; returns how a user reaches it.

        Raises:
            Unavailable: the broker cannot be started here.
            Conflict: another stack runs from this data folder.
        """
        (self.data / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        user = self._credentials.ensure("user", "local")
        for role, name in self._principals():
            self._credentials.ensure(role, name)
        await asyncio.to_thread(self.broker.start)
        self._say(f"broker: NATS {self.url}, MQTT {self.mqtt_url}")
        if self.settings.leaf_port is not None:
            self._say(f"other miniclouds may join at {self.broker.leaf_url}")
        await self._ensure_streams()
        self._declare()
        self._processes.start()
        self._watchers.append(asyncio.create_task(self._watch_broker()))
        self.site = Site(
            self.settings.minicloud,
            self.url,
            self.mqtt_url,
            user.user,
            user.password,
            ca=self._ca,
            address=self.settings.address,
            node=self.settings.node,
            http=self._http(),
        )
        self.site.save(self.data)
        return self.site

    async def stop(self) -> None:
        """End everything in order: the fleet and the agent, then the services, then the broker."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        clusters = [_cluster_process(name) for name in self.settings.clusters]
        await self._processes.stop(["fleet", *clusters, "worker", "agent", "monitor", "vim", "rid"])
        await asyncio.to_thread(self.broker.stop)
        if self.site is not None:  # else the file may be another's, whose folder this is
            (self.data / "stack.json").unlink(missing_ok=True)

    def processes(self) -> dict[str, int]:
        """The process ids of what runs, by name; ``up`` is ourselves."""
        running = {name: service.process.pid for name, service in self.services.items() if service.process}
        return {"up": os.getpid(), "broker": self.broker.pid, **running}

    async def _ensure_streams(self) -> None:
        """Make the streams before anybody speaks: MQTT acknowledges even what no stream takes in."""
        service = self._credentials.ensure("service", "vim")
        endpoint = Endpoint(self.url, service.user, service.password, service.inbox_prefix, "stack", self._ca)
        async with await Bus.connect(endpoint, self.settings.minicloud, "stack") as bus:
            await bus.ensure_streams()

    def _principals(self) -> list[tuple[str, str]]:
        node = self.settings.node
        principals = [("service", "rid"), ("service", "vim"), ("worker", node), ("agent", node)]
        principals += [("service", "monitor")] if self.settings.monitor_port is not None else []
        principals += [("cluster", name) for name in self.settings.clusters]
        principals += [("fleet", "local")] if self.settings.fleet else []
        return principals + ([("minicloud", self.settings.minicloud)] if self.settings.linked else [])

    def _declare(self) -> None:
        s = self.settings
        s.rid_port = s.rid_port or _free_port(self.data / "rid.port")
        s.vim_port = s.vim_port or _free_port(self.data / "vim.port")
        python = [sys.executable, "-m"]
        link = self.data / "secrets" / user_name("minicloud", s.minicloud)
        links = {"MINICLOUD_LINK_PASSWORD_FILE": str(link)} if s.linked else {}
        rid = [*python, "services.rid"]
        self._add("rid", rid, "service", "rid", MINICLOUD_HTTP_PORT=str(s.rid_port), **links)
        vim = [*python, "services.vim"]
        self._add("vim", vim, "service", "vim", MINICLOUD_HTTP_PORT=str(s.vim_port))
        if s.monitor_port is not None:
            s.monitor_port = s.monitor_port or _free_port(self.data / "monitor.port")
            self._add(
                "monitor",
                [*python, "services.monitor"],
                "service",
                "monitor",
                MINICLOUD_HTTP_PORT=str(s.monitor_port),
                MINICLOUD_API_PASSWORD_FILE=str(_secret(self.api_secret)),
            )
        worker = [*python, "services.vim.worker", "--node", s.node, "--data", str(self.data / "worker")]
        worker += ["--stop-workloads", *(["--allow-root"] if s.allow_root else [])]
        self._add("worker", worker, "worker", s.node)
        # Asked to end it would stop its workloads. Killed it leaves them to the next one: nobody asked for their end.
        self.services["worker"].orphaned = signal.SIGKILL
        agent = [*python, "services.charagent", "--minicloud", s.minicloud, "--node", s.node]
        agent += ["--broker", self.mqtt_url, "--user", f"agent.{s.node}"]
        agent += ["--password-file", str(self.data / "secrets" / f"agent.{s.node}")]
        agent += ["--data", str(self.data / "agent"), *s.agent_options]
        self._add("agent", agent, "agent", s.node)
        for name, kubeconfig in s.clusters.items():
            cluster = [*python, "services.vim.cluster", "--cluster", name, "--kubeconfig", str(kubeconfig)]
            cluster += ["--allow-root"] if s.allow_root else []
            self._add(_cluster_process(name), cluster, "cluster", name)
        if s.fleet:
            fleet = [*python, "minicloud", "fleet", str(s.fleet)]
            self._add("fleet", fleet, "fleet", "local")

    @property
    def api_secret(self) -> Path:
        """The file with the password of the monitor's API."""
        return self.data / "secrets" / "monitor-api"

    def _http(self) -> dict[str, str]:
        """Where the services' HTTP is, by their names."""
        s = self.settings
        ports = {"rid": s.rid_port, "vim": s.vim_port, "monitor": s.monitor_port}
        return {name: f"http://127.0.0.1:{port}" for name, port in ports.items() if port is not None}

    def _add(self, name: str, arguments: list[str], role: str, principal: str, **more: str) -> None:
        user = f"{role}.{principal}"
        environment = {
            **os.environ,
            "MINICLOUD_MINICLOUD": self.settings.minicloud,
            "MINICLOUD_BROKER": self.url,
            "MINICLOUD_MQTT": self.mqtt_url,
            **({"MINICLOUD_CA": self._ca} if self._ca else {}),
            "MINICLOUD_USER": user,
            "MINICLOUD_PASSWORD_FILE": str(self.data / "secrets" / user),
            "MINICLOUD_INSTANCE": f"{name}@{self.settings.node}",
            "MALLOC_ARENA_MAX": "2",  # threads of ours allocate little; arenas of their own only cost memory
            **more,
        }
        self._processes.services[name] = Service(name, arguments, environment)

    async def _watch_broker(self) -> None:
        failures = 0
        while not self._stopping:
            await asyncio.sleep(0.2)
            if self.broker.poll() is None:
                continue
            self._say("the broker ended; started again")
            try:
                await asyncio.to_thread(self.broker.start)
                failures = 0
            except Unavailable as error:
                failures += 1
                self._say(f"the broker does not start: {error}")
                await asyncio.sleep(min(10.0, 0.5 * 2**failures))

    @property
    def services(self) -> dict[str, Service]:
        """The processes by name."""
        return self._processes.services

    @property
    def url(self) -> str:
        """Where NATS is: with certificates, under the name that they are for."""
        return self._as_certified(self.broker.url)

    @property
    def mqtt_url(self) -> str:
        """Where MQTT is, likewise."""
        return self._as_certified(self.broker.mqtt_url)

    def _as_certified(self, url: str) -> str:
        s = self.settings
        return with_host(url, s.address) if s.tls and s.address else url


class Processes:
    """Processes of ours that are watched: what ends is started again, until all are stopped.

    Args:
        data: the data folder; each process has a log in its ``logs``.
        on_event: told in a line what happens.
    """

    def __init__(self, data: Path, on_event: Callable[[str], None]) -> None:
        self.data = data
        self.services: dict[str, Service] = {}
        self._say = on_event
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Start each of ``services`` and watch over it."""
        for service in self.services.values():
            self._launch(service)
            self._watchers.append(asyncio.create_task(self._watch(service)))

    async def stop(self, order: Iterable[str]) -> None:
        """End them one after the other."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        for name in order:
            service = self.services.get(name)
            if service and service.process:
                await asyncio.to_thread(_end, service.process)

    def _launch(self, service: Service) -> None:
        log = self.data / "logs" / f"{service.name}.log"
        with log.open("ab") as output:
            service.process = subprocess.Popen(
                service.arguments,
                env=service.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(_die_with_parent, service.orphaned),  # noqa: PLW1509 - one system call
                start_new_session=True,  # Ctrl-C is for us; we end the others in order
            )
        service.started = time.monotonic()

    async def _watch(self, service: Service) -> None:
        while not self._stopping:
            process = service.process
            if process is None:
                return
            # Polled, not waited for in a thread each: threads are few, and ending needs some.
            while (code := process.poll()) is None:
                await asyncio.sleep(_LOOK_AGAIN)
            if self._stopping:
                return
            lived = time.monotonic() - service.started
            service.failures = 0 if lived > _SETTLED else service.failures + 1
            pause = min(10.0, 0.1 * 2 ** min(service.failures, 7))
            self._say(f"{service.name} ended ({_ending(code)}); started again in {pause:.1f} s")
            await asyncio.sleep(pause)
            service.restarts += 1
            self._launch(service)


def _cluster_process(name: str) -> str:
    """What the process of a cluster's worker is called; its log, too."""
    return f"cluster-{name}"


def _die_with_parent(number: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def _end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _free_port(memory: Path) -> int:
    """A port that was free when first asked; kept, so that addresses survive restarts."""
    with suppress(OSError, ValueError):
        return int(memory.read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    memory.write_text(str(port))
    return port


def _secret(path: Path) -> Path:
    """A file with a secret; made when first asked for."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n")
    return path
