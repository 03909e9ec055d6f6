"""Why a node is not in the answer: by the first condition that it fails, and what it had instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from schemas.predicate import Condition, Predicate, every
from schemas.query import Rejected
from schemas.wording import describe, reason, show

#: How many names an explanation holds in all; beyond, nodes are only counted.
_MOST_NAMES: Final = 2000

Select = Callable[[Predicate, Iterable[str]], list[dict[str, Any]]]


def explain(parts: Iterable[Predicate], select: Select) -> list[Rejected]:
    """Every node that some part rejects, under the first that does.

    Args:
        parts: the conditions that must all hold, in the order written.
        select: ``select(predicate, fields)`` gives all nodes that match, with those fields.
    """
    groups: dict[tuple[str | None, str, str | None], list[str]] = {}
    passed: list[Predicate] = []
    for part in parts:
        about = part.attribute if isinstance(part, Condition) else None
        before = select(every(*passed), [about] if about else [])
        passed.append(part)
        if not before:
            break
        after = {node["name"] for node in select(every(*passed), [])}
        wanted = describe(part)
        for node in before:
            if node["name"] not in after:
                had = None if about is None or about not in node else show(about, node[about], rounded=True)
                groups.setdefault((about, wanted, had), []).append(node["name"])
    room = _MOST_NAMES
    told: list[Rejected] = []
    # Whoever failed the last condition was the nearest: where not all can be named, those are.
    for (about, wanted, had), names in reversed(groups.items()):
        told.append(
            Rejected(
                reason=reason(about, wanted, had),
                attribute=about,
                wanted=wanted,
                had=had,
                nodes=names[:room],
                count=len(names),
            )
        )
        room = max(0, room - len(names))
    return told[::-1]
