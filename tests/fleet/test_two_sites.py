"""Two sites on one machine, joined as docs/federation.md says, by the command alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bus.clients import wait_until

pytestmark = pytest.mark.slow


def run(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "minicloud", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return done.stdout


@contextmanager
def up(data: Path, minicloud: str, *options: str) -> Iterator[Path]:
    """``minicloud up``; its output lies beside its data."""
    said = data.with_suffix(".log")
    command = [sys.executable, "-m", "minicloud", "up", "--data", data, "--minicloud", minicloud, *options]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until(
            lambda: "try: minicloud nodes" in said.read_text() or process.poll() is not None, "it is up", 60
        )
        assert process.poll() is None, said.read_text()
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_two_sites_are_one_by_the_command_alone(tmp_path: Path) -> None:
    athens, pisa, secret = tmp_path / "athens", tmp_path / "pisa", tmp_path / "secret"
    with up(athens, "athens", "--node", "one", "--leaf-port", "0") as said:
        (line,) = [line for line in said.read_text().splitlines() if "may join at" in line]
        url = line.split()[-1]
        made = json.loads(
            run("credentials", "add", "minicloud", "pisa", "--data", str(athens), "--output", "json")
        )
        secret.write_text(made["password"])
        with up(pisa, "pisa", "--node", "one", "--join", url, "--leaf-password-file", str(secret)):
            for data in (athens, pisa):
                wait_until(lambda data=data: found(data) == ["athens", "pisa"], f"both found from {data}", 60)


def found(data: Path) -> list[str]:
    # It exits with 1 while nothing matches.
    said = run("query", "name=one", "--data", str(data), "-o", "json", codes=(0, 1))
    answer: dict[str, Any] = json.loads(said)
    return [node["minicloud"] for node in answer["nodes"]]


def test_a_secret_that_is_missing_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minicloud", "up", "--data", tmp_path, "--join", "nats-leaf://x:7422"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "leaf-password-file" in done.stderr
    assert "credentials add minicloud home" in done.stderr
