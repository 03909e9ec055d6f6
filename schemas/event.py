"""The envelope of every event: CloudEvents 1.0 in JSON structured mode, on NATS and MQTT alike.

``Event[Characterization]`` is read in one pass by pydantic's own JSON parser; a payload without
``specversion`` (a bare document by a small device or a ``mosquitto_pub``) is wrapped by
:func:`read_event` under an id made from its content, so that a repeat stays a repeat.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.errors import BrokenRule, InvalidDocument

Data = TypeVar("Data", bound="EventData")
_TOLD: Final = 20


class Document(BaseModel):
    """A document that people write: unknown fields are errors, since a typo must not pass."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, alias_generator=None)


class EventData(BaseModel):
    """What an event says. Unknown fields of a newer sender are kept and ignored."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    event_type: ClassVar[str] = ""


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A fresh event id: 32 hexadecimal digits of randomness."""
    return os.urandom(16).hex()


class Event(BaseModel, Generic[Data]):
    """A CloudEvents 1.0 event around typed ``data``."""

    model_config = ConfigDict(extra="allow")

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(default_factory=new_id, min_length=1, max_length=256)
    source: str = Field(min_length=1)
    type: str
    subject: str | None = None
    time: datetime = Field(default_factory=now)
    datacontenttype: Literal["application/json"] = "application/json"
    data: Data

    def to_json(self) -> bytes:
        """The event as it travels."""
        if self.subject is None:  # null means the same, but not to every reader of CloudEvents
            return self.model_dump_json(by_alias=True, exclude={"subject"}).encode()
        return self.model_dump_json(by_alias=True).encode()


def event(data: Data, source: str, subject: str | None = None, *, event_id: str | None = None) -> Event[Data]:
    """Wrap ``data`` into a fresh event of its own type.

    Args:
        data: what happened.
        source: who says so, ``/<minicloud>/<service or node>``.
        subject: whom it is about: a node, a deployment.
        event_id: a repeat of the same fact carries the same id, and the broker drops it.
    """
    return Event[type(data)](  # type: ignore[misc,operator,no-any-return]
        id=event_id or new_id(), source=source, type=data.event_type, subject=subject, data=data
    )


@cache
def _reader(kind: type[EventData]) -> TypeAdapter[Any]:
    return TypeAdapter(Event[kind])  # type: ignore[valid-type]


@cache
def _bare_reader(kind: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_event(payload: bytes, kind: type[Data], *, source: str = "/unknown") -> Event[Data]:
    """The event in ``payload``, whether enveloped or bare.

    Raises:
        InvalidDocument: with every problem found, by field.
    """
    try:
        return _reader(kind).validate_json(payload)  # type: ignore[no-any-return]
    except ValidationError as error:
        missing = {problem["loc"] for problem in _problems(error) if problem["type"] == "missing"}
        if {("source",), ("type",)} <= missing:  # no envelope at all
            return wrap(read_document(payload, kind), source, hashlib.sha256(payload).hexdigest())
        raise invalid(error, kind.__name__) from None


def wrap(data: Data, source: str, event_id: str) -> Event[Data]:
    """An event around a document that came without an envelope."""
    return event(data, source, event_id=event_id)


def read_document(payload: bytes | str | dict[str, Any], kind: type[Any]) -> Any:
    """A document of ``kind`` from JSON or from an already parsed mapping.

    Raises:
        InvalidDocument: with every problem found, by field.
    """
    reader = _bare_reader(kind)  # type: ignore[arg-type]
    try:
        return reader.validate_python(payload) if isinstance(payload, dict) else reader.validate_json(payload)
    except ValidationError as error:
        raise invalid(error, kind.__name__) from None


def invalid(error: ValidationError, what: str) -> InvalidDocument:
    """The readable error of a failed validation: each problem with its field and its cure."""
    problems = [_told(problem) for problem in _problems(error)]
    first = problems[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return InvalidDocument(
        f"{first['message']}{more}",
        field=first["field"] or what,
        expected=first["expected"],
        problems=problems,
    )


def _problems(error: ValidationError) -> list[Any]:
    """The first problems, envelope before data: noise may have one for each of its bytes."""
    return error.errors(include_url=False, include_input=False)[:_TOLD]


def _told(problem: Any) -> dict[str, str | None]:
    context = problem.get("ctx") or {}
    where = [str(part) for part in problem["loc"] if part != "[key]"]
    rule = context.get("error")
    if isinstance(rule, BrokenRule):
        where += [rule.field] if rule.field else []
        message, expected = rule.message, rule.expected
    else:
        message = problem["msg"].removeprefix("Value error, ")
        expected = str(context["expected"]) if "expected" in context else None
    if problem["type"] == "extra_forbidden":
        expected = "only fields of the schema"
    return {"field": ".".join(where) or None, "message": message, "expected": expected}
