"""Our envelope against the CloudEvents project's own library, both ways."""

from __future__ import annotations

import json

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidDocument
from schemas.event import EventData, event, read_event
from schemas.node import Presence
from services.charagent import event as agent
from tests.schemas.examples import DATA, WHEN, sent

FORMAT = JSONFormat()


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_the_library_reads_what_we_send(data: EventData) -> None:
    ours = sent(data)
    theirs = FORMAT.read(CloudEvent, ours.to_json())
    assert theirs.get_specversion() == "1.0"
    assert theirs.get_id() == ours.id
    assert theirs.get_source() == ours.source
    assert theirs.get_type() == data.event_type
    assert theirs.get_subject() == ours.subject
    assert theirs.get_time() == ours.time
    assert theirs.get_datacontenttype() == "application/json"
    assert theirs.get_data() == json.loads(data.model_dump_json(by_alias=True))


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_we_read_what_the_library_sends(data: EventData) -> None:
    theirs = CloudEvent(
        {
            "id": "their-id",
            "source": "/elsewhere",
            "type": data.event_type,
            "specversion": "1.0",
            "subject": "pi-3",
            "time": WHEN,
            "datacontenttype": "application/json",
            "traceparent": "00-1-2-01",
        },
        json.loads(data.model_dump_json(by_alias=True)),
    )
    ours = read_event(FORMAT.write(theirs), type(data))
    assert (ours.id, ours.source, ours.type, ours.subject, ours.time) == (
        "their-id",
        "/elsewhere",
        data.event_type,
        "pi-3",
        WHEN,
    )
    assert ours.data == data
    # An extension is kept, and travels on.
    assert json.loads(ours.to_json())["traceparent"] == "00-1-2-01"


def test_the_library_reads_an_event_about_nobody() -> None:
    ours = event(Presence(node="a", state="online", reason="r", session="s", since=WHEN), "/home/tests")
    assert FORMAT.read(CloudEvent, ours.to_json()).get_subject() is None


def test_the_library_reads_what_the_agent_sends() -> None:
    theirs = FORMAT.read(CloudEvent, agent.envelope(agent.MEASURED, "home", "pi-3", {"a": 1}))
    assert (theirs.get_source(), theirs.get_subject()) == ("/home/node/pi-3", "pi-3")
    assert theirs.get_data() == {"a": 1}


@given(
    st.dictionaries(st.sampled_from(["id", "source", "type", "specversion"]), st.sampled_from(["", None, 1]))
)
def test_where_we_refuse_a_required_attribute_so_does_the_library(broken: dict[str, object]) -> None:
    whole = json.loads(sent(DATA[2]).to_json()) | broken
    try:
        read_event(json.dumps(whole).encode(), Presence)
    except InvalidDocument:
        with pytest.raises(Exception):  # noqa: B017 - the library raises groups of its own
            FORMAT.read(CloudEvent, json.dumps(whole))
