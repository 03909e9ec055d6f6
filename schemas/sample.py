"""A node's sample, read without ceremony: for whoever reads tens of thousands of them a second.

In: the payload of a ``minicloud.node.measured.v1`` event. Out: what it says, checked as strictly as by
:func:`schemas.event.read_event`, at four fifths of its cost, since no models are made. What is not an ordinary sample
in its envelope is left to ``read_event``, which also says what is wrong with it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from schemas.names import Token


class Sample(NamedTuple):
    """What a node measured.

    Attributes:
        node: which.
        interval: seconds between its samples.
        values: numbers by name.
        time: when.
    """

    node: str
    interval: float
    values: dict[str, float]
    time: datetime


class _Data(TypedDict):
    node: Token
    interval: Annotated[float, Field(gt=0)]
    values: dict[str, float]


class _Envelope(TypedDict):
    specversion: NotRequired[Literal["1.0"]]
    id: NotRequired[Annotated[str, Field(min_length=1, max_length=256)]]
    source: Annotated[str, Field(min_length=1)]
    type: str
    subject: NotRequired[str | None]
    time: datetime
    datacontenttype: NotRequired[Literal["application/json"]]
    data: _Data


#: The validator itself: the adapter around it would cost a tenth more.
_READ: Final = TypeAdapter(_Envelope).validator.validate_json


def read_sample(payload: bytes) -> Sample | None:
    """The sample in ``payload``; None if it must be read the ordinary way."""
    try:
        envelope = _READ(payload)
    except ValidationError:
        return None
    data = envelope["data"]
    return Sample(data["node"], data["interval"], data["values"], envelope["time"])
