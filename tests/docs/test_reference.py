"""The generated reference: it is what the code does, others can read it, and it is not stale."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator

from bus.permissions import ROLES, Permissions, Role, permissions
from docs import contract
from docs.generate import REFERENCE, files, write
from schemas.attributes import ATTRIBUTES
from schemas.channels import CHANNELS, PARTIES, VERBS, Channel, Party
from schemas.decision import DeploymentState
from schemas.deployment import DeploymentRequest
from schemas.errors import _BY_CODE, InvalidDocument, InvalidName, MinicloudError
from schemas.event import EventData, read_document, read_event
from schemas.jsonschema import document_kinds, documents, event_kinds
from schemas.names import Subjects, topic
from schemas.predicate import Predicate
from schemas.query import Query
from schemas.where import parse_where
from services.charagent import event as agent
from tests.parts.npm import AsyncApiParser
from tests.schemas.examples import DATA, sent

SCHEMAS = documents()
TEXT = contract.contract()
KINDS = {type(data).__name__: data for data in DATA}


def _validator(name: str) -> Draft202012Validator:
    Draft202012Validator.check_schema(SCHEMAS[name])
    return Draft202012Validator(SCHEMAS[name], format_checker=Draft202012Validator.FORMAT_CHECKER)


# -- what is committed ---------------------------------------------------------------------------


def test_the_committed_reference_is_what_is_generated_now() -> None:
    committed = {
        str(path.relative_to(REFERENCE)): path.read_text() for path in REFERENCE.rglob("*") if path.is_file()
    }
    wanted = files()
    stale = sorted(name for name in {*committed, *wanted} if committed.get(name) != wanted.get(name))
    assert not stale, f"stale: {stale}; `make docs` writes them anew"


def test_the_same_is_generated_everywhere(tmp_path: Path) -> None:
    """Whatever else is imported, and in whatever order sets are walked."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-m", "docs.generate", str(tmp_path)]
    subprocess.run(command, env=environment, cwd=REFERENCE.parents[1], check=True, timeout=60)
    assert {name: (tmp_path / name).read_text() for name in files()} == files()


