"""Names on the bus: strict tokens, NATS subjects and the MQTT topics that mirror them.

A subject is ``mc.<minicloud>.<kind>.<name>.<aspect>``; the MQTT topic is the same with ``/`` for
``.``. A name that becomes a token may hold ``a-z A-Z 0-9 _ -`` only, so that no dot or wildcard of
a stranger ever widens a subject.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import StringConstraints

from schemas.errors import InvalidName

TOKEN_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"  # noqa: S105 - a pattern, not a secret
Token = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

ROOT: Final = "mc"
ANY: Final = "*"


def token(text: str, what: str = "name") -> str:
    """Return ``text`` if it may be a token, else raise.

    Raises:
        InvalidName: names ``what`` was wrong and what would be right.
    """
    if not _TOKEN.fullmatch(text):
        raise InvalidName(
            f"{text[:80]!r} cannot be a name on the bus", field=what, expected="1 to 64 of a-z A-Z 0-9 _ -"
        )
    return text


def topic(subject: str) -> str:
    """The MQTT topic (filter) of a NATS subject: ``mc.home.node.*.metrics`` -> ``mc/home/node/+/metrics``."""
    return "/".join({"*": "+", ">": "#"}.get(part, part) for part in subject.split("."))


def subject_of_topic(text: str) -> str:
    """The NATS subject of an MQTT topic without wildcards.

    Raises:
        InvalidName: if a level of the topic is not a token.
    """
    return ".".join(token(part, "topic level") for part in text.split("/"))


class Subjects:
    """The subjects of one minicloud; ``Subjects("*")`` gives patterns over all of them.

    Every method takes tokens or :data:`ANY` and refuses anything else.
    """

    def __init__(self, minicloud: str) -> None:
        self.minicloud = minicloud if minicloud == ANY else token(minicloud, "minicloud")
        self.root = f"{ROOT}.{self.minicloud}"

    def _at(self, kind: str, *parts: str) -> str:
        checked = [part if part == ANY else token(part, kind) for part in parts]
        return ".".join([self.root, kind, *checked])

    def characterization(self, node: str = ANY) -> str:
        """What a node is; published by its agent."""
        return self._at("node", node, "characterization")

    def metrics(self, node: str = ANY) -> str:
        """How a node does; published by its agent every few seconds."""
        return self._at("node", node, "metrics")

    def presence(self, node: str = ANY) -> str:
        """That a node is there; published by its agent, and by the broker as the agent's last will."""
        return self._at("node", node, "presence")

    def worker(self, node: str = ANY) -> str:
        """That a node's worker is ready for workloads; published by the worker."""
        return self._at("node", node, "worker")

    def cluster(self, node: str = ANY) -> str:
        """What a Kubernetes cluster says of one of its nodes; published by the cluster's worker."""
        return self._at("node", node, "cluster")

    def trouble(self, node: str = ANY) -> str:
        """What is wrong with a node, and which deployments suffer; published by the monitor."""
        return self._at("node", node, "trouble")

    def desired(self, node: str = ANY, workload: str = ANY) -> str:
        """What should run on a node; published by vim."""
        return self._at("node", node, "desired", workload)

    def observed(self, node: str = ANY, workload: str = ANY) -> str:
        """What does run on a node; published by the node's worker."""
        return self._at("node", node, "observed", workload)

    def reading(self, device: str = ANY, reading: str = ANY) -> str:
        """A bare reading of a constrained device."""
        return self._at("device", device, reading)

    def resource(self, node: str = ANY) -> str:
        """The resource-change log; published by rid."""
        return self._at("resource", node)

    def question(self, query: str = ANY) -> str:
        """A query that is kept under a name; published by rid."""
        return self._at("query", query, "question")

    def answer(self, query: str = ANY) -> str:
        """The names of the nodes that match a kept query; published by rid, retained on MQTT."""
        return self._at("query", query, "answer")

    def request(self, deployment: str = ANY) -> str:
        """A deployment request; published by users."""
        return self._at("deployment", deployment, "request")

    def cancel(self, deployment: str = ANY) -> str:
        """The wish that a deployment ends; published by users."""
        return self._at("deployment", deployment, "cancel")

    def migrate(self, deployment: str = ANY) -> str:
        """The wish that replicas of a deployment run elsewhere; published by users."""
        return self._at("deployment", deployment, "migrate")

    def decision(self, deployment: str = ANY) -> str:
        """Where a deployment runs and why; published by vim."""
        return self._at("deployment", deployment, "decision")

    def status(self, deployment: str = ANY) -> str:
        """The lifecycle of a deployment; published by vim, retained on MQTT."""
        return self._at("deployment", deployment, "status")

    def dead(self, service: str = ANY) -> str:
        """What a service could not handle, whole, with the reason."""
        return self._at("dead", service)

    def heartbeat(self) -> str:
        """That a minicloud is there, and what it has; published by its rid on the links to others."""
        return self._at("federation", "heartbeat")

    def service(self, service: str, verb: str, instance: str | None = None) -> str:
        """A request/reply verb of a service, or of one named instance of it."""
        return self._at("svc", service, verb, *([instance] if instance else []))


def name_in(subject: str, position: int = 3) -> str:
    """The token at ``position``: 3 is the node, device or deployment (``mc.<mc>.node.<node>...``)."""
    return subject.split(".")[position]
