"""What a person sees in a terminal, and that nothing of it reaches a pipe or a plain terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.minicloud.conftest import NODE, Stack, environment, job

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments: str, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minicloud", *arguments],
            env=environment(**{"TERM": "xterm-256color", "LINES": "40", **more}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = ""

    @property
    def text(self) -> str:
        """What was written, without colours and movements."""
        return _ESCAPE.sub("", self.raw)

    def until(self, true: Callable[[], bool], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                self.process.terminate()
                raise AssertionError(self.text)
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self.raw += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    assert true(), self.text
                    return

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        with suppress(AssertionError):
            self.until(lambda: self.process.poll() is not None)
            self.until(lambda: False, 0.2)  # what it said last
        os.close(self._ours)
        return self.process.wait(10)


@pytest.fixture
def request_file(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^a-z0-9]", "-", request.node.name.lower())[-40:]
    (tmp_path / "job.json").write_text(job(name, "sleep 1; echo done"))
    return str(tmp_path / "job.json")


def test_a_deployment_lives_in_a_terminal_and_leaves_its_story(stack: Stack, request_file: str) -> None:
    terminal = Terminal("deploy", request_file, "--until", "ends", MINICLOUD_DATA=str(stack.data))
    terminal.until(lambda: "completed" in terminal.text)
    assert terminal.end() == 0
    assert re.search(rf"running  {NODE}  process  \ds", terminal.text), "the line that lives"
    assert "\x1b[?25l" in terminal.raw
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is back"
    for word in ("accepted", "decided", "scheduled", "running", "completed"):
        assert re.search(rf"\d\d:\d\d:\d\d\.\d+  {word} ", terminal.text), word


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_plain_terminal_gets_plain_lines(stack: Stack, request_file: str, plain: dict[str, str]) -> None:
    terminal = Terminal("deploy", request_file, "--until", "ends", MINICLOUD_DATA=str(stack.data), **plain)
    terminal.until(lambda: "completed" in terminal.text)
    assert terminal.end() == 0
    assert "\x1b" not in terminal.raw
    assert "decided" in terminal.text


def test_the_nodes_live_in_a_terminal_until_ctrl_c(stack: Stack) -> None:
    terminal = Terminal("nodes", "--watch", MINICLOUD_DATA=str(stack.data))
    terminal.until(lambda: terminal.text.count(" nodes (") >= 2)
    assert terminal.end(signal.SIGINT) == 130
    for word in ("NODE", "LOAD", "MEMORY", "WORKLOADS", NODE, "sim-00002", "4 nodes (4 alive)"):
        assert word in terminal.text
    assert "Traceback" not in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is back"


def test_what_does_not_fit_is_counted(stack: Stack) -> None:
    terminal = Terminal("nodes", "--watch", MINICLOUD_DATA=str(stack.data), LINES="7")
    terminal.until(lambda: "more nodes do not fit here" in terminal.text)
    assert terminal.end(signal.SIGTERM) == 143
    assert "2 more nodes do not fit here" in terminal.text
