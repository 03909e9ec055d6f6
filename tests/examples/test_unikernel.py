"""The hello unikernel boots, serves, is told things by its command line, and says how it ended."""

import contextlib
import socket
import struct
from pathlib import Path

import pytest

from tests.examples.guest import Guest, answer, ask
from tests.parts.qemu import Qemu

MULTIBOOT = struct.pack("<I", 0x1BADB002)


def test_it_answers_a_thousand_requests_one_after_the_other(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest:
        for _ in range(999):
            guest.get("/")
        assert guest.get("/").startswith("hello from a unikernel: request 1000, up ")
        assert guest.get("/healthz") == "ok\n"


def test_it_answers_fifty_clients_at_once(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest, contextlib.ExitStack() as stack:
        clients = []
        for _ in range(50):
            clients.append(stack.enter_context(guest.connect()))
            clients[-1].sendall(b"GET / HT")
        for client in clients:
            client.sendall(b"TP/1.0\r\n\r\n")
        pages = [answer(client) for client in clients]
    assert {status for status, _ in pages} == {200}
    numbers = sorted(int(page.split("request ")[1].split(",")[0]) for _, page in pages)
    assert numbers == [*range(51, 101)]  # after one health probe for each


@pytest.mark.slow  # QEMU repeats a dropped SYN after six seconds
def test_more_silent_clients_than_it_has_places_for_do_not_lock_it(
    qemu: Qemu, kernel: Path, tmp_path: Path
) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest, contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(guest.connect()).sendall(b"G")
        assert guest.get("/").startswith("hello from a unikernel: ")


def test_environment_and_arguments_reach_it(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    line = (
        'vfs.fstab=[ "initrd0:/:extract::ramfs=1:" "netdev.ip=1.2.3.4" ] '
        "netdev.ip=10.0.2.15/24:10.0.2.2:10.0.2.3 "
        r'env.vars=[ "OTHER=x] -- 1" "GREETING=good \"day\", C:\\ ]" ] -- 9090 "a b"'
    )
    with Guest(qemu, kernel, tmp_path, line, serves=9090).up() as guest:
        assert guest.get("/").startswith('good "day", C:\\ ] from a unikernel: ')
        assert "hello: serving http://10.0.2.15:9090/" in guest.console()


@pytest.mark.parametrize(
    "line",
    [
        "env.vars=[GREETING=hey]",
        'env.vars=["GREETING=hey"]',
        "env.vars=GREETING=hey",
        "env.vars='GREETING=hey'",
    ],
)
def test_every_spelling_of_a_list_is_understood(qemu: Qemu, kernel: Path, tmp_path: Path, line: str) -> None:
    with Guest(qemu, kernel, tmp_path, f"{line} -- 8080").up() as guest:
        assert guest.get("/").startswith("hey from a unikernel: ")


def test_it_boots_by_its_pvh_note_too(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    image = kernel.read_bytes()
    assert image[:8192].count(MULTIBOOT) == 1
    only_pvh = tmp_path / "pvh.elf"
    only_pvh.write_bytes(image.replace(MULTIBOOT, bytes(4)))
    with Guest(qemu, only_pvh, tmp_path, 'env.vars=[ "GREETING=pvh" ]').up() as guest:
        assert guest.get("/").startswith("pvh from a unikernel: ")


def test_four_mebibytes_are_enough(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path, memory=4).up() as guest:
        guest.get("/")


@pytest.mark.parametrize(("path", "status"), [("/exit/0", 83), ("/exit/3", 7), ("/exit/63", 127)])
def test_its_exit_status_tells_the_code(
    qemu: Qemu, kernel: Path, tmp_path: Path, path: str, status: int
) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest:
        assert guest.get(path) == "bye\n"
        assert guest.end() == status
        assert f"hello: exit {path.rpartition('/')[2]}\n" in guest.console()


def test_a_crash_is_told_apart_and_explained(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest:
        assert guest.get("/panic") == "crashing\n"
        assert guest.end() == 85
        assert "hello: exception 6, error 0x00000000, at 0x0010" in guest.console()


@pytest.mark.parametrize(
    ("line", "netdev", "complaint"),
    [
        ("-- nonsense", None, "argument 1 is no port (expected 1 to 65535)"),
        ("-- 70000", None, "argument 1 is no port (expected 1 to 65535)"),
        ("x" * 20000, None, "the command line is longer than 16384 bytes"),
    ],
)
def test_what_cannot_start_says_why(
    qemu: Qemu, kernel: Path, tmp_path: Path, line: str, netdev: str | None, complaint: str
) -> None:
    with Guest(qemu, kernel, tmp_path, line, netdev=netdev) as guest:
        assert guest.end() == 5
        assert f"hello: {complaint}\n" in guest.console()


def test_requests_that_are_not_a_plain_get(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest:
        asked = {
            "HEAD /healthz HTTP/1.0\r\n\r\n": (200, ""),
            "GET /healthz?a=b HTTP/1.1\nHost: x\n\n": (200, "ok\n"),
            "GET /exit/41 HTTP/1.0\r\n\r\n": (400, "an exit code is 0 to 63, but not 41 or 42\n"),
            "GET /exit/4294967299 HTTP/1.0\r\n\r\n": (400, "an exit code is 0 to 63, but not 41 or 42\n"),
            "GET /nothing HTTP/1.0\r\n\r\n": (404, "not found; there are / /healthz /exit/N /panic\n"),
            "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc": (405, "expected: GET or HEAD\n"),
            "HEAD /panic HTTP/1.0\r\n\r\n": (200, ""),
            "\r\n\r\n": (400, "expected: GET /path HTTP/1.0\n"),
            "GET /\xff HTTP/1.0\r\n\r\n": (400, "expected: GET /path HTTP/1.0\n"),
            "GET / HTTP/1.0\r\n" + "x" * 5000: (431, "a request has at most 2048 bytes\n"),
        }
        assert {request: ask(guest.port, request) for request in asked} == asked
        assert guest.get("/healthz") == "ok\n"


def test_a_client_that_has_sent_all_may_close_its_side(qemu: Qemu, kernel: Path, tmp_path: Path) -> None:
    with Guest(qemu, kernel, tmp_path).up() as guest:
        for request, expected in ((b"GET /healthz HTTP/1.0\r\n\r\n", b"ok\n"), (b"GET /hea", b"")):
            with socket.create_connection(("127.0.0.1", guest.port), timeout=20) as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as file:
                    assert file.read().endswith(expected)
