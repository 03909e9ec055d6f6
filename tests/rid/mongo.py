"""MongoDB as a third engine: nodes as documents, a predicate as a filter, an order as a pipeline.

The oracle of the property tests and a peer in the benchmark. MongoDB's own comparisons decide; only what
it has no notion of is prepared when a node is written: versions and whole-number labels as what they
sort by, and an attribute's dots as colons, since a dot is a path there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo.collection import Collection

from schemas.attributes import Value, kind_of
from schemas.predicate import Condition, Every, Predicate, Some, whole_number
from schemas.version import version_key
from services.rid.index import Selection

Document = dict[str, Any]


def document(name: str, attributes: Mapping[str, Value]) -> Document:
    """A node as MongoDB keeps it."""
    made: Document = {"_id": name, "has": {}, "by": {}}
    for attribute, value in {**attributes, "name": name}.items():
        made["has"][_key(attribute)] = value
        made["by"].update({_key(attribute): sortable(attribute, value)})
        if attribute.startswith("label.") and (number := whole_number(str(value))) is not None:
            made.setdefault("whole", {})[_key(attribute)] = number
    return made


class MongoIndex:
    """As much of :class:`services.rid.index.Index` as the property tests ask of an engine."""

    def __init__(self, nodes: Collection[Document]) -> None:
        self._nodes = nodes
        self._nodes.delete_many({})

    def put(self, node: str, attributes: Mapping[str, Value]) -> None:
        self._nodes.replace_one({"_id": node}, document(node, attributes), upsert=True)

    def update(self, node: str, changes: Mapping[str, Value | None]) -> None:
        after: dict[str, Any] = {**(self.get(node) or {}), **changes}
        self.put(node, {name: value for name, value in after.items() if value is not None})

    def remove(self, node: str) -> None:
        self._nodes.delete_one({"_id": node})

    def get(self, node: str) -> dict[str, Value] | None:
        found = self._nodes.find_one({"_id": node})
        return None if found is None else {_name(key): value for key, value in found["has"].items()}

    def select(self, predicate: Predicate, **how: Any) -> Selection:
        return select(self._nodes, predicate, **how)

    def attributes(self) -> dict[str, int]:
        return dict(Counter(_name(key) for node in self._nodes.find() for key in node["has"]))


def filter_of(predicate: Predicate) -> Document:
    """The filter that means the same; absence matches ``$ne`` and ``$nin`` there, so it is excluded."""
    match predicate:
        case Every(parts):
            return {"$and": [filter_of(part) for part in parts]} if parts else {}
        case Some(parts):
            return {"$or": [filter_of(part) for part in parts]} if parts else {"_id": {"$in": []}}
        case Condition(attribute, kind, op, value):
            where = f"has.{_key(attribute)}"
            if op == "exists":
                return {where: {"$exists": value}}
            if kind == "version":
                where = f"by.{_key(attribute)}"
                listed = isinstance(value, tuple)
                value = [sortable(attribute, one) for one in value] if listed else sortable(attribute, value)
            elif kind == "string" and op in ("lt", "lte", "gt", "gte"):
                where = f"whole.{_key(attribute)}"
            operand = list(value) if op in ("in", "nin") else value
            known = {"$exists": True} if op in ("ne", "nin") else {}
            return {where: {f"${op}": operand, **known}}


def select(
    nodes: Collection[Document],
    predicate: Predicate,
    *,
    order: Sequence[tuple[str, bool]] = (),
    limit: int | None = None,
    fields: Iterable[str] | None = None,
) -> Selection:
    """What :meth:`services.rid.index.Index.select` finds, found by MongoDB."""
    asked = filter_of(predicate)
    total = nodes.count_documents(asked)
    once: dict[str, bool] = {}
    for name, descending in order:
        once.setdefault(name, descending)
    # MongoDB sorts what is absent first; here it comes last either way.
    absent = {
        f"absent{at}": {"$cond": [{"$gt": [f"$by.{_key(name)}", None]}, 0, 1]} for at, name in enumerate(once)
    }
    keys: dict[str, int] = {}
    for at, (name, descending) in enumerate(once.items()):
        keys[f"absent{at}"] = 1
        keys[f"by.{_key(name)}"] = -1 if descending else 1
    pipeline: list[Document] = [{"$match": asked}]
    if absent:
        pipeline.append({"$addFields": absent})
    pipeline.append({"$sort": {**keys, "_id": 1}})
    if limit is not None:
        pipeline.append({"$limit": limit})
    if fields is not None:
        pipeline.append({"$project": {f"has.{_key(name)}": 1 for name in ("name", *fields)}})
    found = [{_name(key): value for key, value in node["has"].items()} for node in nodes.aggregate(pipeline)]
    return Selection(found, total)


def sortable(attribute: str, value: Any) -> Any:
    """What MongoDB may compare: a version as text in the order of versions, a set as its text."""
    match kind_of(attribute):
        case "version":
            return "".join(f"{rank}{number:018}{text} " for rank, number, text in version_key(str(value)))
        case "set":
            return ",".join(value)
        case _:
            return value


def _key(attribute: str) -> str:
    return attribute.replace(".", ":")


def _name(key: str) -> str:
    return key.replace(":", ".")
