"""Quantities that people write and machines compare: bytes, cores and durations.

``64MiB``, ``4Gi``, ``1.5GB`` and ``4096`` are bytes; ``250m`` and ``0.25`` are cores; ``30s``,
``5m`` and ``300ms`` are seconds. A suffix belongs to one kind only, so that ``5m`` of memory is an
error and not five thousandths of a byte.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from schemas.errors import BrokenRule, InvalidQuantity

_DIGITS: Final = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_NUMBER: Final = re.compile(rf"\s*(?P<number>{_DIGITS})\s*(?P<suffix>[A-Za-z]*)\s*")
_MOST: Final = 2**63
_LONGEST: Final = 20

_BYTES: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}{unit}": 1000**power for power, prefix in enumerate("kMGTPE", 1) for unit in ("", "B")},
    "K": 1000,
    "KB": 1000,
    **{f"{prefix}{unit}": 1024**power for power, prefix in enumerate("KMGTPE", 1) for unit in ("i", "iB")},
}
_CORES: Final = {"": 1.0, "m": 0.001}
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _parse(value: Any, suffixes: dict[str, Any], what: str, examples: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidQuantity(f"{_show(value)} is not {what}", expected=examples)
    number: float
    factor: float = 1
    if not isinstance(value, str):
        number = value
    else:
        match = _NUMBER.fullmatch(value)
        if match is None or match["suffix"] not in suffixes:
            raise InvalidQuantity(f"{_show(value)} is not {what}", expected=examples)
        number, factor = _number(match["number"]), suffixes[match["suffix"]]
    # Compared before it is multiplied: an integer of any length is no float.
    if not 0 <= number < _MOST or not number * factor < _MOST:
        raise InvalidQuantity(f"{_show(value)} is not {what} from 0 to 2^63", expected=examples)
    return number * factor


def _number(digits: str) -> float:
    """Exact where it can be: a float holds only 53 bits."""
    return int(digits) if digits.isdigit() and len(digits) < _LONGEST else float(digits)


def _show(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= _MOST:
        return "an integer beyond 2^63"  # Python refuses to print very long ones
    text = repr(value)
    return text if len(text) <= 42 else f"{text[:39]}..."


def parse_bytes(value: Any) -> int:
    """Bytes from ``64MiB``, ``4Gi``, ``1.5GB``, ``4096``.

    Raises:
        InvalidQuantity: anything else, negative and absurd sizes included.
    """
    return round(_parse(value, _BYTES, "an amount of memory", "bytes such as 64MiB, 4Gi, 1.5GB or 4096"))


def parse_cores(value: Any) -> float:
    """Cores from ``250m``, ``0.25``, ``2``.

    Raises:
        InvalidQuantity: anything else.
    """
    return float(_parse(value, _CORES, "an amount of CPU", "cores such as 250m, 0.5 or 2"))


def parse_duration(value: Any) -> float:
    """Seconds from ``300ms``, ``30s``, ``5m``, ``2h``, ``1d`` or a bare number of seconds.

    Raises:
        InvalidQuantity: anything else.
    """
    return float(_parse(value, _SECONDS, "a duration", "a time such as 300ms, 30s, 5m or 2h"))


def format_bytes(value: float) -> str:
    """The shortest exact-enough form with binary suffixes: ``67108864`` -> ``64MiB``."""
    for suffix in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or suffix == "PiB":
            return f"{value:.4g}{suffix}"
        value /= 1024
    raise AssertionError


def format_cores(value: float) -> str:
    """``0.25`` -> ``250m``, ``2.0`` -> ``2``."""
    return f"{value:g}" if value == int(value) else f"{value * 1000:g}m"


def _quantity(parse: Any) -> BeforeValidator:
    def validate(value: Any) -> Any:
        try:
            return parse(value)
        except InvalidQuantity as error:
            raise BrokenRule(error.message, expected=error.expected) from None

    return BeforeValidator(validate)


def _schema(unit: str, suffixes: dict[str, Any], example: str) -> WithJsonSchema:
    known = "|".join(sorted(filter(None, suffixes), key=lambda suffix: (-len(suffix), suffix)))
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "exclusiveMaximum": _MOST},
                {"type": "string", "pattern": rf"^\s*{_DIGITS}\s*({known})?\s*$"},
            ],
            "description": f"{unit}, as a number or with a suffix",
            "format": unit,
            "examples": [example],
        }
    )


Bytes = Annotated[int, _quantity(parse_bytes), _schema("bytes", _BYTES, "64MiB")]
Cores = Annotated[float, _quantity(parse_cores), _schema("cores", _CORES, "250m")]
Seconds = Annotated[float, _quantity(parse_duration), _schema("seconds", _SECONDS, "30s")]
