"""The contract as a reference for people: the prose of ``contract.template.md`` around generated tables.

Each ``{{name}}`` in the template is a function here, which reads the models, the table of channels,
the streams or the errors; so no table can say anything but what the code does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from bus.consume import Retry
from bus.streams import Stream, stream_of
from schemas.attributes import ATTRIBUTES, FAMILIES, Attribute
from schemas.channels import CHANNELS, VERBS, Channel
from schemas.decision import FINAL_STATES, SETTLED_STATES
from schemas.deployment import DeploymentRequest
from schemas.errors import Conflict, InvalidDocument, MinicloudError
from schemas.event import Event
from schemas.jsonschema import attribute_docs, definitions, summary
from schemas.names import TOKEN_PATTERN, Subjects, topic
from schemas.node import Presence
from schemas.predicate import Op
from schemas.quantities import format_bytes
from services.vim.enforce import enforcements

_TEMPLATE: Final = Path(__file__).parent / "contract.template.md"
_MEAN: Final = ".mean."

#: A request that says everything, but for what excludes each other.
REQUEST: Final[dict[str, Any]] = {
    "name": "hello",
    "labels": {"app": "web"},
    "runtimes": ["unikernel", "container", "process"],
    "images": {
        "unikernel": {"kernel": "./hello.elf"},
        "container": {"image": "registry.local/hello:1"},
        "process": {"command": ["python3", "-m", "http.server", "8080"]},
    },
    "resources": {"cpu": "250m", "memory": "64MiB"},
    "ports": [{"name": "http", "port": 8080}],
    "env": {"GREETING": "hello"},
    "files": [{"path": "motd", "content": "hello"}],
    "replicas": 2,
    "where": {"region.city": "Athens", "gpu": True},
    "prefer": [{"load.5m": "asc"}],
    "spread": {"over": "rack"},
    "apart": [{"labels": {"app": "db"}}, {"itself": True, "over": "rack"}],
    "together": [{"deployment": "cache", "over": "region.city"}],
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "health": {"http": "/", "every": "5s"},
    "restart": "always",
    "onLoss": {"replaceAfter": "30s"},
    "user": "root",
    "priority": 10,
    "preempt": "lower",
    "paused": True,
}

#: The same question as a document and in the short form.
QUERIES: Final[tuple[tuple[str, dict[str, Any], str], ...]] = (
    (
        "a range, an exact word, a feature",
        {"cpu.arch": "x86_64", "memory.available": {"$gte": "4GiB"}, "gpu": True},
        "cpu.arch=x86_64,memory.available>=4GiB,gpu",
    ),
    (
        "one of several, and none of a feature",
        {"region.city": {"$in": ["Athens", "Pisa"]}, "battery": False},
        "region.city in (Athens,Pisa),!battery",
    ),
    (
        "not these",
        {"rack": {"$nin": ["r1", "r2"]}, "os.name": {"$ne": "Debian"}},
        "rack notin (r1,r2),os.name!=Debian",
    ),
    ("a version", {"software.python3": {"$gte": "3.11"}}, "software.python3>=3.11"),
    ("a member of a set", {"runtimes": "unikernel", "gpu.name": "T4"}, "runtimes=unikernel,gpu.name=T4"),
    ("whether it is known at all", {"temperature": {"$exists": True}}, "temperature"),
    ("between", {"load.5m": {"$gt": 0.5, "$lt": 1.5}}, "load.5m>0.5,load.5m<1.5"),
)

#: What the request above leaves out, since it excludes something there or is not served yet.
_ALTERNATIVES: Final[tuple[dict[str, Any], ...]] = (
    {"spread": None, "pack": True},
    {"data": [{"bucket": "photos"}]},
)
_BY_ITS_SUBJECT: Final = {
    "id": "the subject: a request speaks for the deployment that its subject names",
    "name": "the subject, where no id is given",
}


def contract() -> str:
    """The whole document."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: _PARTS[found[1]](), _TEMPLATE.read_text(encoding="utf-8"))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(list(head)), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# -- names -------------------------------------------------------------------------------------------


