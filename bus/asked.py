"""What a request over HTTP asks: its body within a bound, and the revision to resume after.

Each service says in its own words what is wrong: ``wrong`` is the error that it raises.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json
from starlette.requests import Request

from schemas.errors import InvalidDocument, TooLarge

_LONGEST_REVISION: Final = 18


async def body_of(
    request: Request,
    largest: int,
    *,
    wrong: type[InvalidDocument] = InvalidDocument,
    expected: str = "a JSON document",
) -> Any:
    """The JSON in the body; without one, an empty object.

    Raises:
        TooLarge: more than ``largest`` bytes.
        InvalidDocument: it is no JSON, in the words of ``wrong``.
    """
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > largest:
            raise TooLarge("the body is too large", expected=f"at most {largest} bytes")
    try:
        # As strict as the bus: no NaN, and no half of a surrogate pair, which no answer could carry back.
        return from_json(bytes(read) or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise wrong(f"the body is not JSON: {error}", expected=expected) from None


def resume_after(request: Request, *, wrong: type[InvalidDocument] = InvalidDocument) -> int | None:
    """The revision to resume after; a browser that reconnects says it in a header."""
    text = request.query_params.get("since") or request.headers.get("last-event-id")
    return revision(text, "since", "a whole number", wrong=wrong) if text else None


def revision(text: str, field: str, expected: str, *, wrong: type[InvalidDocument] = InvalidDocument) -> int:
    """A revision of the log, as text.

    Raises:
        InvalidDocument: it is none, in the words of ``wrong``.
    """
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST_REVISION:
        raise wrong(f"{text[:40]!r} is no revision", field=field, expected=expected)
    return int(text)
