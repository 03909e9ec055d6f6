"""A part that runs: started with its output in a file, ready when it says so, stopped without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class PartProcess:
    """A running program with a session of its own; a context manager that ends it and its children.

    Args:
        command: what to run.
        output: file for its standard output and error.
        env: environment; None is ours.
    """

    def __init__(
        self, command: Sequence[str | Path], output: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.command = [str(word) for word in command]
        self.output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait for a condition; AssertionError with the output if it ends first or takes too long."""
        deadline = time.monotonic() + timeout
        while not ready():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                how = f"ended with {ended}" if ended is not None else f"was not ready in {timeout:g} s"
                raise AssertionError(f"{self.command} {how}:\n{self.text()[-2000:]}")
            time.sleep(0.01)

    def wait_for_port(self, port: int, timeout: float = 30.0) -> None:
        """Wait until something on loopback accepts connections on ``port``."""
        self.wait_until(lambda: accepts(port), timeout)

    def stop(self, timeout: float = 10.0) -> int:
        """End it (SIGTERM, then SIGKILL) with everything it started; its exit status."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL to it and to what it started."""
        try:
            # Its session is its own, so its process group holds nobody else.
            signal_group(self.process.pid, signal.SIGKILL)
        finally:
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def accepts(port: int) -> bool:
    """Whether something on loopback accepts connections on ``port``."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
