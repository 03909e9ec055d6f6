"""Why a node is not in the answer: by the first condition that it fails, and what it had instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from schemas.predicate import Condition, Predicate, every
from schemas.query import Rejected
from schemas.wording import Failing, describe, rejected, show

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
    return rejected([Failing(*group, names) for group, names in groups.items()], Rejected)
