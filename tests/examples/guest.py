"""The hello unikernel under QEMU, started as the host driver starts it."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.parts.process import PartProcess, free_port
from tests.parts.qemu import Qemu

ADDRESS = "10.0.2.15"
_MACHINE = [
    "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
    "-machine", "pc,usb=off,vmport=off,hpet=off,graphics=off", "-accel", "tcg", "-cpu", "max", "-smp", "1",
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-device", "isa-debug-exit,iobase=0x501,iosize=2",
]  # fmt: skip


class Guest:
    """A booted kernel; a context manager that ends it.

    Args:
        line: what follows the name on its command line.
        serves: the port on which it is expected to serve.
        netdev: another network than QEMU's own, as an argument of ``-netdev`` with the id ``net``.
    """

    def __init__(
        self,
        qemu: Qemu,
        kernel: Path,
        folder: Path,
        line: str = "",
        *,
        serves: int = 8080,
        netdev: str | None = None,
        memory: int = 16,
    ) -> None:
        self.port = free_port()
        self._console = folder / "console.log"
        self._console.touch()
        forward = f"user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{self.port}-{ADDRESS}:{serves}"
        self.process = PartProcess(
            [
                qemu.obtain(), *_MACHINE, "-m", f"{memory}M",
                "-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console",
                "-netdev", netdev or forward,
                "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=",
                "-kernel", kernel, "-append", f"hello {line}",
            ],
            folder / "qemu.log",
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def console(self) -> str:
        """What it has printed, the firmware's lines included."""
        return self._console.read_text(errors="replace").replace("\r", "")

    def up(self) -> Self:
        """Wait until it serves."""
        self.process.wait_until(lambda: "hello: serving " in self.console())
        return self

    def get(self, path: str = "/") -> str:
        """The page at ``path``; AssertionError unless it answers 200."""
        status, page = ask(self.port, f"GET {path} HTTP/1.0\r\n\r\n")
        assert status == 200, page
        return page

    def connect(self) -> socket.socket:
        """A connection that the guest has taken.

        QEMU listens with a backlog of one: among many at once, some would merely look established and come
        through seconds later. It takes them in order, so whoever is answered on a later one has been taken.
        """
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.get("/healthz")
        return connection

    def end(self) -> int:
        """Wait until it ends by itself; QEMU's exit status."""
        return self.process.process.wait(20)


def ask(port: int, request: str) -> tuple[int, str]:
    """Send a request over a fresh connection; the status and the page."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request.encode())
        return answer(connection)


def answer(connection: socket.socket) -> tuple[int, str]:
    """Read to the end of the connection; the status and the page."""
    with connection.makefile("rb") as file:
        head, _, page = file.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1."), head
    return int(head.split()[1]), page.decode()
