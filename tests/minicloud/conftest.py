"""The real command, as a user's shell runs it, against a real stack that it started itself."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import structlog
import yaml
from click.testing import CliRunner

from minicloud.cli import main
from tests.parts.nats_server import NatsServer

NODE = "here"
_PATIENCE = 40.0


@dataclass
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def yaml(self) -> Any:
        return yaml.safe_load(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a table, its heading first."""
        return [line.split() for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    """Ours without anything that a command would listen to."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MINICLOUD_", "NO_COLOR"))
    }
    return {**kept, "COLUMNS": "120", **more}


def minicloud(*arguments: str, stdin: str = "", cwd: Path | None = None, **more: str) -> Said:
    """Run the command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "minicloud", *arguments],
        input=stdin,
        env=environment(**more),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def typed(*arguments: str, stdin: str = "", **more: str) -> Said:
    """The same in this process, which takes a tenth of the time."""
    configured, level = structlog.get_config(), logging.getLogger("asyncio").level
    try:
        result = CliRunner().invoke(main, list(arguments), input=stdin, env=more, prog_name="minicloud")
    finally:
        structlog.configure(**configured)
        logging.getLogger("asyncio").setLevel(level)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


class Running:
    """A command that goes on until it is stopped; its output goes to files that anybody may read."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "minicloud", *arguments],
                env=environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, true: Callable[[], Any], seconds: float = _PATIENCE) -> Any:
        """Wait until something is so, as long as the command runs."""
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.out}{self.err}"
            assert time.monotonic() < deadline, f"not so in time: {self.out}{self.err}"
            time.sleep(0.02)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it, if it runs still; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Stack(Running):
    """``minicloud up``, ready when this returns."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        options = ["up", "--data", str(data), "--node", NODE, "-o", "json", *arguments]
        super().__init__(data.with_name(f"{data.name}-up"), *options)
        try:
            self.until(lambda: self.out.rstrip().endswith("}"))
            self.site: dict[str, Any] = json.loads(self.out)
        except BaseException:
            self.end()
            raise

    def __call__(self, *arguments: str, stdin: str = "", **more: str) -> Said:
        """Run a command there."""
        return minicloud(*arguments, stdin=stdin, MINICLOUD_DATA=str(self.data), **more)

    def ask(self, *arguments: str, stdin: str = "") -> Said:
        """The same in this process."""
        return typed(*arguments, stdin=stdin, MINICLOUD_DATA=str(self.data))

    def wait_for_nodes(self, *names: str) -> None:
        """Until workloads can be placed on these nodes."""
        wanted = ",".join(names)
        self.until(
            lambda: (
                len(self.ask("query", f"name in ({wanted}),worker", "-o", "json").json["nodes"]) == len(names)
            )
        )

    def logs(self) -> str:
        """What its services wrote."""
        return "\n".join(log.read_text() for log in sorted((self.data / "logs").glob("*.log")))


@pytest.fixture(scope="session")
def stack(
    part: Callable[[NatsServer], NatsServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One stack for all of these tests, with a small fleet beside; each test uses names of its own."""
    part(NatsServer())
    running = Stack(tmp_path_factory.mktemp("cli") / "data", "--fleet", "3")
    try:
        running.wait_for_nodes(NODE)
        running.until(lambda: len(running.ask("nodes", "-o", "json").json) == 4)
        yield running
    finally:
        assert running.end() == 0


def job(name: str, script: str, **more: Any) -> str:
    """A request that runs a shell script to its end."""
    document = {
        "name": name,
        "runtimes": ["process"],
        "images": {"process": {"command": ["/bin/sh", "-c", script]}},
        "restart": "never",
        **more,
    }
    return json.dumps(document)


def server(name: str, **more: Any) -> str:
    """A request of something that runs until it is stopped."""
    return job(name, "echo it is up; exec sleep 1000", **{"restart": "always", **more})
