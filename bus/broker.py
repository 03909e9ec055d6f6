"""The embedded broker: one ``nats-server`` process with NATS, JetStream and MQTT 3.1.1.

In: a data folder and settings. Out: a broker that is ready when ``start`` returns, asks everybody for a
credential, keeps its ports and messages over a restart, and tells what it refused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import psutil

from bus.broker_config import (
    ACCOUNT,
    CONFIG_FILE,
    LOG_FILE,
    PID_FILE,
    STORE_FOLDER,
    BrokerSettings,
    Join,
    Ports,
    Tls,
    broker_folder,
    nats_server,
    render,
)
from bus.broker_log import LogCursor, LogFollower, Violation, parse_violation
from bus.broker_process import reload_running, running_pid
from bus.credentials import Credentials
from schemas.errors import Conflict, Unavailable

__all__ = ["Broker", "BrokerSettings", "Join", "Tls", "Violation"]

_LISTENING: Final = {
    "nats": re.compile(r"Listening for client connections on \S+:(\d+)"),
    "mqtt": re.compile(r"Listening for MQTT clients on \S+:(\d+)"),
    "monitor": re.compile(r"Starting http monitor on \S+:(\d+)"),
    "leaf": re.compile(r"Listening for leafnode connections on \S+:(\d+)"),
}
_READY: Final = "Server is ready"
_IN_USE: Final = "address already in use"
_REMEMBERED_USERS: Final = 4096

log = logging.getLogger(__name__)


class Broker:
    """An embedded broker in a data folder; a context manager that starts and stops it.

    Args:
        data: the data folder, shared with :class:`bus.credentials.Credentials`; the broker's own files
            lie in ``<data>/broker``.
        settings: how it runs.
        on_violation: called, from a thread of the broker, with each thing that it refused.

    Attributes:
        violations: how often each kind of thing was refused since this object was made.
    """

    def __init__(
        self,
        data: Path,
        settings: BrokerSettings | None = None,
        on_violation: Callable[[Violation], None] | None = None,
    ) -> None:
        self.settings = settings or BrokerSettings()
        self.data = data.absolute()
        self.violations: Counter[str] = Counter()
        self._folder = broker_folder(data)
        self._on_violation = on_violation
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._follower: LogFollower | None = None
        self._ports = Ports()
        self._users: dict[int, str] = {}

    def start(self, timeout: float = 20.0) -> None:
        """Start the broker and return when it answers on every port.

        A broker left over by a killed parent is stopped first.

        Args:
            timeout: seconds until it must be ready; reading back a big store takes a while.

        Raises:
            Conflict: another process runs a broker from this folder, or a fixed port is taken.
            Unavailable: it ended or was not ready in time; the message has the end of its log.
        """
        if self.running:
            return
        deadline = time.monotonic() + timeout
        self._own_folder()
        try:
            self._stop_orphan(timeout)
            Credentials(self.data).write_users()
            asked = self.settings.ports
            remembered = self._remembered(asked)
            try:
                self._launch(remembered, deadline)
            except Conflict:
                if remembered == asked:
                    raise
                # A free port that we had chosen is somebody else's by now.
                log.warning("a port of %s is taken by another program: choosing a new one", remembered)
                self._launch(asked, deadline)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the broker; it writes what it holds. Killed if it takes longer than ``timeout`` seconds."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                log.warning("the broker did not stop in %g s: killing it", timeout)
        self.kill()

    def kill(self) -> None:
        """End the broker without a word, as a crash would; ``start`` may follow."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            (self._folder / PID_FILE).unlink(missing_ok=True)
        if self._follower is not None:
            self._follower.stop()
            self._follower = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def reload(self, timeout: float = 120.0) -> None:
        """Let the broker read its credentials and certificates anew, and wait until it has.

        :class:`bus.credentials.Credentials` does this by itself after each change.
        """
        Credentials(self.data).write_users()
        reload_running(self._folder, timeout)

    def poll(self) -> int | None:
        """None while it runs, else its exit status (negative: the signal that ended it)."""
        return -signal.SIGKILL if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process that this object started is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        return self._alive().pid

    @property
    def url(self) -> str:
        """Where NATS clients connect: ``nats://host:port``, or ``tls://`` with certificates."""
        return self._url("tls" if self.settings.tls else "nats", self._ports.nats)

    @property
    def mqtt_url(self) -> str:
        """Where MQTT clients connect: ``mqtt://host:port``, or ``mqtts://`` with certificates."""
        return self._url("mqtts" if self.settings.tls else "mqtt", self._ports.mqtt)

    @property
    def leaf_url(self) -> str:
        """Where the brokers of other miniclouds join; for this very machine when ``host`` is all addresses."""
        return self._url("tls" if self.settings.tls else "nats-leaf", self._ports.leaf)

    @property
    def monitor_url(self) -> str:
        """The HTTP monitoring, on loopback."""
        return f"http://127.0.0.1:{self._ports.monitor}"

    @property
    def ports(self) -> Ports:
        """The ports it listens on; zeros before the first start."""
        return self._ports

    def monitor(self, path: str, timeout: float = 5.0) -> dict[str, Any]:
        """A page of the monitoring as JSON: ``varz``, ``jsz?streams=true``, ``connz?auth=true``, ``healthz``.

        Raises:
            Unavailable: the broker does not answer, or is not well.
        """
        try:
            with urllib.request.urlopen(f"{self.monitor_url}/{path}", timeout=timeout) as page:  # noqa: S310 - http
                document: dict[str, Any] = json.load(page)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise Unavailable(f"the broker's monitoring does not answer: {error}", field=path) from error
        return document

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _url(self, scheme: str, port: int) -> str:
        # "All addresses" is something to listen on, not to connect to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise Unavailable("the broker is not running", field=str(self._folder), expected="start() first")
        return self._process

    def _own_folder(self) -> None:
        """One parent a folder; the lock goes with the process that holds it, however it ends."""
        self.kill()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (self._folder / "broker.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise Conflict(
                f"another process runs a broker here (pid {running_pid(self._folder)})",
                field=str(self._folder),
                expected="to stop that one, or another data folder",
            ) from error
        self._lock = lock

    def _stop_orphan(self, timeout: float) -> None:
        pid = running_pid(self._folder)
        if pid is None:
            return
        log.warning("stopping the broker (pid %d) that a killed parent left behind", pid)
        try:
            orphan = psutil.Process(pid)
            orphan.terminate()
            orphan.wait(timeout)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            orphan.kill()
            orphan.wait(timeout)

    def _remembered(self, asked: Ports) -> Ports:
        try:
            kept = Ports(**json.loads((self._folder / "ports.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return asked
        return Ports(
            asked.nats or kept.nats,
            asked.mqtt or kept.mqtt,
            asked.monitor or kept.monitor,
            asked.leaf or kept.leaf,
        )

    def _configure(self, ports: Ports) -> None:
        config = self._folder / CONFIG_FILE
        config.touch(mode=0o600)
        config.write_text(render(self._folder, self.settings, ports))

    def _adopt_store(self) -> None:
        """What was kept before there were accounts is the minicloud's."""
        store = self._folder / STORE_FOLDER / "jetstream"
        before, now = store / "$G", store / ACCOUNT
        if before.is_dir() and not now.exists():
            before.rename(now)

    def _launch(self, ports: Ports, deadline: float) -> None:
        self._configure(ports)
        self._adopt_store()
        cursor = LogCursor(self._folder / LOG_FILE)
        # A session of its own: Ctrl-C in a terminal is for the parent, which stops us in order.
        with (self._folder / "broker.out").open("wb") as out:
            self._process = subprocess.Popen(
                [nats_server(), "-c", self._folder / CONFIG_FILE],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ports = self._await_ready(cursor, deadline)
        # For the next start; this one's configuration must stay as it is, or a reload would be refused.
        (self._folder / "ports.json").write_text(json.dumps(asdict(self._ports)))
        self._follower = LogFollower(cursor, self._on_line)
        self._follower.start()

    def _await_ready(self, cursor: LogCursor, deadline: float) -> Ports:
        process = self._alive()
        said: list[str] = []
        ports = Ports()
        while True:
            ended = process.poll() is not None
            for line in cursor.lines():
                said.append(line)
                for kind, pattern in _LISTENING.items():
                    if found := pattern.search(line):
                        ports = replace(ports, **{kind: int(found[1])})
                if _READY in line:
                    self._check_answers(ports, deadline)
                    return ports
            if ended or time.monotonic() > deadline:
                raise self._failure(process, said)
            time.sleep(0.002)

    def _check_answers(self, ports: Ports, deadline: float) -> None:
        """A real connection to each port: the greeting on NATS, an accepted one on MQTT, healthy on HTTP."""
        host = self._url("x", 0).removeprefix("x://").removesuffix(":0").strip("[]")
        left = max(0.1, deadline - time.monotonic())
        try:
            with socket.create_connection((host, ports.nats), timeout=left) as nats:
                greeting = nats.recv(5)
            with socket.create_connection((host, ports.mqtt), timeout=left):
                pass
        except OSError as error:
            raise Unavailable(f"the broker is ready but does not answer: {error}", field=host) from error
        if not greeting.startswith(b"INFO"):
            raise Unavailable(f"not a NATS greeting: {greeting!r}", field=f"{host}:{ports.nats}")

    def _failure(self, process: subprocess.Popen[bytes], said: list[str]) -> Unavailable | Conflict:
        status = process.poll()
        process.kill()
        process.wait()
        self._process = None
        tail = said[-5:] or (self._folder / "broker.out").read_text(errors="replace").splitlines()[-5:]
        ending = "\n  ".join(tail)
        if any(_IN_USE in line for line in tail):
            return Conflict(
                f"a port is taken by another program:\n  {ending}",
                field="port, mqtt_port or monitor_port",
                expected="a free port, or 0 to have one chosen",
            )
        how = "was not ready in time" if status is None else f"ended with status {status}"
        return Unavailable(f"the broker {how}:\n  {ending}", field=str(self._folder / LOG_FILE))

    def _on_line(self, line: str) -> None:
        violation = parse_violation(line)
        if violation is None:
            return
        if violation.user is None:
            violation = replace(violation, user=self._user_of(violation.connection))
        self.violations[violation.kind] += 1
        log.warning(
            "refused: %s by %s on %s (client %s at %s)",
            violation.kind,
            violation.user or "an unknown user",
            violation.subject,
            violation.client,
            violation.address,
        )
        if self._on_violation is not None:
            self._on_violation(violation)

    def _user_of(self, connection: int) -> str | None:
        """Who a connection belongs to, open or closed: the log names an MQTT client by its id only."""
        if connection not in self._users:
            try:
                found = self.monitor(f"connz?cid={connection}&auth=true&state=any", timeout=1.0)[
                    "connections"
                ]
            except (Unavailable, KeyError):
                return None
            if len(self._users) >= _REMEMBERED_USERS:
                self._users.clear()
            self._users[connection] = found[0].get("authorized_user", "") if found else ""
        return self._users[connection] or None
