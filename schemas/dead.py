"""What could not be handled, whole, with the reason, so that nothing is lost and the flow goes on."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from schemas.event import EventData


class DeadLetter(EventData):
    """A message that a service gave up on.

    ``payload`` is the message as text where it is UTF-8 and as base64 otherwise (``encoding``).
    A payload too large to be wrapped is cut; ``size`` then tells its full length and ``truncated`` says so.
    """

    event_type: ClassVar[str] = "minicloud.dead.v1"

    service: str
    subject: str
    stream: str | None = None
    revision: int | None = None
    deliveries: int = 1
    reason: str
    problems: list[dict[str, Any]] = []
    encoding: str
    payload: str
    size: int
    truncated: bool = False
    buried_at: datetime
