"""Reading events: bare or enveloped, and whatever else arrives on a subject."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.contract import REQUEST
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.errors import InvalidDocument
from schemas.event import EventData, event, read_document, read_event
from schemas.node import Measurement, Presence
from tests.schemas.examples import DATA, WHEN, sent

PRESENCE = Presence(node="pi-3", state="online", reason="r", session="s", since=WHEN)
WHOLE = json.loads(sent(PRESENCE).to_json())
KINDS = [type(data) for data in DATA]


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_an_event_survives_the_road(data: EventData) -> None:
    whole = sent(data)
    assert read_event(whole.to_json(), type(data)) == whole


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_a_bare_document_is_wrapped_under_an_id_of_its_content(data: EventData) -> None:
    payload = data.model_dump_json(by_alias=True).encode()
    one, again = (read_event(payload, type(data), source="/home/somebody") for _ in range(2))
    other = read_event(payload + b" ", type(data))
    assert one.data == data
    assert (one.type, one.source) == (data.event_type, "/home/somebody")
    assert one.id == again.id != other.id


def test_every_event_has_an_id_of_its_own() -> None:
    assert len({event(PRESENCE, "/a").id for _ in range(1000)}) == 1000
    assert event(PRESENCE, "/a", event_id="same").id == "same"


def test_what_a_newer_sender_adds_is_kept() -> None:
    more = {**WHOLE, "traceparent": "00-1", "data": {**WHOLE["data"], "mood": {"is": "good"}}}
    again = json.loads(read_event(json.dumps(more).encode(), Presence).to_json())
    assert (again["traceparent"], again["data"]["mood"]) == ("00-1", {"is": "good"})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source": ...}, "source"),
        ({"source": ""}, "source"),
        ({"type": ...}, "type"),
        ({"data": ...}, "data"),
        ({"data": None}, "data"),
        ({"data": []}, "data"),
        ({"id": ""}, "id"),
        ({"id": "x" * 257}, "id"),
        ({"id": 7}, "id"),
        ({"specversion": "0.3"}, "specversion"),
        ({"time": "yesterday"}, "time"),
        ({"subject": 7}, "subject"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
    ],
)
def test_a_broken_envelope_is_named_by_its_field(changes: dict[str, Any], field: str) -> None:
    whole = {name: value for name, value in (WHOLE | changes).items() if value is not ...}
    with pytest.raises(InvalidDocument) as refused:
        read_event(json.dumps(whole).encode(), Presence)
    assert refused.value.field == field


def test_a_problem_inside_is_named_by_its_path() -> None:
    with pytest.raises(InvalidDocument) as refused:
        read_event(json.dumps({**WHOLE, "data": {**WHOLE["data"], "state": "away"}}).encode(), Presence)
    assert refused.value.field == "data.state"
    assert refused.value.expected == "'online' or 'offline'"


def test_a_bare_request_with_data_and_an_id_is_a_request() -> None:
    bare = {**REQUEST, "id": "hello", "data": [{"bucket": "photos"}]}
    assert read_event(json.dumps(bare).encode(), DeploymentRequest).data.data[0].bucket == "photos"


def test_a_typo_in_a_bare_request_names_the_request_and_not_the_envelope() -> None:
    with pytest.raises(InvalidDocument) as refused:
        read_event(json.dumps({**REQUEST, "replcas": 2}).encode(), DeploymentRequest)
    assert [problem["field"] for problem in refused.value.problems] == ["replcas"]


NOISE = {
    "nothing": b"",
    "space": b" \n",
    "null": b"null",
    "a number": b"1",
    "a list": b"[]",
    "an empty object": b"{}",
    "text": b"hello",
    "cut off": b'{"specversion": "1.0", "id"',
    "two documents": b"{} {}",
    "all bytes": bytes(range(256)),
    "not UTF-8": b'{"node": "\xff\xfe"}',
    "half a surrogate": b'{"reason": "\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": json.dumps(WHOLE).encode("utf-16"),
    "a megabyte of zeros": bytes(1 << 20),
    "a megabyte of brackets": b"[" * (1 << 20),
    "a megabyte of braces": b'{"a":' * (1 << 18),
    "deep": b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many problems": json.dumps({f"f{n}": n for n in range(50_000)}).encode(),
    "a long integer": b'{"specversion": "1.0", "data": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_is_refused_with_a_reason_that_a_person_reads(noise: bytes) -> None:
    for kind in KINDS:
        if kind in (Cancellation, Migration) and noise == b"{}":
            assert read_event(noise, kind).data == kind()  # it has nothing that must be said
            continue
        with pytest.raises(InvalidDocument) as refused:
            read_event(noise, kind)
        assert len(json.dumps(refused.value.document())) < 40_000


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(payload: bytes) -> None:
    for kind in (Presence, DeploymentRequest):
        with pytest.raises(InvalidDocument):
            read_event(payload, kind)


def test_of_a_key_said_twice_the_last_counts_as_in_every_json_reader() -> None:
    twice = json.dumps(WHOLE).encode()[:-1] + b', "id": "last"}'
    assert read_event(twice, Presence).id == "last" == json.loads(twice)["id"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_value_that_is_no_number_spoils_nothing_else(number: str) -> None:
    bare = f'{{"node": "a", "interval": 1, "values": {{"load.1m": {number}, "load.5m": 1.5}}}}'
    read = read_event(bare.encode(), Measurement)
    assert read.data.values["load.5m"] == 1.5
    assert b"NaN" not in read.to_json()
    assert b"Infinity" not in read.to_json()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 500])
def test_a_quantity_that_is_no_number_is_refused(number: str) -> None:
    bare = json.dumps(REQUEST).replace('"64MiB"', number)
    with pytest.raises(InvalidDocument) as refused:
        read_event(bare.encode(), DeploymentRequest)
    assert refused.value.field == "resources.memory"


def test_a_document_is_read_from_a_mapping_as_from_its_json() -> None:
    assert read_document(REQUEST, DeploymentRequest) == read_document(json.dumps(REQUEST), DeploymentRequest)