def _channels() -> str:
    return _table(
        ["subject", "event", "who publishes", "who acts on it", "kept"],
        (
            [
                f"`{channel.address.replace('{', '<').replace('}', '>')}`",
                f"`{channel.data.event_type}`" if channel.data else "plain JSON",
                ", ".join(channel.senders),
                ", ".join(channel.hearers) or "whoever reads",
                _kept(channel),
            ]
            for channel in CHANNELS
        ),
    )


def _kept(channel: Channel) -> str:
    try:
        kept = list(_limits(stream_of(channel.subject(Subjects("*")))))
    except Conflict:
        kept = []
    kept += ["retained on MQTT"] if channel.retained else []
    return ", ".join(kept) or "not kept"


def _limits(stream: Stream) -> Iterable[str]:
    if stream.last:
        yield "the last value" if stream.last == 1 else f"the last {stream.last} a subject"
    if stream.max_age:
        yield _age(stream.max_age)
    yield f"at most {format_bytes(stream.max_bytes)} in all"


def _age(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length and seconds % length == 0:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError


def _verbs() -> str:
    return _table(
        ["subject", "asks", "answers", "what for"],
        (
            [
                f"`{verb.address.replace('{', '<').replace('}', '>')}`",
                f"`{verb.asks.__name__}`",
                f"`{verb.answers.__name__}`" if verb.answers else "a flat document",
                verb.meaning,
            ]
            for verb in VERBS
        ),
    )


def _topic_example() -> str:
    subject = Subjects("home").metrics("pi-3")
    return f"`{subject}` is `{topic(subject)}`"


# -- envelope ----------------------------------------------------------------------------------------


def _envelope() -> str:
    moment = datetime(2026, 5, 4, 9, 30, 0, 125000, tzinfo=UTC)
    data = Presence(node="pi-3", state="online", reason="started", session="5f0c", since=moment)
    whole = Event[Presence](
        id="0b9f6bd2c4a84d0f8a6f3c1e7d5b2a90",
        source="/home/node/pi-3",
        type=Presence.event_type,
        subject="pi-3",
        time=moment,
        data=data,
    )
    return _json(json.loads(whole.to_json()))


def _json(document: Any) -> str:
    return f"```json\n{json.dumps(document, indent=2)}\n```"


# -- delivery ----------------------------------------------------------------------------------------


def _retry() -> str:
    retry = Retry()
    return (
        f"{retry.tries} tries, the first pause {retry.first:g} s, each later one twice as long,"
        f" at most {retry.longest:g} s"
    )


# -- deployments -------------------------------------------------------------------------------------


def _states(states: Iterable[str]) -> str:
    return ", ".join(f"`{state}`" for state in sorted(states))


def _request_table() -> str:
    held = _held()
    shared = definitions("{model}")
    rows = list(_fields(DeploymentRequest, shared, "", held, None))
    return _table(["field", "type", "default", "what it says", "what enforces it"], rows)


def _held() -> dict[str, str]:
    """What vim says enforces each field, or why it refuses it."""
    held = dict(_BY_ITS_SUBJECT)
    for other in ({}, *_ALTERNATIVES):
        try:
            entries = enforcements(DeploymentRequest.model_validate(REQUEST | other))
        except InvalidDocument as refused:
            held[str(refused.field)] = f"rejected: {refused.message}"
        else:
            held |= {entry.field: entry.by for entry in entries if entry.field not in held}
    return held


def _fields(
    kind: type[BaseModel], shared: dict[str, Any], prefix: str, held: dict[str, str], inherited: str | None
) -> Iterable[list[str]]:
    told = attribute_docs(kind)
    properties, required = shared[kind.__name__]["properties"], shared[kind.__name__].get("required", [])
    for attribute, info in kind.model_fields.items():
        name = info.alias or attribute
        path = f"{prefix}{name}"
        schema = properties[name]
        parts = {reference for reference in _references(schema) if reference in shared}
        by = _enforcer(path, held) or inherited
        yield [
            f"`{path}`",
            _type(schema, shared),
            "**required**" if name in required else _default(schema),
            told.get(attribute, ""),
            by or "",
        ]
        for part in sorted(parts):
            inner = f"{path}[]." if schema.get("type") == "array" else f"{path}."
            yield from _fields(_KINDS[part], shared, inner, held, by)


def _enforcer(path: str, held: dict[str, str]) -> str | None:
    if path in held:
        return held[path]
    below = {field.removeprefix(f"{path}."): by for field, by in held.items() if field.startswith(f"{path}.")}
    first = next(iter(below), None)
    if first is None:
        return None
    return below[first] if first.isdigit() else f"each by itself: {', '.join(below)}"


def _parts_of(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {kind.__name__: kind}
    for info in kind.model_fields.values():
        for part in _models_in(info.annotation):
            if part.__name__ not in found:
                found.update(_parts_of(part))
    return found


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


_KINDS: Final = _parts_of(DeploymentRequest)


def _references(schema: dict[str, Any]) -> set[str]:
    return set(re.findall(r'"\$ref": "(\w+)"', json.dumps(schema)))


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    if default is None:
        return "none"
    return f"`{json.dumps(default)}`" if not isinstance(default, dict) or not default else "as below"


def _type(schema: dict[str, Any], shared: dict[str, Any]) -> str:
    """A JSON Schema in the words of people."""
    if "$ref" in schema:
        return "object"
    if "anyOf" in schema:
        kinds = [_type(part, shared) for part in schema["anyOf"] if part.get("type") != "null"]
        if schema.get("examples") or any(part.get("examples") for part in schema["anyOf"]):
            return _quantity(schema)
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
            least = f", at least {schema['minItems']}" if schema.get("minItems") else ""
            return f"list of {_type(schema['items'], shared)}{least}{most}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"map to {_type(inner, shared)}" if isinstance(inner, dict) and inner else "map"
        case "integer" | "number" as kind:
            return f"{kind}{_range(schema)}"
        case "string" if schema.get("pattern") == TOKEN_PATTERN:
            return "token"
        case "string":
            return "text"
        case "boolean":
            return "true or false"
    return "anything"


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None and high is None:
        return ""
    return f", {low} to {high}" if high is not None else f", at least {low}"


def _quantity(schema: dict[str, Any]) -> str:
    quantity = schema if schema.get("examples") else next(p for p in schema["anyOf"] if p.get("examples"))
    return f"{quantity['format']}, such as `{quantity['examples'][0]}`"


# -- attributes and queries --------------------------------------------------------------------------


def _attributes() -> str:
    foreseen = [about for name, about in ATTRIBUTES.items() if _MEAN not in name]
    return _table(
        ["name", "kind", "unit", "changes", "what it is"],
        (
            [f"`{a.name}`", a.kind, a.unit or "", _changes(a), a.meaning]
            for a in [*foreseen, *FAMILIES.values()]
        ),
    )


def _changes(attribute: Attribute) -> str:
    return "always" if attribute.dynamic else "rarely"


def _windows() -> str:
    names = [name.partition(_MEAN)[2] for name in ATTRIBUTES if _MEAN in name]
    return ", ".join(f"`{_MEAN}{window}`" for window in dict.fromkeys(names))


def _operators() -> str:
    return ", ".join(f"`${op}`" for op in Op.__args__)  # type: ignore[attr-defined]


def _queries() -> str:
    return _table(
        ["asked", "as a document", "in the short form"],
        ([title, f"`{json.dumps(where)}`", f"`{short}`"] for title, where, short in QUERIES),
    )


# -- errors ------------------------------------------------------------------------------------------


def error_kinds(kind: type[MinicloudError] = MinicloudError) -> Iterable[type[MinicloudError]]:
    """The error tree, each before its children; a service's own errors never travel."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == MinicloudError.__module__:
            yield from error_kinds(child)


def _errors() -> str:
    return _table(
        ["code", "HTTP", "is a", "when"],
        (
            [
                f"`{kind.code}`",
                str(kind.status),
                f"`{kind.__base__.code}`" if issubclass(kind.__base__ or object, MinicloudError) else "",  # type: ignore[union-attr]
                summary(kind),
            ]
            for kind in error_kinds()
        ),
    )


_PARTS: Final[dict[str, Callable[[], str]]] = {
    "channels": _channels,
    "verbs": _verbs,
    "topic": _topic_example,
    "envelope": _envelope,
    "retry": _retry,
    "final": lambda: _states(FINAL_STATES),
    "settled": lambda: _states(SETTLED_STATES),
    "request": lambda: _json(REQUEST),
    "request_table": _request_table,
    "attributes": _attributes,
    "windows": _windows,
    "operators": _operators,
    "queries": _queries,
    "errors": _errors,
}
