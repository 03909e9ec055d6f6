"""How a query is executed: which condition goes first, what it leaves, how long it takes."""

from __future__ import annotations

import time
from typing import Any, Literal

from schemas.explained import Explanation, ScanStep
from schemas.predicate import Condition, conditions
from schemas.query import parse_query
from schemas.wording import describe
from services.rid.answer import Answers
from services.rid.fresh import HEARD, rewritten, rewritten_fields, rewritten_order
from services.rid.index import Step
from services.rid.rows import RowIndex


def profile(answers: Answers, document: Any) -> Explanation:
    """Execute a query and tell how it went.

    Raises:
        InvalidQuery: names what is wrong with it.
    """
    index = answers.index
    query = parse_query(document, index.names())
    predicate = rewritten(answers.whole(query), time.time())
    order = rewritten_order(query.order)
    begun = time.perf_counter()
    found = index.select(predicate, order=order, limit=query.limit, fields=rewritten_fields(query.fields))
    seconds = time.perf_counter() - begun
    engine: Literal["rows", "columns"] = "rows" if isinstance(index, RowIndex) else "columns"
    return Explanation(
        engine=engine,
        nodes=len(index),
        steps=[_step(step) for step in index.trace(predicate)],
        sorted_by=[f"-{name}" if descending else name for name, descending in query.order],
        total=found.total,
        seconds=round(seconds, 7),
    )


def _step(step: Step) -> ScanStep:
    condition = step.condition
    text = describe(condition)
    if isinstance(condition, Condition):
        text = f"{condition.attribute} {text}"
    asked = dict.fromkeys(one.attribute for one in conditions(condition))
    return ScanStep(
        condition=text.replace(HEARD, "time heard"),
        attributes=["age" if name == HEARD else name for name in asked],
        by=step.by,
        tested=step.tested,
        left=step.left,
        selectivity=round(step.left / step.tested, 4) if step.tested else 0.0,
        seconds=round(step.seconds, 7),
    )
