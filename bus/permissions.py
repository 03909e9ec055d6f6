"""What a credential may do on the broker: role, name and minicloud in, NATS permissions out.

One table for NATS and MQTT alike, since the broker maps every topic to a subject. What each entry
guards against is said beside it; ``tests/bus/test_permissions.py`` tries each one both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from schemas.errors import InvalidName
from schemas.names import Subjects, token

Role = Literal["admin", "service", "agent", "worker", "device", "user", "viewer", "fleet"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

STREAMS: Final = (
    "characterizations",
    "metrics",
    "presence",
    "workloads",
    "devices",
    "resources",
    "deployments",
    "storage",
    "dead",
)
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
    """

    publish: tuple[str, ...] = ()
    publish_deny: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    subscribe_deny: tuple[str, ...] = ()
    answers: bool = False
    mqtt_only: bool = False


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
    """The one JetStream consumer name that a restricted credential may use on each stream.

    A free choice of names would let a reader change or drain a service's durable consumer.
    """
    return f"{role}-{token(name, 'name')}"


def permissions(role: Role, name: str, minicloud: str, own_nodes: Iterable[str] = ()) -> Permissions:
    """What the credential ``role name`` may do in ``minicloud``.

    Args:
        role: the kind of principal.
        name: its name; for agents and workers the node, for devices the device.
        minicloud: the minicloud it belongs to.
        own_nodes: nodes that have an agent or worker of their own, which a fleet must not imitate.
    """
    subjects = Subjects(minicloud)
    match role:
        case "admin" | "service":
            return Permissions(publish=(">",), subscribe=(">",))
        case "agent":
            return _agent(subjects, name)
        case "worker":
            return _worker(subjects, name)
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
                    f"{subjects.root}.storage.>",
                    f"{subjects.root}.svc.>",
                ),
            )
        case "viewer":
            return _reader(subjects, role, name, publish=(subjects.service("rid", "query"),))


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
        subscribe=(commands, f"{commands}.>", *_MQTT_DELIVERY),
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
    own = (subjects.desired(name), subjects.observed(name))
    return Permissions(
        publish=(
            subjects.observed(name),
            subjects.worker(name),
            subjects.dead("worker"),  # a level that cannot be read must not stop the reading of others
            f"$JS.API.STREAM.INFO.{stream}",
            # The filter is part of the subject, so the consumer can see this node's workloads only.
            *(
                f"$JS.API.CONSUMER.CREATE.{stream}.{consumer_name('worker', name)}.{subject}"
                for subject in own
            ),
            *(f"$JS.API.DIRECT.GET.{stream}.{subject}" for subject in own),
            *_own_consumer(stream, consumer_name("worker", name)),
        ),
        subscribe=(
            *own,
            f"{subjects.root}.svc.worker.*.{token(name, 'node')}",
            f"{inbox_prefix(user)}.>",
        ),
        answers=True,
    )


def _reader(subjects: Subjects, role: Role, name: str, publish: tuple[str, ...]) -> Permissions:
    user = user_name(role, name)
    consumer = consumer_name(role, name)
    reads: list[str] = []
    for kind in STREAMS:
        stream = stream_name(subjects.minicloud, kind)
        reads += [
            f"$JS.API.STREAM.INFO.{stream}",
            f"$JS.API.STREAM.MSG.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>",
            f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}",
            f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.>",
            *_own_consumer(stream, consumer),
        ]
    return Permissions(
        publish=(*publish, *reads),
        subscribe=(subjects.root, f"{subjects.root}.>", f"{inbox_prefix(user)}.>", *_MQTT_DELIVERY),
        subscribe_deny=(
            f"{subjects.root}.secret.>",
            # Nobody listens in on requests, and nobody joins a queue group: it would take work away.
            f"{subjects.root}.svc.>",
            f"{subjects.root}.> >",
        ),
    )


def stream_name(minicloud: str, kind: str) -> str:
    """The JetStream stream that keeps one kind of event of a minicloud."""
    return f"{token(minicloud, 'minicloud')}_{kind}"


def _own_consumer(stream: str, consumer: str) -> tuple[str, ...]:
    return (
        f"$JS.API.CONSUMER.INFO.{stream}.{consumer}",
        f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.ACK.{stream}.{consumer}.>",
        f"$JS.FC.{stream}.{consumer}.>",
    )
