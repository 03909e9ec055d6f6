"""Host ports for workloads: pinned ones checked, others chosen once and kept over restarts.

In come a workload's ports and those it had before; out comes ``{name: host port}``. Ports that
another workload of this worker was given are never handed out twice, also while it is starting.
"""

from __future__ import annotations

import socket

from services.vim.worker.workload import CannotRun, Workload


class Ports:
    """The host ports given out on one bind address."""

    def __init__(self, bind: str) -> None:
        self._bind = bind
        self._given: dict[int, str] = {}

    def give(self, workload: Workload, before: dict[str, int]) -> dict[str, int]:
        """A host port for each port of ``workload``.

        A pinned port is given or refused. Else the one it had before, else the workload's own number,
        so that a program that ignores ``PORT`` is still found, else any free one.

        Raises:
            CannotRun: ``PortInUse``, which names the port and, if known, the workload that has it.
        """
        self.free(workload.workload)
        given: dict[str, int] = {}
        for port in workload.ports:
            if port.host_port is not None:
                self._check(port.host_port, port.name)
                number = port.host_port
            else:
                wishes = [wish for wish in (before.get(port.name), port.port) if wish]
                number = next((wish for wish in wishes if self._is_free(wish)), None) or self._any()
            given[port.name] = number
            self._given[number] = workload.workload
        return given

    def keep(self, workload: str, ports: dict[str, int]) -> None:
        """Note the ports of a workload that already runs."""
        for number in ports.values():
            self._given[number] = workload

    def free(self, workload: str) -> None:
        """Take back what ``workload`` was given."""
        self._given = {number: owner for number, owner in self._given.items() if owner != workload}

    def _check(self, number: int, name: str) -> None:
        if number in self._given:
            raise CannotRun(
                "PortInUse", f"port {name}: host port {number} belongs to workload {self._given[number]}"
            )
        try:
            self._try(number)
        except PermissionError:
            raise CannotRun(
                "PortForbidden",
                f"port {name}: this user may not listen on host port {number}",
                lasting=True,
                expected="a port from 1024, or a worker with the right to bind below",
            ) from None
        except OSError:
            raise CannotRun(
                "PortInUse", f"port {name}: host port {number} of {self._bind} is taken by another program"
            ) from None

    def _is_free(self, number: int) -> bool:
        if number in self._given or number < 1024:
            return False
        try:
            self._try(number)
        except OSError:
            return False
        return True

    def _try(self, number: int) -> int:
        family = socket.AF_INET6 if ":" in self._bind else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # connections that linger do not count
            trial.bind((self._bind, number))
            trial.listen(1)  # two may bind with SO_REUSEADDR; one may listen
            return int(trial.getsockname()[1])

    def _any(self) -> int:
        while (number := self._try(0)) in self._given:
            pass
        return number
