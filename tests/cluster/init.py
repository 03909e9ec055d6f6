"""Pid 1 of a space: it runs the programs that it is told to run and lets connections in from outside.

What it is told comes as one JSON message a request on the Unix socket ``control.sock`` in its folder. When it
ends, the kernel ends everything in the space with it: every process, mount and interface.

The sockets that it lets connections in by were made outside and handed over, so they listen there; what it
dials is dialled in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

_MESSAGE_BYTES: Final = 1 << 17
_CHUNK_BYTES: Final = 1 << 16
_REDIAL_S: Final = 0.02


class Init:
    """The programs of a space, by name, and the doors into it."""

    def __init__(self) -> None:
        self._commands: dict[str, list[str]] = {}
        self._pids: dict[str, int] = {}
        self._statuses: dict[str, int] = {}
        self._ended = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, folder: Path) -> None:
        """Do what is asked for, for ever."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        # Under its name only once it listens, so that whoever sees it can connect.
        making = folder / "control.new"
        listener.bind(str(making))
        listener.listen(64)
        making.rename(folder / "control.sock")
        while True:
            connection, _ = await loop.sock_accept(listener)
            self._run(self._answer(connection))

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: socket.socket) -> None:
        with connection:
            await _readable(connection)
            message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
            try:
                answer, handed = await self._do(json.loads(message), descriptors)
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                answer, handed = {"error": f"{type(error).__name__}: {error}"}, []
            with contextlib.suppress(OSError):  # whoever asked may be gone
                socket.send_fds(connection, [json.dumps(answer).encode()], handed)
            for descriptor in handed:
                os.close(descriptor)

    async def _do(self, asked: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        match asked["do"]:
            case "start":
                command = asked["command"] or self._commands[asked["name"]]
                return {"pid": self._start(asked["name"], command, asked["log"])}, []
            case "signal":
                if asked["name"] not in self._pids:
                    raise ValueError("it does not run")
                os.kill(self._pids[asked["name"]], asked["signal"])
                return {}, []
            case "wait":
                return {"status": await self._wait(asked["name"])}, []
            case "programs":
                return {"running": self._pids}, []
            case "forget":
                del self._commands[asked["name"]], self._statuses[asked["name"]]
                return {}, []
            case "forward":
                listener = socket.socket(fileno=descriptors[0])
                self._run(self._forward(listener, asked["address"], asked["port"]))
                return {}, []
            case "listen":
                inside = socket.create_server((asked["address"], asked["port"]))
                return {"port": inside.getsockname()[1]}, [inside.detach()]
            case unknown:
                raise ValueError(f"nothing is known of {unknown!r}")

    def _start(self, name: str, command: list[str], log: str) -> int:
        if name in self._pids:
            raise ValueError("it runs already")
        self._statuses.pop(name, None)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
        finally:
            os.close(output)
        self._commands[name] = command
        self._pids[name] = pid
        return pid

    async def _wait(self, name: str) -> int:
        async with self._ended:
            await self._ended.wait_for(lambda: name not in self._pids)
        return self._statuses[name]

    def _reap(self) -> None:
        """Note who ended; orphans of the space come to us too and are only buried."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = dead
                for name in [name for name, known in self._pids.items() if known == pid]:
                    del self._pids[name]
                    self._statuses[name] = os.waitstatus_to_exitcode(status)
        self._run(self._tell())

    async def _tell(self) -> None:
        async with self._ended:
            self._ended.notify_all()

    async def _forward(self, listener: socket.socket, address: str, port: int) -> None:
        """Carry connections to a port in here; while nobody listens there, the door is shut as well."""
        loop = asyncio.get_running_loop()
        listener.settimeout(0)
        while True:
            try:
                outer, _ = await loop.sock_accept(listener)
            except OSError:  # shut by a connection below
                await self._until_somebody_listens(address, port)
                listener.listen(socket.SOMAXCONN)
                continue
            self._run(self._connect(listener, outer, address, port))

    async def _until_somebody_listens(self, address: str, port: int) -> None:
        while True:
            try:
                (await _dial(address, port)).close()
            except OSError:
                await asyncio.sleep(_REDIAL_S)
            else:
                return

    async def _connect(self, listener: socket.socket, outer: socket.socket, address: str, port: int) -> None:
        with outer:
            outer.settimeout(0)
            try:
                inner = await _dial(address, port)
            except OSError:
                # Reset, as the kernel does where nobody listens; and whoever comes next is refused at once.
                outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                return
            with inner:
                for end in (outer, inner):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.gather(_carry(outer, inner), _carry(inner, outer))


async def _dial(address: str, port: int) -> socket.socket:
    inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(inner, (address, port)), 5)
    except BaseException:
        inner.close()
        raise
    return inner


async def _carry(source: socket.socket, sink: socket.socket) -> None:
    """Bytes from one end to the other, and the end of them; an end that broke ends both."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        while count := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(sink, view[:count])
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


if __name__ == "__main__":
    for opened in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone
            # What was handed to us, such as the lock that says that we live, is not for our programs.
            os.set_inheritable(int(opened.name), int(opened.name) <= 2)
    asyncio.run(Init().serve(Path(sys.argv[1])))
