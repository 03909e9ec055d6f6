"""What rid knows of a node beside the index, as it is in memory and as a document that can be kept.

The document holds everything from which the node's attributes come, so that whoever reads it back and
takes in the events since knows what he would know had he never stopped. Attributes stand flat under
``static``, ``metrics`` and ``derived``, their dots as colons, since a dot is a path in MongoDB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

from schemas.attributes import Value
from schemas.cluster import ClusterNode
from schemas.liveness import Pulse
from schemas.workload import DesiredWorkload, WorkerStatus
from services.rid.watch import Published

Document = dict[str, Any]
#: Streams whose events change metrics alone, or what was said of them: they are written less often.
LAZY: Final = frozenset({"metrics", "resources"})
_PULSE: Final = tuple(one.name for one in fields(Pulse))


class Positions(dict[str, tuple[str, int]]):
    """By stream: which one (the moment it was made) and the last revision that is part of the state."""


@dataclass(slots=True)
class Known:
    """What is known of a node.

    Attributes:
        pulse: its signs of life.
        static: the attributes of its characterization; None before the first.
        worker: its worker's last word.
        cluster: its cluster's last word.
        desired: what should run there.
        facts: its attributes without metrics, as they were last indexed.
        metrics: its last sample.
        sampled: when that was taken, seconds since the epoch by the node's clock.
    """

    pulse: Pulse = field(default_factory=Pulse)
    static: dict[str, Value] | None = None
    worker: WorkerStatus | None = None
    cluster: ClusterNode | None = None
    desired: dict[str, DesiredWorkload] = field(default_factory=dict)
    facts: dict[str, Value] = field(default_factory=dict)
    metrics: dict[str, Value] = field(default_factory=dict)
    sampled: float = 0.0


def to_document(name: str, known: Known, published: Published) -> Document:
    """Everything that is known of a node, to be kept."""
    static = known.static or {}
    derived = {key: value for key, value in known.facts.items() if static.get(key) != value}
    now: dict[str, Any] = {**static, **known.metrics, **derived}
    before = published.attributes
    return {
        "_id": name,
        "characterized": known.static is not None,
        "static": _stored(static),
        "metrics": _stored(known.metrics),
        "derived": _stored(derived),
        "sampled": known.sampled,
        "pulse": {name: getattr(known.pulse, name) for name in _PULSE},
        "worker": known.worker.model_dump(mode="json") if known.worker else None,
        "cluster": known.cluster.model_dump(mode="json") if known.cluster else None,
        "desired": [workload.model_dump(mode="json") for workload in known.desired.values()],
        # Of the last event in the change log only what is otherwise now.
        "published": None
        if before is None
        else {
            "revision": published.revision,
            "other": _stored({key: value for key, value in before.items() if now.get(key) != value}),
            "absent": [key for key in now if key not in before],
        },
    }


def from_document(document: Mapping[str, Any]) -> tuple[str, Known, Published | None]:
    """A node's name, what was known of it and what was published last.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    static, metrics, derived = (_read(document[part]) for part in ("static", "metrics", "derived"))
    known = Known(
        pulse=Pulse(**document["pulse"]),
        static=static if document["characterized"] else None,
        worker=None if document["worker"] is None else WorkerStatus.model_validate(document["worker"]),
        # What was kept before there were clusters says nothing of one.
        cluster=ClusterNode.model_validate(document["cluster"]) if document.get("cluster") else None,
        facts={**static, **derived},
        metrics=metrics,
        sampled=document["sampled"],
    )
    for one in document["desired"]:
        workload = DesiredWorkload.model_validate(one)
        known.desired[workload.workload] = workload
    if document["published"] is None:
        return document["_id"], known, None
    absent = set(document["published"]["absent"])
    before = {key: value for key, value in {**static, **metrics, **derived}.items() if key not in absent}
    before.update(_read(document["published"]["other"]))
    return document["_id"], known, Published(document["published"]["revision"], before)


def unpublished(document: Mapping[str, Any]) -> list[str]:
    """The attributes that the change log does not yet say as the document does."""
    published = document["published"]
    if published is None:
        return [_dots(key) for part in ("static", "metrics", "derived") for key in document[part]]
    return [*map(_dots, published["other"]), *published["absent"]]


def _stored(attributes: Mapping[str, Any]) -> Document:
    return {_colons(name): value for name, value in attributes.items()}


def _read(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {_dots(key): value for key, value in stored.items()}


@lru_cache(maxsize=4096)
def _colons(name: str) -> str:
    return name.replace(".", ":")


@lru_cache(maxsize=4096)
def _dots(key: str) -> str:
    return key.replace(":", ".")
