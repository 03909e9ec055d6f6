"""JSON Schemas (2020-12) of the models, for readers of any language.

In: the models of ``schemas/``. Out: one document a model, or the definitions that an AsyncAPI
document shares. What a class's docstring says of an attribute becomes that property's description.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from schemas.channels import CHANNELS, VERBS
from schemas.event import Event, EventData
from schemas.verbs import ErrorDocument

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
GENERATED: Final = "Generated from schemas/ by `make docs`; do not edit."

_SECTIONS: Final = re.compile(r"\n\s*(?:Attributes|Raises|Args|Returns):\n")
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def summary(kind: type) -> str:
    """What a class's docstring says before it turns to attributes, on one line."""
    return _prose(_SECTIONS.split(inspect.getdoc(kind) or "")[0])


def attribute_docs(kind: type) -> dict[str, str]:
    """What the ``Attributes:`` sections of a class and of those that it inherits from say, by name."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "") if issubclass(base, BaseModel) else ""
        _, _, section = text.partition("Attributes:\n")
        section = re.split(r"\n(?=\S)", section)[0]
        told.update({name: _prose(about) for name, about in _ATTRIBUTE.findall(section)})
    return told


def _prose(text: str) -> str:
    """A docstring's text on one line, its code marked as in Markdown."""
    return re.sub(r":\w+:`[.~]?([^`]+)`", r"`\1`", " ".join(text.split()).replace("``", "`"))


class Schemas(GenerateJsonSchema):
    """Pydantic's generator, with the descriptions of our docstrings and without titles that repeat a name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic asks it of each field
        """Never: a property has its name."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        """The schema of one model."""
        document = super().model_schema(schema)
        kind: type[BaseModel] = schema["cls"]
        if "description" in document:
            document["description"] = summary(kind)
        told = attribute_docs(kind)
        for name, info in kind.model_fields.items():
            document.get("properties", {}).get(info.alias or name, {}).update(
                {"description": told[name]} if name in told else {}
            )
        return document


def event_kinds() -> list[type[EventData]]:
    """What events carry, in the order of the table."""
    return list(dict.fromkeys(channel.data for channel in CHANNELS if channel.data is not None))


def document_kinds() -> list[type[BaseModel]]:
    """Everything that travels without an envelope, or may."""
    kinds: list[type[BaseModel]] = [
        channel.data for channel in CHANNELS if channel.data is not None and channel.bare
    ]
    for verb in VERBS:
        kinds += [verb.asks, *([verb.answers] if verb.answers else [])]
    return list(dict.fromkeys([*kinds, ErrorDocument]))


def enveloped(kind: type[EventData]) -> type[Event[Any]]:
    """The event that carries ``kind``."""
    return Event[kind]  # type: ignore[valid-type]


def definitions(template: str) -> dict[str, Any]:
    """Every schema by name, with references by ``template`` (``"#/components/schemas/{model}"``)."""
    models: list[type[BaseModel]] = [*map(enveloped, event_kinds()), *event_kinds(), *document_kinds()]
    _, whole = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template=template,
        schema_generator=Schemas,
    )
    named = {_plain(name): schema for name, schema in whole["$defs"].items()}
    for kind in event_kinds():
        _name_type(named[f"{kind.__name__}Event"], kind)
    return {name: _renamed(schema, template) for name, schema in named.items()}


def documents() -> dict[str, dict[str, Any]]:
    """Each schema whole, by the name of its file: an event by its type, a document by its name."""
    shared = definitions("#/$defs/{model}")
    whole = {kind.event_type: _alone(f"{kind.__name__}Event", shared) for kind in event_kinds()}
    return whole | {kind.__name__: _alone(kind.__name__, shared) for kind in document_kinds()}


def _alone(name: str, shared: dict[str, Any]) -> dict[str, Any]:
    needed = {one: shared[one] for one in sorted(_needed(name, shared))}
    return {
        "$schema": DIALECT,
        "$comment": GENERATED,
        "$id": f"urn:minicloud:schema:{name}",
        **shared[name],
        **({"$defs": needed} if needed else {}),
    }


def _needed(name: str, shared: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        for reference in _references(shared[left.pop()]):
            if reference not in found:
                found.add(reference)
                left.append(reference)
    return found


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rsplit("/", 1)[-1]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _name_type(schema: dict[str, Any], kind: type[EventData]) -> None:
    """An event of this kind has this type, and whoever sends it says all that CloudEvents asks for."""
    schema["title"] = f"{kind.__name__}Event"
    schema["description"] = f"The event that carries {kind.__name__}."
    schema["properties"]["type"] = {"const": kind.event_type, "type": "string"}
    schema["required"] = ["specversion", "id", "source", "type", "data"]


def _plain(name: str) -> str:
    """``Event_Presence_`` is what pydantic calls it; ``PresenceEvent`` is what people do."""
    inner = re.fullmatch(r"Event_(\w+)_", name)
    return f"{inner[1]}Event" if inner else name


def _renamed(schema: Any, template: str) -> Any:
    if isinstance(schema, dict):
        return {
            key: template.format(model=_plain(part.rsplit("/", 1)[-1]))
            if key == "$ref" and isinstance(part, str)
            else _renamed(part, template)
            for key, part in schema.items()
        }
    return [_renamed(part, template) for part in schema] if isinstance(schema, list) else schema
