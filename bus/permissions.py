"""What a credential may do on the broker: role, name and minicloud in, NATS permissions out.

One table for NATS and MQTT alike, since the broker maps every topic to a subject. What each entry
guards against is said beside it; ``tests/bus/test_permissions.py`` tries each one both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from bus.streams import STREAMS, Stream, stream_name
from schemas.errors import InvalidName
from schemas.names import ANY, Subjects, token

Role = Literal[
    "admin", "service", "agent", "worker", "cluster", "device", "user", "viewer", "fleet", "minicloud"
]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

# What readers may read; leases are the services' own affair.
_READABLE: Final = tuple(stream for stream in STREAMS if stream.kind != "leases")
_BY_SERVICES_AND_NODES: Final = ("characterizations", "metrics", "presence", "troubles", "resources", "dead")
# The verbs of rid that tell and change nothing.
_ASKING: Final = ("query", "node", "nodes", "attributes", "explain", "watch")
# What an MQTT client needs so that the broker can deliver to it at QoS 1 and 2.
_MQTT_DELIVERY: Final = ("$MQTT.sub.>", "$MQTT.deliver.pubrel.>")


@dataclass(frozen=True)
class Permissions:
    """What a user of the broker may do; everything that is not allowed is refused.

    Attributes:
        publish: subjects (with wildcards) that may be published to.
        publish_deny: exceptions from ``publish``.
        subscribe: subjects that may be subscribed to.
        subscribe_deny: exceptions from ``subscribe``; ``"a.> >"`` denies queue groups on ``a.>``.
        answers: may answer whoever asked it, on the asker's reply subject.
        mqtt_only: may connect by MQTT only.
        link: speaks in the account of the links between miniclouds, and in no other.
    """

    publish: tuple[str, ...] = ()
    publish_deny: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()
    answers: bool = False
    mqtt_only: bool = False
    link: bool = False


def role_of(text: str) -> Role:
    """The role that ``text`` names.

    Raises:
        InvalidName: if there is no such role.
    """
    for role in ROLES:
        if role == text:
            return role
    raise InvalidName(f"{text[:80]!r} is no role", field="role", expected=f"one of {', '.join(ROLES)}")


def user_name(role: Role, name: str) -> str:
    """The user name on the broker, on NATS and MQTT alike: ``agent.pi-3``."""
    return f"{role}.{token(name, 'name')}"


def inbox_prefix(user: str) -> str:
    """Where a user's answers arrive; a NATS client must be told (nats-py: ``inbox_prefix=``).

    Each user has its own, so that nobody reads another's answers.
    """
    return f"_INBOX.{user}"


def consumer_name(role: Role, name: str) -> str:
    """The one JetStream consumer name of a worker on the stream of workloads.

    A free choice there would let one node drain or change the consumer of another.
    """
    return f"{role}-{token(name, 'name')}"


def lease_name(role: Role, name: str) -> str:
    """The one lease that a cluster's workers share: of several one acts."""
    return f"{role}-{token(name, 'name')}"


def permissions(role: Role, name: str, minicloud: str, own_nodes: Iterable[str] = ()) -> Permissions:
    """What the credential ``role name`` may do in ``minicloud``.

    Args:
        role: the kind of principal.
        name: its name; for agents and workers the node, for devices the device.
        minicloud: the minicloud it belongs to.
        own_nodes: nodes that have an agent or worker of their own, which a fleet must not imitate.
    """
    # Both checked here: elsewhere "*" is a word for "any", which would widen every subject below.
    subjects = Subjects(token(minicloud, "minicloud"))
    token(name, "name")
    match role:
        case "admin" | "service":
            return Permissions(publish=(">",), subscribe=(">",))
        case "agent":
            return _agent(subjects, name)
        case "worker":
            return _worker(subjects, name)
        case "cluster":
            return _cluster(subjects, name, own_nodes)
        case "device":
            return _device(subjects, name)
        case "fleet":
            return _fleet(subjects, own_nodes)
        case "user":
            return _reader(
                subjects,
                role,
                name,
                publish=(
                    subjects.request(),
                    subjects.cancel(),
                    subjects.migrate(),
                    f"{subjects.root}.storage.>",
                    f"{subjects.root}.svc.>",
                ),
            )
        case "viewer":
            asks = tuple(subjects.service("rid", verb) for verb in _ASKING)
            acknowledges = subjects.service("rid", "acknowledge", ANY)
            return _reader(subjects, role, name, publish=(*asks, acknowledges))
        case "minicloud":
            return _minicloud(name)


