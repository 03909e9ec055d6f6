"""A space: network, mount, process, IPC and host name namespaces of their own, with our pid 1 inside.

``command()`` is what starts one; a :class:`Space` speaks to the pid 1 of a running one by the control socket in
its folder (``init.py``), from any process of the machine. Killing pid 1 ends all that is inside.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.parts.part import PartMissing
from tests.parts.process import free_port

_MESSAGE_BYTES: Final = 1 << 17


class SpaceError(Exception):
    """Something in a space did not do what it should; the message ends with what it wrote last."""


def command(folder: Path) -> list[str]:
    """What to run for a space with its files in ``folder``; it dies with the process that runs it."""
    namespaces = ["--net", "--mount", "--pid", "--ipc", "--uts", "--mount-proc", "--propagation", "private"]
    if os.geteuid() != 0:
        namespaces += ["--user", "--map-root-user"]
    return [
        _program("setpriv"), "--pdeathsig", "KILL",
        _program("unshare"), *namespaces, "--fork", "--kill-child", "--",
        sys.executable, "-m", "tests.cluster.init", str(folder),
    ]  # fmt: skip


class Space:
    """A running space.

    Args:
        folder: where its control socket lies; the logs of its programs are in ``log`` there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "log").mkdir(parents=True, exist_ok=True)

    def started(self) -> bool:
        """Whether its pid 1 listens."""
        return (self.folder / "control.sock").exists()

    def log(self, name: str) -> Path:
        """What a program writes."""
        return self.folder / "log" / f"{name}.log"

    def start(self, name: str, command: Sequence[str | Path]) -> int:
        """Start a program under a name that none runs under; its pid inside."""
        words = [_program(str(command[0])), *map(str, command[1:])]
        started: int = self._ask(do="start", name=name, command=words, log=str(self.log(name)))["pid"]
        return started

    def start_again(self, name: str) -> int:
        """Start a program that was killed or ended, as it was started before."""
        started: int = self._ask(do="start", name=name, command=None, log=str(self.log(name)))["pid"]
        return started

    def run(self, *command: str | Path, timeout: float = 60) -> str:
        """Run a command to its end; what it wrote.

        Raises:
            SpaceError: it failed.
        """
        name = f"run-{Path(command[0]).name}-{os.getpid()}-{time.monotonic_ns()}"
        log = self.log(name)
        self.start(name, command)
        status = self.wait(name, timeout)
        self._ask(do="forget", name=name)
        said = log.read_text(errors="replace")
        log.unlink()
        if status != 0:
            raise SpaceError(f"`{' '.join(map(str, command))}` ended with {status}: {said[-2000:]}")
        return said

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal a program that runs."""
        self._ask(do="signal", name=name, signal=int(number))

    def wait(self, name: str, timeout: float = 30) -> int:
        """Wait until a program ended; its exit status, negative for the signal that ended it."""
        status: int = self._ask(do="wait", name=name, timeout=timeout)["status"]
        return status

    def kill(self, name: str) -> None:
        """SIGKILL to a program; it is dead when this returns."""
        self.signal(name, signal.SIGKILL)
        self.wait(name)

    def running(self) -> dict[str, int]:
        """The programs that run, with their pids inside."""
        pids: dict[str, int] = self._ask(do="programs")["running"]
        return pids

    def let_in(self, address: str, port: int, at: int = 0) -> int:
        """A port on the machine's loopback (``at``, else a free one) that leads to an address inside."""
        # A port that was asked for by number stays ours while the door is shut (init.py), a chosen one does not.
        outside = at or free_port()
        with socket.create_server(("127.0.0.1", outside), backlog=1024) as listener:
            self._ask(do="forward", address=address, port=port, descriptor=listener.fileno())
        return outside

    def listen(self, address: str, port: int = 0) -> socket.socket:
        """A socket that listens inside, for a server that runs outside."""
        answer, descriptors = self._exchange({"do": "listen", "address": address, "port": port}, None, 30)
        if "error" in answer:
            raise SpaceError(answer["error"])
        return socket.socket(fileno=descriptors[0])

    def wait_until(
        self, ready: Callable[[], bool], what: str, timeout: float, programs: Sequence[str]
    ) -> None:
        """Wait for a condition.

        Raises:
            SpaceError: a program that it needs ended first, or it took too long.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            running = self.running()
            gone = [name for name in programs if name not in running]
            if gone or time.monotonic() > deadline:
                why = f"{gone[0]} ended" if gone else f"{timeout:g} s were not enough"
                logs = "".join(f"\n--- {name}\n{_ending(self.log(name))}" for name in gone or programs)
                raise SpaceError(f"{what}: {why}{logs}")
            time.sleep(0.02)

    def _ask(self, *, descriptor: int | None = None, timeout: float = 30, **request: Any) -> dict[str, Any]:
        answer, _ = self._exchange(request, descriptor, timeout)
        if "error" in answer:
            raise SpaceError(f"{request['do']} {request.get('name', '')}: {answer['error']}")
        return answer

    def _exchange(
        self, request: dict[str, Any], descriptor: int | None, timeout: float
    ) -> tuple[dict[str, Any], list[int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(timeout)
            try:
                control.connect(str(self.folder / "control.sock"))
                socket.send_fds(
                    control, [json.dumps(request).encode()], [] if descriptor is None else [descriptor]
                )
                message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1)
            except TimeoutError:
                raise SpaceError(f"{request} had no answer in {timeout:g} s") from None
            except OSError as error:
                raise SpaceError(f"the space in {self.folder} is down: {error}") from error
        if not message:
            raise SpaceError(f"the space in {self.folder} went down")
        answer: dict[str, Any] = json.loads(message)
        return answer, list(descriptors)


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise PartMissing(f"no `{name}` on this machine")
    return found


def _ending(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:] if log.exists() else "(it wrote nothing)"
