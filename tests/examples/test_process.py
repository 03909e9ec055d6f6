"""The hello process answers, and ends without cutting off who is being served."""

import os
import signal
import socket
import sys
from pathlib import Path

import psutil

from tests.examples.conftest import EXAMPLES
from tests.examples.guest import ask
from tests.parts.process import PartProcess, accepts, free_port

HELLO = EXAMPLES / "hello-process" / "hello.py"
MOST_MEMORY = 32 * 2**20


def started(folder: Path, port: int) -> PartProcess:
    env = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "GREETING": "good day"}
    process = PartProcess([sys.executable, HELLO], folder / "log", env)
    process.wait_until(lambda: "hello: serving " in process.text())
    return process


def test_it_answers_with_little_memory(tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, port) as process:
        for number in range(1, 101):
            status, page = ask(port, "GET / HTTP/1.0\r\n\r\n")
            assert status == 200
            assert page.startswith(f"good day from a process: request {number}, up ")
        assert ask(port, "GET /healthz HTTP/1.0\r\n\r\n") == (200, "ok\n")
        assert ask(port, "HEAD / HTTP/1.0\r\n\r\n") == (200, "")
        assert ask(port, "GET /nothing HTTP/1.0\r\n\r\n")[0] == 404
        assert psutil.Process(process.process.pid).memory_info().rss < MOST_MEMORY


def test_it_finishes_what_it_is_answering_when_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, port) as process:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.0\r\n")
            ask(port, "GET / HTTP/1.0\r\n\r\n")  # so that the first one was taken
            process.process.send_signal(signal.SIGTERM)
            process.wait_until(lambda: not accepts(port))
            client.sendall(b"\r\n")
            with client.makefile("rb") as file:
                assert b"good day from a process: " in file.read()
        assert process.process.wait(10) == 0
        assert process.text().endswith("hello: stopped\n")