def _minicloud(name: str) -> Permissions:
    """A minicloud on the link: its own rid there, or the broker that brings it from another site.

    It speaks for itself only, so that none passes for another; asks the rids of all; and reads its own
    answers.
    """
    own, everybody = Subjects(token(name, "minicloud")), Subjects(ANY)
    return Permissions(
        publish=(own.heartbeat(), f"{everybody.root}.svc.rid.>", "_INBOX.minicloud.>"),
        subscribe=(
            everybody.heartbeat(),
            f"{own.root}.svc.rid.>",
            f"{inbox_prefix(user_name('minicloud', name))}.>",
        ),
        link=True,
    )


def _agent(subjects: Subjects, name: str) -> Permissions:
    # MQTT only: over NATS, a subscription to $MQTT.sub.> would read what others get at QoS 1.
    return Permissions(
        publish=(subjects.characterization(name), subjects.metrics(name), subjects.presence(name)),
        subscribe=(subjects.presence(name), *_MQTT_DELIVERY),
        mqtt_only=True,
    )


def _device(subjects: Subjects, name: str) -> Permissions:
    commands = f"{subjects.root}.device.{token(name, 'device')}.command"
    return Permissions(
        publish=(subjects.reading(name),),
        # MQTT's `command/#` means both `command` and what lies below it.
        subscribe=(commands, f"{commands}.>", subjects.answer(), *_MQTT_DELIVERY),
        mqtt_only=True,
    )


def _fleet(subjects: Subjects, own_nodes: Iterable[str]) -> Permissions:
    # A wildcard of NATS is a whole token, so `sim-*` cannot be said: any node, but none that is real.
    return Permissions(
        publish=(subjects.characterization(), subjects.metrics(), subjects.presence()),
        publish_deny=tuple(f"{subjects.root}.node.{node}.>" for node in sorted(set(own_nodes))),
        subscribe=(subjects.presence(), *_MQTT_DELIVERY),
        mqtt_only=True,
    )


def _worker(subjects: Subjects, name: str) -> Permissions:
    user = user_name("worker", name)
    stream = stream_name(subjects.minicloud, "workloads")
    levels = f"{subjects.root}.node.{token(name, 'node')}.*.*"  # desired and observed
    return Permissions(
        publish=(
            subjects.observed(name),
            subjects.worker(name),
            subjects.dead("worker"),
            f"$JS.API.STREAM.INFO.{stream}",
            # The filter is part of the subject, so this node's workloads are all that it can read.
            f"$JS.API.CONSUMER.CREATE.{stream}.{consumer_name('worker', name)}.{levels}",
            f"$JS.API.DIRECT.GET.{stream}.{levels}",
            *_existing_consumer(stream, consumer_name("worker", name)),
        ),
        subscribe=(
            subjects.desired(name),
            subjects.observed(name),
            f"{subjects.root}.svc.worker.*.{token(name, 'node')}",
            f"{inbox_prefix(user)}.>",
        ),
        answers=True,
    )


