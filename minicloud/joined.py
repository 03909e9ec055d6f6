"""A node of a minicloud that runs elsewhere: this machine's agent and worker, started and watched.

In: an invitation, kept in the data folder with its secrets in files of mode 0600. Out: two processes that
connect to the broker they were told, for as long as we live.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self

from bus.bus import Bus
from bus.credentials import write_private
from minicloud.invitation import NODE_ROLES, Invitation
from minicloud.stack import Processes, Service
from schemas.errors import Conflict, InvalidDocument

_FILE: Final = "join.json"
_CA: Final = "ca.pem"
_PATIENCE: Final = 10.0


class Joined:
    """This machine as a node elsewhere.

    Args:
        data: the data folder.
        invitation: where to.
    """

    def __init__(self, data: Path, invitation: Invitation) -> None:
        self.data = data
        self.invitation = invitation

    @classmethod
    def kept(cls, data: Path) -> Self | None:
        """As it was when it was last stored; None where it never was."""
        try:
            document = json.loads((data / _FILE).read_text())
            node = document["node"]
            secrets = {role: (data / "secrets" / f"{role}.{node}").read_text().strip() for role in NODE_ROLES}
            return cls(data, Invitation(**document, secrets=secrets))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidDocument(
                f"cannot be read: {error}",
                field=str(data / _FILE),
                expected="the file as this program wrote it, or `minicloud join -` again",
            ) from None

    async def check(self) -> None:
        """Connect once, so that a refusal is told to whoever joins and not to a log.

        Raises:
            Forbidden: the secret is refused.
            Unavailable: no broker answers, or its certificate does not hold.
        """
        self._store_ca()
        endpoint = self.invitation.worker_endpoint(self._ca)
        bus = await Bus.connect(endpoint, self.invitation.minicloud, "join", timeout=_PATIENCE)
        await bus.close()

    def refuse_a_stack(self) -> None:
        """A data folder is a stack's or a node's, never both.

        Raises:
            Conflict: a whole stack has this one.
        """
        if (self.data / "credentials.json").exists():
            raise Conflict(
                f"{self.data} belongs to a stack of its own (`minicloud up`)",
                field="data",
                expected="another folder, by --data",
            )

    def store(self) -> None:
        """Keep it for the next start."""
        for role, secret in self.invitation.secrets.items():
            write_private(self._secret(role), secret + "\n")
        known = {name: value for name, value in asdict(self.invitation).items() if name != "secrets"}
        write_private(self.data / _FILE, json.dumps(known, indent=1) + "\n")

    def processes(
        self, on_event: Callable[[str], None], agent: Sequence[str], worker: Sequence[str], bind: str
    ) -> Processes:
        """The agent and the worker, not started yet.

        Args:
            on_event: told in a line what happens.
            agent: more options of the agent.
            worker: more options of the worker.
            bind: the address that the ports of workloads listen on.
        """
        node = self.invitation.node
        (self.data / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Processes(self.data, on_event)
        python = [sys.executable, "-m"]
        arguments = {
            "worker": [
                *python,
                "services.vim.worker",
                "--node",
                node,
                "--data",
                str(self.data / "worker"),
                *worker,
            ],
            "agent": [
                *python,
                "services.charagent",
                "--node",
                node,
                "--data",
                str(self.data / "agent"),
                *agent,
            ],
        }
        for role, command in arguments.items():
            environment = {**self._environment(role), "MINICLOUD_BIND": bind}
            made.services[role] = Service(role, command, environment)
        # If we are killed, workloads run on and the next worker adopts them.
        made.services["worker"].orphaned = signal.SIGKILL
        return made

    def _environment(self, role: str) -> dict[str, str]:
        told = self.invitation
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MINICLOUD_")}
        return {
            **inherited,
            "MINICLOUD_MINICLOUD": told.minicloud,
            "MINICLOUD_BROKER": told.broker,
            "MINICLOUD_MQTT": told.mqtt,
            "MINICLOUD_USER": f"{role}.{told.node}",
            "MINICLOUD_PASSWORD_FILE": str(self._secret(role)),
            "MINICLOUD_INSTANCE": f"{role}@{told.node}",
            "MALLOC_ARENA_MAX": "2",
            **({"MINICLOUD_CA": str(self._ca)} if self._ca else {}),
        }

    def _secret(self, role: str) -> Path:
        return self.data / "secrets" / f"{role}.{self.invitation.node}"

    @property
    def _ca(self) -> Path | None:
        return self.data / _CA if self.invitation.ca else None

    def _store_ca(self) -> None:
        if self.invitation.ca:
            write_private(self.data / _CA, self.invitation.ca)