def test_what_is_no_longer_generated_is_removed(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "Old.json").write_text("{}")
    write(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(files())


def test_every_file_says_at_its_top_that_it_is_generated() -> None:
    for name, text in files().items():
        assert "do not edit" in text[:200], name


# -- AsyncAPI ------------------------------------------------------------------------------------


def test_the_parser_of_the_asyncapi_project_finds_nothing_wrong(asyncapi_parser: AsyncApiParser) -> None:
    problems = asyncapi_parser.problems(REFERENCE / "asyncapi.yaml")
    # 3.0.0 is what tools read today; that 3.1.0 exists is no fault of the document.
    assert [problem for problem in problems if problem["code"] != "asyncapi-latest-version"] == []


def test_the_parser_would_find_what_is_wrong(asyncapi_parser: AsyncApiParser, tmp_path: Path) -> None:
    document = yaml.safe_load((REFERENCE / "asyncapi.yaml").read_text())
    document["operations"]["agent.send.metrics"]["channel"]["$ref"] = "#/channels/nowhere"
    broken = tmp_path / "asyncapi.yaml"
    broken.write_text(yaml.safe_dump(document))
    assert any(problem["severity"] == 0 for problem in asyncapi_parser.problems(broken))


def test_every_subject_and_verb_is_a_channel_with_its_parties() -> None:
    document = yaml.safe_load((REFERENCE / "asyncapi.yaml").read_text())
    addresses = {channel["address"] for channel in document["channels"].values()} - {None}
    assert addresses == {entry.address for entry in (*CHANNELS, *VERBS)}
    for name, operation in document["operations"].items():
        party, verb, _ = name.split(".", 2)
        assert operation["tags"] == [{"name": party}]
        assert operation["action"] == {"send": "send", "ask": "send"}.get(verb, "receive")


# -- the table against the code ------------------------------------------------------------------


def test_every_method_of_the_subjects_has_its_row() -> None:
    methods = {name for name in vars(Subjects) if not name.startswith("_")} - {"service"}
    assert {channel.subject.__name__ for channel in CHANNELS} == methods


def test_every_event_has_an_example_and_every_row_its_event() -> None:
    assert {kind.__name__ for kind in event_kinds()} == set(KINDS)
    ours = {kind for kind in _subclasses(EventData) if kind.__module__.startswith("schemas.")}
    assert ours == set(event_kinds())
    assert len({kind.event_type for kind in event_kinds()}) == len(event_kinds())


def _subclasses(kind: type[EventData]) -> list[type[EventData]]:
    return [sub for child in kind.__subclasses__() for sub in (child, *_subclasses(child)) if sub.event_type]


def _allowed(entries: tuple[str, ...], denied: tuple[str, ...], subject: str) -> bool:
    return any(_covers(entry, subject) for entry in entries) and not any(
        _covers(entry, subject) for entry in denied
    )


def _covers(pattern: str, subject: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
    return re.fullmatch(expression, subject) is not None


def _own_subject(channel: Channel, name: str, role: str = "") -> str:
    """A subject of this kind on which a principal called ``name`` would speak."""
    service = role if role == "cluster" else "worker"
    return channel.subject(
        Subjects("home"), **{one: service if one == "service" else name for one in channel.parameters[1:]}
    )


def _roles(parties: tuple[Party, ...]) -> set[str]:
    return {"service" if party in ("rid", "vim", "monitor") else party for party in parties} | {
        "admin",
        "service",
    }


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_the_broker_lets_exactly_those_send_and_hear_that_the_table_names(channel: Channel) -> None:
    # On a link a minicloud speaks under its own name; whoever is not on it hears nothing there.
    name = "home" if channel.link else "me"
    given: dict[Role, Permissions] = {role: permissions(role, name, "home") for role in ROLES}
    given = {role: p for role, p in given.items() if p.link == channel.link}
    subject = _own_subject(channel, name)
    senders = {
        role
        for role, p in given.items()
        if _allowed(p.publish, p.publish_deny, _own_subject(channel, name, role))
    }
    hearers = {role for role, p in given.items() if _allowed(p.subscribe, p.subscribe_deny, subject)}
    assert senders == _roles(channel.senders) & given.keys()
    assert hearers == _roles(channel.receivers) & given.keys()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: f"{verb.service}.{verb.name}")
def test_the_broker_lets_exactly_those_ask_that_the_table_names(verb: Any) -> None:
    subject = (
        verb.address.replace("{minicloud}", "home")
        .replace("{node}", "me")
        .replace("{cluster}", "me")
        .replace("{instance}", "one")
    )
    askers = {
        role
        for role in ROLES
        if not permissions(role, "me", "home").link
        and _allowed(
            permissions(role, "me", "home").publish, permissions(role, "me", "home").publish_deny, subject
        )
    }
    assert askers == _roles(verb.askers)


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_addresses_are_the_subjects_that_are_used(channel: Channel) -> None:
    made = channel.address
    for parameter in channel.parameters:
        made = made.replace(f"{{{parameter}}}", "me")
    assert made == channel.subject(Subjects("me"), *["me"] * (len(channel.parameters) - 1))
    assert topic(channel.address) == channel.address.replace(".", "/")


def test_every_party_speaks_or_hears() -> None:
    named = {party for channel in CHANNELS for party in (*channel.senders, *channel.receivers)}
    assert named == set(PARTIES)


# -- JSON Schemas --------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_what_we_send_is_valid_by_its_schema(data: EventData) -> None:
    _validator(data.event_type).validate(json.loads(sent(data).to_json()))


@pytest.mark.parametrize("data", DATA, ids=lambda data: type(data).__name__)
def test_a_schema_refuses_what_the_reader_refuses(data: EventData) -> None:
    whole = json.loads(sent(data).to_json())
    validator = _validator(data.event_type)
    for name in type(data).model_json_schema(by_alias=True).get("required", []):
        cut = {**whole, "data": {key: value for key, value in whole["data"].items() if key != name}}
        assert not validator.is_valid(cut), name
        with pytest.raises(InvalidDocument):
            read_event(json.dumps(cut).encode(), type(data))
    assert not validator.is_valid({**whole, "type": "another.v1"})
    assert not validator.is_valid({**whole, "specversion": "0.3"})


def test_what_the_agent_sends_without_our_models_is_valid() -> None:
    for kind in (agent.CHARACTERIZED, agent.MEASURED, agent.PRESENCE):
        example = next(data for data in DATA if data.event_type == kind)
        whole = agent.envelope(kind, "home", "pi-3", example.model_dump(mode="json"))
        _validator(kind).validate(json.loads(whole))
        read = read_event(whole, type(example))
        assert read.data == example
        channel = next(channel for channel in CHANNELS if channel.data is type(example))
        assert agent.topic("home", "pi-3", kind) == topic(channel.subject(Subjects("home"), "pi-3"))


def test_an_unknown_field_is_an_error_in_what_people_write_and_kept_in_events() -> None:
    request = _validator("DeploymentRequest")
    request.validate(contract.REQUEST)
    assert not request.is_valid({**contract.REQUEST, "replcas": 2})
    assert not _validator("Query").is_valid({"limt": 1})
    presence = json.loads(sent(KINDS["Presence"]).to_json())
    presence["data"]["mood"] = "good"
    _validator("minicloud.node.presence.v1").validate(presence)


@pytest.mark.parametrize("kind", document_kinds(), ids=lambda kind: kind.__name__)
def test_every_document_has_a_schema_that_is_one(kind: type) -> None:
    Draft202012Validator.check_schema(SCHEMAS[kind.__name__])
    assert SCHEMAS[kind.__name__]["title"] == kind.__name__


def test_errors_travel_as_their_schema_says() -> None:
    validator = _validator("ErrorDocument")
    for kind in _BY_CODE.values():
        validator.validate(kind("no", field="here", expected="yes").document())
    with pytest.raises(InvalidDocument) as refused:
        read_document({"replicas": -1}, DeploymentRequest)
    validator.validate(refused.value.document())


# -- the contract for people ---------------------------------------------------------------------


def test_the_picture_of_the_lifecycle_shows_every_state_and_no_other() -> None:
    picture = re.search(r"stateDiagram-v2\n(.*?)```", TEXT, re.DOTALL)
    assert picture
    assert set(re.findall(r"\b[a-z]+\b", picture[1])) == set(get_args(DeploymentState))


def test_every_field_of_a_request_says_what_it_is_and_what_enforces_it() -> None:
    rows = [line.split(" | ") for line in contract._request_table().splitlines()[2:]]
    assert {row[0].strip("| `") for row in rows} >= {
        info.alias or name for name, info in DeploymentRequest.model_fields.items()
    }
    for row in rows:
        assert all(cell.strip("| ") for cell in row), row


def test_both_forms_of_each_query_mean_the_same() -> None:
    for _, where, short in contract.QUERIES:
        assert _parts(parse_where(where)) == _parts(Query(where=short).predicate), short


def _parts(predicate: Predicate) -> set[Any]:
    return set(predicate.parts) if hasattr(predicate, "parts") else {predicate}


def test_every_attribute_and_error_is_in_the_contract() -> None:
    for name in ATTRIBUTES:
        assert f"`{name.partition('.mean.')[0]}`" in TEXT
    for kind in _BY_CODE.values():
        assert f"| `{kind.code}` | {kind.status} |" in TEXT
    assert set(contract.error_kinds()) == set(_BY_CODE.values())


def test_the_tree_of_errors_in_the_docstring_is_the_tree_of_classes() -> None:
    import schemas.errors

    drawn = re.findall(r"[├└]── (\w+)", schemas.errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in _BY_CODE.values() if kind is not MinicloudError)
    assert issubclass(InvalidName, MinicloudError)


def test_every_link_of_the_contract_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (REFERENCE / target).exists(), target
