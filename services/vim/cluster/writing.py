"""One object written: only where it is not as wanted, never over what is somebody else's.

In: what is wanted and what lies there. Out: a write by server-side apply, or the reason why there was none; and
whether somebody had changed what is ours (drift), which the write set right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import structlog

from services.vim.cluster.api import JOBS, Api, Object, Resource
from services.vim.cluster.kind import Wanted
from services.vim.cluster.lying import Lying
from services.vim.cluster.names import SPEC, Ours, annotations_of, digest, labels_of, name_of
from services.vim.cluster.refusal import Refusal

log = structlog.get_logger("cluster")
#: What cannot be changed: it is made once, and another name is another one.
_MADE_ONCE: Final = frozenset({JOBS})
_MOST_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to.

    Attributes:
        refusal: why it was not written; None where it is as wanted now.
        waits: whether what has its name must be gone first.
        drift: what others had changed, in a sentence; empty where nothing.
    """

    refusal: Refusal | None = None
    waits: bool = False
    drift: str = ""


class Writing:
    """Writes objects.

    Args:
        api: the cluster.
        ours: our mark.
        lying: what lies there.
    """

    def __init__(self, api: Api, ours: Ours, lying: Lying) -> None:
        self._api = api
        self._ours = ours
        self._lying = lying
        self._known: dict[tuple[Resource, str], tuple[str, str, Any]] = {}

    async def write(self, wanted: Wanted) -> Written:
        """Make an object be as wanted.

        Raises:
            ApiError: the server refuses it.
            Unavailable: it does not answer.
        """
        resource, name = wanted.resource, name_of(wanted.document)
        namespace = self._ours.namespace if resource.namespaced else None
        identity = digest(wanted.document)
        lying = self._lying.get(resource, name)
        known = self._known.get((resource, name))
        if lying is None:
            stranger = await self._api.get(resource, namespace, name)
            if stranger is not None and not self._ours.owns(stranger):
                return Written(_owned_by_others(resource, name, stranger))
            lying = stranger
        if lying is not None:
            if lying["metadata"].get("deletionTimestamp"):
                return Written(waits=True)
            if resource in _MADE_ONCE or (
                known == (identity, lying["metadata"]["uid"], _mark(lying))
                and _marked(wanted.document, lying)
            ):
                return Written()
        document = _stamped(wanted.document, identity, lying)
        result = await self._api.apply(resource, namespace, document)
        self._lying.learn(resource, result)
        self._known[resource, name] = (identity, result["metadata"]["uid"], _mark(result))
        return Written(drift=self._drift(resource, document, identity, lying, known, result))

    def forget(self, resource: Resource, name: str) -> None:
        """We ended it ourselves: that it is gone is no drift."""
        self._known.pop((resource, name), None)

    def _drift(
        self,
        resource: Resource,
        document: Object,
        identity: str,
        before: Object | None,
        known: tuple[str, str, Any] | None,
        after: Object,
    ) -> str:
        """What others had changed: only where we want what we wanted before."""
        what = f"{resource.kind} {name_of(document)}"
        if before is None:
            return f"{what} was deleted by others and made again" if known and known[0] == identity else ""
        if annotations_of(before).get(SPEC) != identity and (known is None or known[0] != identity):
            return ""
        if before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion"):
            return ""
        fields = _differing(document, before)
        if not fields:
            return ""
        return f"{what}: {', '.join(fields[:_MOST_FIELDS])} was changed by others and set right"


def _owned_by_others(resource: Resource, name: str, stranger: Object) -> Refusal:
    holders = sorted(
        {str(entry.get("manager")) for entry in stranger["metadata"].get("managedFields") or () if entry}
    )
    of = f" by {', '.join(holders)}" if holders else ""
    return Refusal("OwnedByOthers", f"{resource.kind} {name} is there already, made{of}; it is left alone")


def _stamped(document: Object, identity: str, lying: Object | None) -> Object:
    """The document with its identity; of an object that is there only that very one is meant."""
    metadata = {
        **document["metadata"],
        "annotations": {**annotations_of(document), SPEC: identity},
        **({"uid": lying["metadata"]["uid"]} if lying else {}),
    }
    return {**document, "metadata": metadata}


def _mark(document: Object) -> Any:
    """What changes when somebody changes what an object should be: its generation where it has one."""
    metadata = document["metadata"]
    return metadata.get("generation") or metadata.get("resourceVersion")


def _marked(wanted: Object, lying: Object) -> bool:
    """Whether labels and annotations, which a generation says nothing of, are as wanted."""
    labels, annotations = labels_of(lying), annotations_of(lying)
    return all(labels.get(name) == value for name, value in labels_of(wanted).items()) and all(
        annotations.get(name) == value for name, value in annotations_of(wanted).items()
    )


def _differing(wanted: Any, lying: Any, path: str = "") -> list[str]:
    """The fields that are not as wanted; quantities are written in many ways, so what looks alike is not told."""
    if isinstance(wanted, dict):
        if not isinstance(lying, dict):
            return [path]
        return [
            field
            for name, value in wanted.items()
            for field in _differing(value, lying.get(name), f"{path}.{name}" if path else name)
        ]
    if isinstance(wanted, list):
        if not isinstance(lying, list) or len(wanted) > len(lying):
            return [path]
        if wanted and isinstance(wanted[0], dict) and "name" in wanted[0]:
            named = {one.get("name"): one for one in lying if isinstance(one, dict)}
            return [
                field
                for one in wanted
                for field in _differing(one, named.get(one["name"]), f"{path}[{one['name']}]")
            ]
        return [
            field
            for number, one in enumerate(wanted)
            for field in _differing(one, lying[number], f"{path}[{number}]")
        ]
    return [] if wanted == lying or wanted in ("", None) else [path]