def _cluster(subjects: Subjects, name: str, own_nodes: Iterable[str]) -> Permissions:
    """The worker of a cluster: it speaks for the cluster's nodes, whatever they are called.

    Nodes with an agent of their own keep their own voice; what the cluster says of those is under subjects
    that no agent has. It reads the levels of every node, since no wildcard says which are the cluster's.
    """
    user = user_name("cluster", name)
    consumer = consumer_name("cluster", name)
    reads: list[str] = []
    for kind, filters in (
        ("workloads", (subjects.desired(), subjects.observed())),
        ("characterizations", (subjects.characterization(),)),
        ("presence", (subjects.cluster(),)),
    ):
        stream = stream_name(subjects.minicloud, kind)
        reads += [f"$JS.API.STREAM.INFO.{stream}", *_existing_consumer(stream, consumer)]
        reads += [f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{subject}" for subject in filters]
    lease = lease_name("cluster", name)
    return Permissions(
        publish=(
            subjects.characterization(),
            subjects.metrics(),
            subjects.presence(),
            subjects.cluster(),
            subjects.observed(),
            subjects.dead("cluster"),
            f"{subjects.root}.lease.{lease}",
            f"$JS.API.DIRECT.GET.{stream_name(subjects.minicloud, 'leases')}.{subjects.root}.lease.{lease}",
            *reads,
        ),
        publish_deny=tuple(
            f"{subjects.root}.node.{node}.{aspect}"
            for node in sorted(set(own_nodes))
            for aspect in ("characterization", "metrics", "presence")
        ),
        subscribe=(
            subjects.desired(),
            subjects.observed(),
            subjects.characterization(),
            subjects.cluster(),
            f"{subjects.root}.svc.cluster.*.{token(name, 'cluster')}",
            f"{inbox_prefix(user)}.>",
        ),
        answers=True,
    )


def _reader(subjects: Subjects, role: Role, name: str, publish: tuple[str, ...]) -> Permissions:
    user = user_name(role, name)
    reads: list[str] = ["$SRV.>"]
    denied: list[str] = []
    for stream in _READABLE:
        reads += _reading(subjects, stream)
        denied += [
            entry
            for durable in stream.durables
            for entry in _any_use(stream.name(subjects.minicloud), durable)
        ]
    return Permissions(
        publish=(*publish, *reads),
        publish_deny=tuple(denied),
        subscribe=(subjects.root, f"{subjects.root}.>", f"{inbox_prefix(user)}.>", *_MQTT_DELIVERY),
        subscribe_deny=(
            f"{subjects.root}.secret.>",
            # Nobody listens in on requests, and nobody joins a queue group: it would take work away.
            f"{subjects.root}.svc.>",
            f"{subjects.root}.> >",
        ),
    )


def _reading(subjects: Subjects, stream: Stream) -> list[str]:
    """What reading one stream takes.

    JetStream sends what was asked for to any reply or deliver subject, whether or not the asker may
    publish there. So nothing that users or devices wrote is read raw: else a user could have its own
    request sent as a node's desired state. That is read live, or wrapped in JSON by MSG.GET.
    """
    name = stream.name(subjects.minicloud)
    reads = [f"$JS.API.STREAM.INFO.{name}", f"$JS.API.STREAM.MSG.GET.{name}"]
    # Any consumer's name but a service's: other readers' have names that nobody guesses.
    using = _existing_consumer(name, ANY)
    if stream.kind in _BY_SERVICES_AND_NODES:
        consumer = f"$JS.API.CONSUMER.CREATE.{name}.*"
        return [*reads, f"$JS.API.DIRECT.GET.{name}.>", consumer, f"{consumer}.>", *using]
    if stream.kind == "deployments":
        # The subject at the end is all that is read. Without it, it would hide in the payload.
        for subject in (subjects.status(), subjects.decision()):
            reads += [f"$JS.API.DIRECT.GET.{name}.{subject}", f"$JS.API.CONSUMER.CREATE.{name}.*.{subject}"]
        return [*reads, *using]
    return reads


def _any_use(stream: str, consumer: str) -> list[str]:
    return [f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.>", *_existing_consumer(stream, consumer)]


def _existing_consumer(stream: str, consumer: str) -> list[str]:
    return [
        f"$JS.API.CONSUMER.INFO.{stream}.{consumer}",
        f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.ACK.{stream}.{consumer}.>",
    ]
