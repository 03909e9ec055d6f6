"""The order of versions, so that ``software.python3 >= 3.11`` means what people mean.

Numbers compare as numbers, ``1.0rc1`` comes before ``1.0``, and trailing zeros do not count.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_PARTS: Final = re.compile(r"[0-9]+|[A-Za-z]+")
_LONGEST_NUMBER: Final = 18

#: What versions are compared by; greater is newer.
VersionKey = tuple[tuple[int, int, str], ...]


@lru_cache(maxsize=65536)
def version_key(text: str) -> VersionKey:
    """The sort key of a version: ``3.9 < 3.11``, ``1.0rc1 < 1.0 == 1.0.0 < 1.0.1``.

    Separators, an epoch's colon included, only separate; a leading ``v`` is ignored.
    """
    parts: list[tuple[int, int, str]] = []
    for part in _PARTS.findall(text.removeprefix("v")):
        if part.isdigit() and len(part) <= _LONGEST_NUMBER:
            parts.append((2, int(part), ""))
        else:
            _drop_zeros(parts)
            parts.append((0, 0, part.lower()))
    _drop_zeros(parts)
    # The end ranks above letters (a pre-release) and below a number (a later release).
    return (*parts, (1, 0, ""))


def _drop_zeros(parts: list[tuple[int, int, str]]) -> None:
    while parts and parts[-1] == (2, 0, ""):
        parts.pop()
