"""A past moment as people write it: ``2026-03-01T12:00:00Z``, ``-10m``, or a revision of a log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from schemas.errors import InvalidQuantity, InvalidQuery
from schemas.quantities import parse_duration

_FORMS: Final = "RFC 3339 such as 2026-03-01T12:00:00Z, a time ago such as -10m, or a revision"
_LONGEST_AGO: Final = 100 * 365 * 86400.0


def parse_moment(text: Any, now: datetime) -> int | datetime:
    """A revision, or a moment in UTC.

    Args:
        text: as above; a time without a zone is taken as UTC.
        now: what a time ago counts from.

    Raises:
        InvalidQuery: it is none of these, or has not passed yet.
    """
    if isinstance(text, str) and text.strip().isdigit() and len(text) < 19:
        text = int(text)
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < 2**63:
        return text
    moment = _moment(text, now)
    if moment > now:
        raise InvalidQuery(
            f"{moment.isoformat()} has not passed yet", field="at", expected="a moment that has passed"
        )
    return moment


def _moment(text: Any, now: datetime) -> datetime:
    if isinstance(text, str) and text.strip().startswith("-"):
        try:
            ago = parse_duration(text.strip()[1:])
        except InvalidQuantity:
            ago = -1.0
        if 0 <= ago <= _LONGEST_AGO:
            return now - timedelta(seconds=ago)
    elif isinstance(text, str):
        try:
            moment = datetime.fromisoformat(text.strip())
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidQuery(f"{str(text)[:40]!r} is no moment", field="at", expected=_FORMS)


def _readable(text: Any) -> Any:
    parse_moment(text, datetime.max.replace(tzinfo=UTC))
    return text


Moment = Annotated[
    int | str,
    BeforeValidator(_readable),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
            "description": _FORMS,
            "examples": ["-10m", "2026-03-01T12:00:00Z", 1042],
        }
    ),
]
