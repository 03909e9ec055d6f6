"""What our objects are called and how they are known as ours: names, labels, annotations, hashes.

Everything that says whose an object is lies here, so that whatever is collected as garbage, and whatever is
left alone because it is somebody else's, is decided by one rule.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from services.vim.cluster.api import Object

_PREFIX: Final = "minicloud.dev"
MINICLOUD: Final = f"{_PREFIX}/minicloud"
CLUSTER: Final = f"{_PREFIX}/cluster"
DEPLOYMENT: Final = f"{_PREFIX}/deployment"
WORKLOAD: Final = f"{_PREFIX}/workload"
RUNTIME: Final = f"{_PREFIX}/runtime"
#: On objects: the identity of what we last wanted them to be. On pods: of the template that they came from.
SPEC: Final = f"{_PREFIX}/spec"
#: On objects: the generation that they were last written for.
GENERATION: Final = f"{_PREFIX}/generation"
#: On objects: which nodes their pods were given to choose from, so that it stays so.
NODES: Final = f"{_PREFIX}/nodes"
#: Labels of nodes by which people say in which rack they are.
RACKS: Final = (f"{_PREFIX}/rack", "topology.kubernetes.io/rack", "rack")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def digest(*parts: Any) -> str:
    """20 hexadecimal digits that stand for ``parts``: JSON, in whatever order its keys come."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def label_value(text: str) -> str:
    """``text`` as the value of a label; its hash where it may not be one."""
    return text if _LABEL.fullmatch(text) else f"h-{digest(text)}"


def port_name(name: str, number: int) -> str:
    """What Kubernetes may call the port ``name``, the ``number``-th of its workload."""
    return name if _PORT.fullmatch(name) and "--" not in name else f"p{number}"


@dataclass(frozen=True, slots=True)
class Ours:
    """The mark of one worker on its objects.

    Attributes:
        minicloud: whose.
        cluster: as which cluster it speaks.
        namespace: where its objects lie.
    """

    minicloud: str
    cluster: str
    namespace: str

    def name(self, deployment: str, runtime: str, *parts: str | int) -> str:
        """The name of an object of a deployment: ``u-`` and a hash, so that whatever may be an id may be a name."""
        return f"u-{digest(self.minicloud, self.cluster, deployment, runtime, *parts)}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of everything that is ours."""
        return {
            "app.kubernetes.io/managed-by": "minicloud",
            MINICLOUD: self.minicloud,
            CLUSTER: self.cluster,
        }

    @property
    def selector(self) -> str:
        """The same, to ask for it."""
        return ",".join(f"{name}={value}" for name, value in sorted(self.labels.items()))

    def of(self, deployment: str, runtime: str, workload: str | None = None) -> dict[str, str]:
        """The labels of an object of a deployment, or of one of its replicas alone."""
        labels = {**self.labels, DEPLOYMENT: label_value(deployment), RUNTIME: runtime}
        return {**labels, WORKLOAD: label_value(workload)} if workload else labels

    def owns(self, document: Object) -> bool:
        """Whether an object carries our mark; anything else is never touched."""
        labels = document.get("metadata", {}).get("labels") or {}
        return all(labels.get(name) == value for name, value in self.labels.items())

    def key_of(self, document: Object) -> Key | None:
        """Whose an object is; None where it does not say so."""
        metadata = document.get("metadata", {})
        labels = metadata.get("labels") or {}
        deployment = (metadata.get("annotations") or {}).get(DEPLOYMENT) or labels.get(DEPLOYMENT)
        runtime = labels.get(RUNTIME)
        return Key(deployment, runtime) if deployment and runtime and self.owns(document) else None


@dataclass(frozen=True, slots=True)
class Key:
    """What is looked at together: the part of a deployment that runs in one runtime."""

    deployment: str
    runtime: str


def annotations_of(document: Object) -> dict[str, str]:
    """The annotations of an object; none where it has none."""
    return document.get("metadata", {}).get("annotations") or {}


def labels_of(document: Object) -> dict[str, str]:
    """Its labels, likewise."""
    return document.get("metadata", {}).get("labels") or {}


def name_of(document: Object) -> str:
    """Its name."""
    return str(document["metadata"]["name"])
