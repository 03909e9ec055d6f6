"""The one error tree of Minicloud.

::

    MinicloudError
    ├── InvalidName          a token that may not be part of a subject or topic
    ├── InvalidQuantity      a number with a unit that cannot be read
    ├── InvalidDocument      a request, query or event that breaks its schema
    ├── InvalidQuery         a query that names something unknown
    ├── TooLarge             more than is read at once
    ├── NotFound             what was asked for does not exist
    ├── Conflict             somebody else changed it first
    ├── Unauthenticated      who asks did not say who it is, or said it wrongly
    ├── Forbidden            this credential may not do that
    ├── Unavailable          the other side cannot be reached now; try again
    │   └── RequestTimeout   it was asked and did not answer in time
    └── TooOld               a revision that is no longer kept: read anew

Each carries what was wrong, where, and what would be right, so that the message alone lets its
reader act. As a document none is longer than a person reads: whatever was wrong, telling it fits into
one message of the bus.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

_LONGEST: Final = 400
_MOST_PROBLEMS: Final = 20


class MinicloudError(Exception):
    """The root: whatever Minicloud raises on purpose.

    Attributes:
        code: one CamelCase word, the same on the bus, in HTTP bodies and in the command's output.
        status: the HTTP status that says the same.
    """

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, field: str | None = None, expected: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.expected = expected

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        right = f" (expected {self.expected})" if self.expected else ""
        return f"{where}{self.message}{right}"

    def document(self) -> dict[str, Any]:
        """The error as it travels: ``{code, message, field, expected}``, each cut where it is very long."""
        return {
            "code": self.code,
            "message": readable(self.message),
            "field": None if self.field is None else readable(self.field),
            "expected": None if self.expected is None else readable(self.expected),
        }


class InvalidName(MinicloudError):
    """A name that may not become a token of a subject or topic."""

    code = "InvalidName"
    status = 400


class InvalidQuantity(MinicloudError):
    """A quantity such as ``64MiB`` or ``250m`` that cannot be read."""

    code = "InvalidQuantity"
    status = 400


class InvalidDocument(MinicloudError):
    """A request or event that breaks its schema.

    Attributes:
        problems: one ``{field, message, expected}`` for each thing wrong, the first twenty of them.
    """

    code = "InvalidDocument"
    status = 400

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        problems: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message, field=field, expected=expected)
        self.problems = [
            {name: readable(text) if isinstance(text, str) else text for name, text in problem.items()}
            for problem in (problems or [])[:_MOST_PROBLEMS]
        ]

    def document(self) -> dict[str, Any]:
        """The error as it travels, with every problem."""
        return {**super().document(), "problems": self.problems}


class InvalidQuery(InvalidDocument):
    """A query that names an unknown field or operator, or compares unlike things."""

    code = "InvalidQuery"


class TooLarge(MinicloudError):
    """More than is read at once."""

    code = "TooLarge"
    status = 413


class NotFound(MinicloudError):
    """What was asked for does not exist."""

    code = "NotFound"
    status = 404


class Conflict(MinicloudError):
    """Somebody else changed it first."""

    code = "Conflict"
    status = 409


class Unauthenticated(MinicloudError):
    """Who asks did not say who it is, or said it wrongly."""

    code = "Unauthenticated"
    status = 401


class Forbidden(MinicloudError):
    """This credential may not do that."""

    code = "Forbidden"
    status = 403


class Unavailable(MinicloudError):
    """The other side cannot be reached now."""

    code = "Unavailable"
    status = 503


class RequestTimeout(Unavailable):
    """It was asked and did not answer in time."""

    code = "RequestTimeout"
    status = 504


class TooOld(MinicloudError):
    """A revision that is no longer kept; read the present state and go on from there."""

    code = "TooOld"
    status = 410


class BrokenRule(ValueError):
    """A rule of a model that types cannot say; pydantic collects it among a document's problems.

    Attributes:
        message: what was wrong.
        field: where below the model; None for the model itself.
        expected: what would be right.
    """

    def __init__(self, message: str, *, field: str | None = None, expected: str | None = None) -> None:
        super().__init__(f"{message} (expected {expected})" if expected else message)
        self.message = message
        self.field = field
        self.expected = expected


_BY_CODE: dict[str, type[MinicloudError]] = {
    kind.code: kind
    for kind in (
        MinicloudError,
        InvalidName,
        InvalidQuantity,
        InvalidDocument,
        InvalidQuery,
        TooLarge,
        NotFound,
        Conflict,
        Unauthenticated,
        Forbidden,
        Unavailable,
        RequestTimeout,
        TooOld,
    )
}


def readable(text: str, longest: int = _LONGEST) -> str:
    """``text`` cut to what a person reads, and such that UTF-8 can carry it."""
    if len(text) > longest:
        text = f"{text[: longest - 3]}..."
    return text.encode("utf-8", "replace").decode()


def from_document(document: dict[str, Any]) -> MinicloudError:
    """The error that :meth:`MinicloudError.document` described; unknown codes become the root."""
    kind = _BY_CODE.get(str(document.get("code")), MinicloudError)
    message = str(document.get("message", "no message"))
    field, expected = _text(document.get("field")), _text(document.get("expected"))
    if issubclass(kind, InvalidDocument):
        problems = document.get("problems")
        told = [one for one in problems if isinstance(one, dict)] if isinstance(problems, list) else []
        return kind(message, field=field, expected=expected, problems=told)
    return kind(message, field=field, expected=expected)


def _text(value: Any) -> str | None:
    """Another version may say it otherwise than we would."""
    return None if value is None else str(value)
