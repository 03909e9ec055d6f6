"""The quick way to read a sample says what the ordinary way says, or leaves it to that."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidDocument
from schemas.event import Event, event, read_event
from schemas.node import Measurement
from schemas.sample import Sample, read_sample

_ORDINARY: dict[str, Any] = json.loads(
    event(Measurement(node="n1", interval=5, values={"load.1m": 0.5}), "/home/n1", "n1").to_json()
)
_ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(
        ["1.0", "n1", "N 1", "5", "2026-01-02T03:04:05Z", "2026-01-02", "application/json", 1e300]
    ),
    st.dictionaries(st.text(max_size=4), st.one_of(st.floats(), st.text(max_size=2)), max_size=2),
)
_PATHS = [(name,) for name in (*_ORDINARY, "more")] + [
    ("data", name) for name in ("node", "interval", "values", "more")
]


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """An ordinary sample in which some fields are something else, or are not there, or are new."""
    document = json.loads(json.dumps(_ORDINARY))
    for path in draw(st.lists(st.sampled_from(_PATHS), max_size=3)):
        inner = document
        for name in path[:-1]:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            continue
        if draw(st.booleans()):
            inner.pop(path[-1], None)
        else:
            inner[path[-1]] = draw(_ANY)
    return json.dumps(document).encode()


def _read(payload: bytes) -> Event[Measurement] | None:
    try:
        return read_event(payload, Measurement)
    except InvalidDocument:
        return None


@given(payloads())
def test_what_is_read_quickly_is_what_is_read_the_ordinary_way(payload: bytes) -> None:
    quick = read_sample(payload)
    if quick is None:
        return
    ordinary = _read(payload)
    assert ordinary is not None, payload
    data = ordinary.data
    expected = Sample(data.node, data.interval, data.values, ordinary.time)
    assert repr(quick) == repr(expected)  # by their words, since one NaN is not another


def test_an_ordinary_sample_is_read_quickly_also_with_fields_that_a_newer_agent_adds() -> None:
    newer = {**_ORDINARY, "traceparent": "00-1", "data": {**_ORDINARY["data"], "probes": ["a"]}}
    for document in (_ORDINARY, newer):
        assert read_sample(json.dumps(document).encode()) is not None


def test_a_bare_document_and_noise_are_left_to_the_ordinary_way() -> None:
    for payload in (json.dumps(_ORDINARY["data"]).encode(), b"", b"\xff", b"[]", b"{}"):
        assert read_sample(payload) is None
