"""HTTP: JSON in, JSON back (seed 2.3). Errors are the documents of ``schemas/errors.py``.

``POST /v1/query`` and ``/v1/explain`` take a query document; ``GET /v1/nodes`` and ``/v1/explain`` spell it in
the URL: ``?where=gpu,cpu.cores>=4&fields=name,load.1m&sort=load.1m:asc&limit=10``. ``/v1/watch`` is a standing
query, as server-sent events or one JSON document a line. ``/openapi.json`` describes them all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bus.asked import body_of, resume_after
from schemas.errors import InvalidQuery, Unavailable
from schemas.query import Answer
from services.rid.answer import Answers
from services.rid.openapi import document as openapi
from services.rid.profile import profile
from services.rid.standing import Watcher
from services.rid.subscribe import told

_LARGEST: Final = 1024 * 1024
_PARTS: Final = ("where", "sort", "fields", "limit", "explain", "at")
_EVENTS: Final = "text/event-stream"
_LINES: Final = "application/x-ndjson"
_FORMATS: Final = {"sse": _EVENTS, "ndjson": _LINES}

_DOCUMENT: Final[TypeAdapter[Any]] = TypeAdapter(Any)

Ask = Callable[[Any], Awaitable[Answer]]
Begin = Callable[[Any, int | None], Awaitable[Watcher]]


def routes(answers: Answers, ask: Ask, begin: Begin, ready: Callable[[], bool]) -> list[Route]:
    """The routes of rid.

    Args:
        answers: what is known of nodes and attributes.
        ask: answers a query document.
        begin: begins a standing query, after a revision where one is given.
        ready: whether the index is whole; until then every route says 503.
    """

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if not ready():
                raise Unavailable(
                    "the index is still being read back", expected="to be asked again in a moment"
                )
            return await answer(request)

        return endpoint

    async def query(request: Request) -> Response:
        return _json(
            await ask(await body_of(request, _LARGEST, wrong=InvalidQuery, expected="a query document"))
        )

    async def nodes(request: Request) -> Response:
        return _json(await ask(from_parts(request.query_params.multi_items())))

    async def node(request: Request) -> Response:
        return _json(answers.node(request.path_params["which"]))

    async def attributes(_: Request) -> Response:
        return _json(answers.attributes())

    async def explain(request: Request) -> Response:
        return _json(profile(answers, await _question(request, _PARTS)))

    async def watch(request: Request) -> Response:
        since, form = resume_after(request, wrong=InvalidQuery), _format(request)
        question = await _question(request, ("where", "fields", "since", "format"))
        watcher = await begin(
            {name: question[name] for name in question if name not in ("since", "format")}, since
        )
        if form == _LINES:
            return StreamingResponse(_lines(watcher), media_type=_LINES)
        # Bookmarks are the heartbeat; a comment beside them would be one more.
        return EventSourceResponse(_events(watcher), ping=3600, headers={"Cache-Control": "no-store"})

    async def described(_: Request) -> Response:
        return _json(openapi())

    return [
        Route("/v1/query", guarded(query), methods=["POST"]),
        Route("/v1/nodes", guarded(nodes)),
        Route("/v1/nodes/{which}", guarded(node)),
        Route("/v1/attributes", guarded(attributes)),
        Route("/v1/explain", guarded(explain), methods=["GET", "POST"]),
        Route("/v1/watch", guarded(watch), methods=["GET", "POST"]),
        Route("/openapi.json", described),
    ]


def from_parts(parts: list[tuple[str, str]], allowed: tuple[str, ...] = _PARTS) -> dict[str, Any]:
    """The query that the parameters of a URL spell; ``where`` is the short form.

    Raises:
        InvalidQuery: names a parameter that means nothing.
    """
    document: dict[str, Any] = {}
    for name, text in parts:
        if name not in allowed:
            raise InvalidQuery("a query has no such part", field=name[:80], expected=", ".join(allowed))
        match name:
            case "fields":
                document["fields"] = [field.strip() for field in text.split(",") if field.strip()]
            case "sort":
                document["sort"] = [_sort_key(key.strip()) for key in text.split(",") if key.strip()]
            case _:
                document[name] = text
    return document


def _sort_key(key: str) -> dict[str, str]:
    name, _, direction = key.partition(":")
    return {name: direction or "asc"}


async def _lines(watcher: Watcher) -> AsyncIterator[str]:
    try:
        async for items in told(watcher):
            yield "".join(f"{item.model_dump_json(exclude_none=True)}\n" for item in items)
    finally:
        watcher.close()


async def _events(watcher: Watcher) -> AsyncIterator[ServerSentEvent]:
    try:
        async for items in told(watcher):
            for item in items:
                # A browser resumes from the last id; before SYNC there is nothing to resume.
                resumable = {"ITEM": None, "RESYNC": ""}.get(item.kind, str(item.revision))
                yield ServerSentEvent(
                    item.model_dump_json(exclude_none=True), event=item.kind, id=resumable, sep="\n"
                )
    finally:
        watcher.close()


def _json(document: BaseModel | dict[str, Any]) -> Response:
    if isinstance(document, BaseModel):
        return Response(document.model_dump_json(), media_type="application/json")
    return Response(_DOCUMENT.dump_json(document), media_type="application/json")


async def _question(request: Request, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The query in the body of a POST, or in the URL."""
    if request.method != "POST":
        return from_parts(request.query_params.multi_items(), allowed)
    asked = await body_of(request, _LARGEST, wrong=InvalidQuery, expected="a query document")
    if not isinstance(asked, dict):
        raise InvalidQuery("the body is no query document", expected="a JSON object")
    return asked


def _format(request: Request) -> str:
    """How a watch is told: by the parameter, else by what the client accepts, else one document a line."""
    asked = request.query_params.get("format")
    if asked is None:
        return _EVENTS if _EVENTS in request.headers.get("accept", "") else _LINES
    if asked not in _FORMATS:
        raise InvalidQuery(f"{asked[:40]!r} is no format", field="format", expected=" or ".join(_FORMATS))
    return _FORMATS[asked]
