"""The table of the contract: on which subject which event travels, who sends it and who hears it.

Subjects are those of :class:`schemas.names.Subjects`; here each is joined with its event and its
parties. The AsyncAPI document and the contract for people are generated from this table, and the
broker's permissions are held against it by a test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from pydantic import BaseModel

from schemas.cluster import ClusterNode
from schemas.dead import DeadLetter
from schemas.decision import Decision, DeploymentStatus
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.event import EventData
from schemas.explained import AttributesSeen, Explanation
from schemas.federation import Heartbeat
from schemas.kept import Forgetting, Keeping, KeptAnswer, KeptQueries, KeptQuery
from schemas.names import Subjects
from schemas.node import Characterization, Measurement, Presence
from schemas.query import Answer, Query
from schemas.resource import ResourceChange
from schemas.standing import Acknowledgement, Watched, Watching
from schemas.trouble import NodeTrouble
from schemas.verbs import (
    DeploymentDetail,
    Deployments,
    Done,
    ListDeployments,
    Logs,
    LogsRequest,
    MigrateDeployment,
    Nothing,
    QueryParts,
    ScaleDeployment,
    WhichDeployment,
    WhichNode,
    Wished,
)
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus

#: Who speaks on the bus. ``rid``, ``vim`` and ``monitor`` are services; ``service`` is any of them.
Party = Literal[
    "agent",
    "fleet",
    "worker",
    "cluster",
    "device",
    "user",
    "viewer",
    "rid",
    "vim",
    "monitor",
    "service",
    "minicloud",
]
PARTIES: Final[tuple[Party, ...]] = get_args(Party)
_MQTT_ONLY: Final = frozenset({"agent", "fleet", "device"})
_NODES_SPEAKERS: Final[tuple[Party, ...]] = ("agent", "fleet", "cluster")
_EVERYBODY: Final[tuple[Party, ...]] = ("user", "viewer")


@dataclass(frozen=True)
class Channel:
    """One kind of subject.

    Attributes:
        name: what it is called in generated documents.
        subject: the method of :class:`Subjects` that makes it.
        data: what its events carry; None for what is said without an envelope: readings, kept answers.
        senders: who publishes.
        hearers: who acts on it, beside users and viewers, who may read everything.
        bare: whether the document is welcome without its envelope, too: people write it by hand.
        retained: whether MQTT clients find the last one when they subscribe.
        qos: at which quality of service it is sent over MQTT.
        link: whether it is said on the links between miniclouds only, where no user is.
    """

    name: str
    subject: Callable[..., str]
    data: type[EventData] | None
    senders: tuple[Party, ...]
    hearers: tuple[Party, ...]
    bare: bool = False
    retained: bool = False
    qos: int = 1
    link: bool = False

    @property
    def receivers(self) -> tuple[Party, ...]:
        """Everybody who receives it."""
        return self.hearers if self.link else (*self.hearers, *_EVERYBODY)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tokens that vary, the minicloud's first."""
        return ("minicloud", *list(inspect.signature(self.subject).parameters)[1:])

    @property
    def address(self) -> str:
        """The subject with its parameters in braces: ``mc.{minicloud}.node.{node}.metrics``."""
        # A subject is made of strict tokens, so marks stand in for the parameters until it is made.
        marks = {name: _marked(name) for name in self.parameters[1:]}
        return _braced(self.subject(Subjects(_marked("minicloud")), **marks), self.parameters)

    @property
    def meaning(self) -> str:
        """What is said there."""
        return inspect.getdoc(self.subject) or ""

    def by_mqtt(self, sender: Party) -> bool:
        """Whether this sender publishes it over MQTT."""
        return sender in _MQTT_ONLY or self.retained


@dataclass(frozen=True)
class Verb:
    """One question that a service answers.

    Attributes:
        service: who answers.
        name: the verb.
        asks: the question's document.
        answers: the answer's; None for a flat document of a node's attributes.
        askers: who asks; users may ask everything.
        meaning: what it is for.
        instance: what names the one process that must answer, if not any may.
    """

    service: Party
    name: str
    asks: type[BaseModel]
    answers: type[BaseModel] | None
    meaning: str
    askers: tuple[Party, ...] = field(default=("user",))
    instance: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tokens that vary, the minicloud's first."""
        return ("minicloud", *([self.instance] if self.instance else []))

    @property
    def address(self) -> str:
        """The subject, as :attr:`Channel.address`."""
        subject = Subjects(_marked("minicloud")).service(
            self.service, self.name, _marked(self.instance) if self.instance else None
        )
        return _braced(subject, self.parameters)


