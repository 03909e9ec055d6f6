"""The one error tree: what travels comes back as what it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import (
    _BY_CODE,
    InvalidDocument,
    MinicloudError,
    RequestTimeout,
    Unavailable,
    from_document,
    readable,
)

KINDS = sorted(_BY_CODE.values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(
    message=st.text(max_size=50),
    field=st.none() | st.text(max_size=20),
    expected=st.none() | st.text(max_size=20),
)
def test_every_error_survives_the_road(
    kind: type[MinicloudError], message: str, field: str | None, expected: str | None
) -> None:
    sent = kind(message, field=field, expected=expected)
    got = from_document(json.loads(json.dumps(sent.document())))
    assert type(got) is kind
    assert got.document() == sent.document()
    assert got.status == sent.status


def test_codes_are_one_word_each_and_statuses_are_http() -> None:
    assert all(code.isidentifier() and code[0].isupper() for code in _BY_CODE)
    assert all(400 <= kind.status < 600 for kind in KINDS)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if issubclass(k, InvalidDocument)], ids=lambda k: k.__name__
)
def test_problems_travel_and_are_bounded(kind: type[InvalidDocument]) -> None:
    problems = [{"field": f"f{n}", "message": "m" * 10_000, "expected": None} for n in range(50)]
    got = from_document(kind("bad", problems=problems).document())
    assert isinstance(got, kind)
    assert [problem["field"] for problem in got.problems] == [f"f{n}" for n in range(20)]
    assert len(json.dumps(got.document())) < 20_000


def test_an_error_says_where_what_and_what_would_be_right() -> None:
    assert (
        str(MinicloudError("is odd", field="replicas", expected="even")) == "replicas: is odd (expected even)"
    )
    assert str(MinicloudError("is odd")) == "is odd"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"code": "FromTheFuture", "message": "new"},
        {"code": None, "message": None},
        {"code": ["NotFound"]},
        {"code": "InvalidDocument", "problems": None},
        {"code": "NotFound", "field": 7, "expected": []},
        {"code": "InvalidQuery", "problems": "many"},
        {"code": "InvalidQuery", "problems": [7, {"field": 7}]},
    ],
)
def test_what_another_version_says_is_still_an_error(document: dict[str, Any]) -> None:
    error = from_document(document)
    assert isinstance(error, MinicloudError)
    assert str(error)
    json.dumps(error.document())


def test_a_timeout_is_a_kind_of_unavailable() -> None:
    with pytest.raises(Unavailable):
        raise RequestTimeout("no answer")


@given(st.text() | st.text(st.characters(categories=["Cs"])))
def test_what_is_readable_is_utf8_and_short(text: str) -> None:
    assert len(readable(text).encode()) <= 1600
    assert len(readable(text, 10)) <= 10
