"""Quantities: what is read, what is refused, and that the JSON Schema says the same."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from schemas.errors import InvalidQuantity
from schemas.quantities import (
    Bytes,
    Cores,
    Seconds,
    format_bytes,
    format_cores,
    parse_bytes,
    parse_cores,
    parse_duration,
)

PARSERS = {"bytes": (parse_bytes, Bytes), "cores": (parse_cores, Cores), "seconds": (parse_duration, Seconds)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64MiB", 64 * 1024**2),
        ("4Gi", 4 * 1024**3),
        ("1.5GB", 1_500_000_000),
        ("1k", 1000),
        ("1K", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("2P", 2 * 10**15),
        ("7EiB", 7 * 1024**6),
        ("4096", 4096),
        (" 1e3 B ", 1000),
        (4096, 4096),
        (0, 0),
        (1.5, 2),
    ],
)
def test_bytes(text: Any, value: int) -> None:
    assert parse_bytes(text) == value
    assert isinstance(parse_bytes(text), int)


@pytest.mark.parametrize(
    ("text", "value"), [("250m", 0.25), ("0.25", 0.25), ("2", 2.0), (2, 2.0), ("1500m", 1.5), (0, 0.0)]
)
def test_cores(text: Any, value: float) -> None:
    assert parse_cores(text) == value
    assert isinstance(parse_cores(text), float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300ms", 0.3),
        ("30s", 30.0),
        ("5m", 300.0),
        ("5min", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        (7, 7.0),
    ],
)
def test_durations(text: Any, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value)


@pytest.mark.parametrize("parse", [parse_bytes, parse_cores, parse_duration])
@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "-1",
        "+1",
        "1.",
        ".5",
        "1,5",
        "1e",
        "1e400",
        "0x10",
        "NaN",
        "inf",
        "1 2",
        "\u0661",  # an Arabic one
        "1parsec",
        "m",
        -1,
        -0.5,
        2**63,
        10**400,
        10**5000,
        math.nan,
        math.inf,
        True,
        None,
        [],
        {},
        b"1",
    ],
    ids=lambda bad: "a very long integer" if isinstance(bad, int) and bad > 2**64 else repr(bad),
)
def test_what_is_no_quantity_is_refused_with_what_would_be_right(
    parse: Callable[[Any], float], bad: Any
) -> None:
    with pytest.raises(InvalidQuantity) as refused:
        parse(bad)
    assert refused.value.expected
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "5m"),
        (parse_bytes, "5s"),
        (parse_cores, "5Mi"),
        (parse_cores, "5k"),
        (parse_cores, "5s"),
        (parse_duration, "5Mi"),
        (parse_duration, "5k"),
    ],
)
def test_a_suffix_belongs_to_one_kind(parse: Callable[[Any], float], text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse(text)


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_of_bytes_stay_exact(value: int) -> None:
    assert parse_bytes(value) == parse_bytes(str(value)) == parse_bytes(f"{value}B") == value


@given(st.integers(0, 2**62))
def test_printed_bytes_are_read_back_to_four_digits(value: int) -> None:
    # Half of the fourth digit, and half a byte since bytes are whole.
    assert abs(parse_bytes(format_bytes(value)) - value) <= 5e-4 * value + 0.5


@given(st.integers(0, 1_000_000))
def test_printed_cores_are_read_back(thousandths: int) -> None:
    cores = thousandths / 1000
    assert parse_cores(format_cores(cores)) == pytest.approx(cores, rel=1e-5)


@given(st.integers(0, 10**6), st.sampled_from(["", "i", "iB"]), st.sampled_from("KMGT"))
def test_a_prefix_multiplies(number: int, unit: str, prefix: str) -> None:
    base = 1024 if unit else 1000
    assert parse_bytes(f"{number}{prefix}{unit}") == number * base ** ("KMGT".index(prefix) + 1)


@given(st.text(max_size=30) | st.from_regex(r"\s*[0-9.eE+-]{1,8}\s*[a-zA-Z]{0,4}\s*", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse, _ in PARSERS.values():
        with suppress(InvalidQuantity):
            assert 0 <= parse(text) < 2**63


@pytest.mark.parametrize("unit", PARSERS)
@given(text=st.from_regex(re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?[a-zA-DF-Z]{0,3}", re.ASCII), fullmatch=True))
def test_the_schema_takes_what_the_reader_takes(unit: str, text: str) -> None:
    # Short of exabytes: that a text means too much, a schema cannot say.
    parse, kind = PARSERS[unit]
    reader: TypeAdapter[Any] = TypeAdapter(kind)
    if Draft202012Validator(reader.json_schema()).is_valid(text):
        assert reader.validate_python(text) == parse(text)
    else:
        with pytest.raises(ValidationError, match="expected"):
            reader.validate_python(text)