CHANNELS: Final = (
    Channel(
        "characterization",
        Subjects.characterization,
        Characterization,
        _NODES_SPEAKERS,
        ("rid", "monitor", "cluster"),
    ),
    Channel("metrics", Subjects.metrics, Measurement, _NODES_SPEAKERS, ("rid", "monitor"), qos=0),
    Channel(
        "presence",
        Subjects.presence,
        Presence,
        _NODES_SPEAKERS,
        ("rid", "vim", "monitor", "agent", "fleet"),
    ),
    Channel("worker", Subjects.worker, WorkerStatus, ("worker",), ("rid", "vim", "monitor")),
    Channel("cluster", Subjects.cluster, ClusterNode, ("cluster",), ("rid", "vim", "cluster")),
    Channel("desired", Subjects.desired, DesiredWorkload, ("vim",), ("worker", "cluster", "rid", "vim")),
    Channel(
        "observed",
        Subjects.observed,
        ObservedWorkload,
        ("worker", "cluster"),
        ("worker", "cluster", "vim", "monitor"),
    ),
    Channel("trouble", Subjects.trouble, NodeTrouble, ("monitor",), ("monitor",)),
    Channel("reading", Subjects.reading, None, ("device",), (), bare=True),
    Channel("resource", Subjects.resource, ResourceChange, ("rid",), ("rid",)),
    Channel("request", Subjects.request, DeploymentRequest, ("user",), ("vim",), bare=True),
    Channel("cancel", Subjects.cancel, Cancellation, ("user",), ("vim",), bare=True),
    Channel("migrate", Subjects.migrate, Migration, ("user",), ("vim",), bare=True),
    Channel("decision", Subjects.decision, Decision, ("vim",), ("vim",)),
    Channel("status", Subjects.status, DeploymentStatus, ("vim",), ("vim",), retained=True),
    Channel("question", Subjects.question, KeptQuery, ("rid",), ("rid",)),
    Channel("answer", Subjects.answer, None, ("rid",), ("device",), bare=True, retained=True),
    Channel("heartbeat", Subjects.heartbeat, Heartbeat, ("minicloud",), ("minicloud",), link=True),
    Channel("dead", Subjects.dead, DeadLetter, ("service", "worker", "cluster"), ()),
)

VERBS: Final = (
    Verb(
        "rid", "query", Query, Answer, "Which nodes match, and how fresh that is.", ("user", "viewer", "vim")
    ),
    Verb("rid", "nodes", QueryParts, Answer, "The same, as the parameters of a URL.", _EVERYBODY),
    Verb("rid", "node", WhichNode, None, "All attributes of one node.", _EVERYBODY),
    Verb("rid", "attributes", Nothing, AttributesSeen, "What can be asked at this moment.", _EVERYBODY),
    Verb("rid", "explain", Query, Explanation, "How a query is executed.", _EVERYBODY),
    Verb(
        "rid", "watch", Watching, Watched, "A standing query: what matches, and how it changes.", _EVERYBODY
    ),
    Verb("rid", "acknowledge", Acknowledgement, Done, "How far a reader has come.", _EVERYBODY, "instance"),
    Verb("rid", "keep", Keeping, KeptAnswer, "Have a query answered for devices."),
    Verb("rid", "forget", Forgetting, Done, "Have it answered no more."),
    Verb("rid", "kept", Nothing, KeptQueries, "The queries that are kept."),
    Verb("vim", "list", ListDeployments, Deployments, "All deployments with their states."),
    Verb("vim", "get", WhichDeployment, DeploymentDetail, "One deployment with its decision and status."),
    Verb("vim", "scale", ScaleDeployment, Wished, "Another number of replicas; nothing else changes."),
    Verb("vim", "migrate", MigrateDeployment, Wished, "Have replicas run on another node."),
    Verb("vim", "pause", WhichDeployment, Wished, "Have every replica stand still where it is."),
    Verb("vim", "resume", WhichDeployment, Wished, "Have them go on."),
    Verb(
        "vim",
        "whatif",
        DeploymentRequest,
        Decision,
        "What would be decided now; nothing is done or reserved.",
    ),
    Verb("worker", "logs", LogsRequest, Logs, "What a workload printed.", instance="node"),
    Verb("cluster", "logs", LogsRequest, Logs, "What a workload of a cluster printed.", instance="cluster"),
)


def _marked(parameter: str) -> str:
    return f"--{parameter}--"


def _braced(subject: str, parameters: tuple[str, ...]) -> str:
    for parameter in parameters:
        subject = subject.replace(_marked(parameter), f"{{{parameter}}}")
    return subject
