"""Names: no token of a stranger widens a subject; a topic is its subject."""

from __future__ import annotations

import inspect
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.channels import CHANNELS, Channel
from schemas.errors import InvalidName
from schemas.names import ANY, Subjects, name_in, subject_of_topic, token, topic

TOKENS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)


@given(TOKENS)
def test_a_token_is_itself(name: str) -> None:
    assert token(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a.b",
        "a/b",
        "*",
        ">",
        "+",
        "#",
        "$",
        "a\n",
        "\na",
        "ä",
        "\u0661",
        "\x00",
        "a" * 65,
        "x" * 10**6,
    ],
    ids=lambda name: repr(name[:12]),
)
def test_what_is_no_token_is_refused_with_what_would_be_right(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        token(name, "node")
    assert refused.value.field == "node"
    assert "a-z" in str(refused.value.expected)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
@given(minicloud=TOKENS, names=st.lists(st.text(max_size=8) | TOKENS, min_size=2, max_size=2))
def test_whatever_a_stranger_is_called_a_subject_means_one_thing(
    channel: Channel, minicloud: str, names: list[str]
) -> None:
    count = len(inspect.signature(channel.subject).parameters) - 1
    used = names[:count]
    parts = channel.address.count(".") + 1
    try:
        subject = channel.subject(Subjects(minicloud), *used)
    except InvalidName:
        return
    assert subject.count(".") + 1 == parts
    if ANY not in used:  # ANY is the word by which we ourselves ask for all
        assert not set("*> \t\r\n") & set(subject)
        assert subject_of_topic(topic(subject)) == subject


@given(st.text(max_size=12))
def test_a_minicloud_that_is_no_token_has_no_subjects(name: str) -> None:
    try:
        assert Subjects(name).root == f"mc.{name}"
    except InvalidName:
        assert name != ANY


@given(st.lists(TOKENS, min_size=1, max_size=6))
def test_topic_and_subject_are_each_other(parts: list[str]) -> None:
    subject = ".".join(parts)
    assert topic(subject) == "/".join(parts)
    assert subject_of_topic(topic(subject)) == subject


@pytest.mark.parametrize(
    "text", ["", "/", "mc//x", "mc/+/x", "mc/#", "mc/a b", "mc/a.b", "/mc", "mc/", "$SYS/x"]
)
def test_a_topic_that_is_no_subject_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="topic level"):
        subject_of_topic(text)


def test_wildcards_are_translated_for_filters() -> None:
    assert topic(Subjects("home").metrics()) == "mc/home/node/+/metrics"
    assert topic("mc.home.>") == "mc/home/#"
    assert Subjects(ANY).presence("a") == "mc.*.node.a.presence"


def test_names_are_found_where_they_stand() -> None:
    s = Subjects("home")
    assert name_in(s.desired("pi-3", "hello-0")) == "pi-3"
    assert name_in(s.desired("pi-3", "hello-0"), 5) == "hello-0"


def test_a_verb_of_one_instance_has_its_name_at_the_end() -> None:
    assert Subjects("home").service("worker", "logs", "pi-3") == "mc.home.svc.worker.logs.pi-3"
    with pytest.raises(InvalidName):
        Subjects("home").service("worker", "logs", "pi.3")
