"""HTTP: deployments as documents, their lives as events. Errors are the documents of ``schemas/errors.py``.

Any vim answers, also one that stands by: a wish is published on the bus, which is all that it takes, and what
is known of deployments is asked of the vim that acts, over the bus as everybody asks it. ``/openapi.json``
describes the routes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bus.asked import body_of, resume_after, revision
from bus.bus import Bus
from bus.lifecycle import TOLD, Kind, Told, lifecycle
from bus.printed import follow_printed, last_printed, replicas_of
from schemas.deployment import DeploymentRequest
from schemas.errors import Forbidden, InvalidDocument, NotFound
from schemas.event import read_document
from schemas.names import token
from schemas.verbs import (
    DeploymentEvent,
    DeploymentEvents,
    LogLine,
    MigrateDeployment,
    PrintedLines,
    ScaleDeployment,
    Wished,
)
from services.vim.openapi import document as openapi
from services.vim.wishes import Wishes

_LARGEST: Final = 4 * 1024 * 1024
_MOST: Final = 1000
_MOST_LINES: Final = 10_000
_EVENTS: Final = "text/event-stream"
_LINES: Final = "application/x-ndjson"
_FORMATS: Final = {"json": "application/json", "sse": _EVENTS, "ndjson": _LINES}
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_QUIET: Final = 15  # seconds between two comments on a stream where nothing happens
_ACCEPTED: Final = 202

_DOCUMENT: Final[TypeAdapter[Any]] = TypeAdapter(Any)
Handler = Callable[[Request], Awaitable[Response]]
Doc = TypeVar("Doc", bound=BaseModel)


def routes(bus: Bus, wishes: Wishes) -> list[Route]:
    """The routes of vim.

    Args:
        bus: where what is known is asked.
        wishes: publishes what is wished.
    """

    async def known(request: Request) -> dict[str, Any]:
        answer: dict[str, Any] = await bus.request("vim", "get", {"deployment": _deployment(request)})
        return answer

    async def create(request: Request) -> Response:
        return _wished(await wishes.create(await _asked(request, DeploymentRequest)))

    async def put(request: Request) -> Response:
        deployment, expect = _deployment(request), _if_match(request)
        return _wished(await wishes.put(deployment, await _asked(request, DeploymentRequest), expect))

    async def whatif(request: Request) -> Response:
        return _json(await bus.request("vim", "whatif", await _asked(request, DeploymentRequest)))

    async def several(request: Request) -> Response:
        asked: dict[str, Any] = {"after": request.query_params.get("after", "")}
        if "limit" in request.query_params:
            asked["limit"] = _number(request, "limit", 1, _MOST)
        _only(request, "after", "limit")
        return _json(await bus.request("vim", "list", asked))

    async def one(request: Request) -> Response:
        told = await known(request)
        return _json(told, headers={"ETag": f'"{told["revision"]}"'})

    async def why(request: Request) -> Response:
        told = await known(request)
        if told["decision"] is None:
            status = told["status"]
            raise NotFound(
                f"{told['deployment']!r} is not decided: it is {told['state']}, {status['reason']}: {status['message']}"
            )
        return _json(told["decision"])

    async def cancel(request: Request) -> Response:
        _only(request, "reason")
        return _wished(
            await wishes.cancel(_deployment(request), request.query_params.get("reason", "")[:4096])
        )

    async def scale(request: Request) -> Response:
        return _wished(await wishes.scale(await _asked(request, ScaleDeployment, named=True)))

    async def migrate(request: Request) -> Response:
        return _wished(await wishes.migrate(await _asked(request, MigrateDeployment, named=True)))

    async def pause(request: Request) -> Response:
        return _wished(await wishes.pause(_deployment(request)))

    async def resume(request: Request) -> Response:
        return _wished(await wishes.resume(_deployment(request)))

    async def logs(request: Request) -> Response:
        _only(request, "replica", "tail", "follow", "format")
        deployment = _deployment(request)
        replica = _number(request, "replica", 0, _MOST) if "replica" in request.query_params else None
        tail = _number(request, "tail", 1, _MOST_LINES, default=100)
        if not _flag(request, "follow"):
            found = await last_printed(bus, deployment, replica=replica, tail=tail)
            return _json([PrintedLines(workload=name, lines=lines).model_dump() for name, lines in found])
        form = _format(request, follow=True)
        # What is wrong is said while there still is a status to say it with.
        replicas_of(await known(request), replica)
        lines = _said(follow_printed(bus, deployment, replica=replica, tail=tail))
        if form == _LINES:
            return StreamingResponse((f"{line}\n" async for _, line in lines), media_type=_LINES)
        return _stream(ServerSentEvent(line, event="line", sep="\n") async for _, line in lines)

    async def events(request: Request) -> Response:
        _only(request, "since", "kinds", "limit", "format")
        deployment, since = _deployment(request), resume_after(request)
        kinds, form = _kinds(request), _format(request)
        limit = _number(request, "limit", 1, _MOST, default=100)
        await wishes.check_known(deployment)
        told = lifecycle(bus, deployment, kinds, since=since)
        if form == _FORMATS["json"]:
            return _json(await _page(told, since, limit))
        told = await _begun(told)
        if form == _LINES:
            return StreamingResponse(
                (f"{event.model_dump_json()}\n" async for event in _happening(told)), media_type=_LINES
            )
        return _stream(
            ServerSentEvent(event.model_dump_json(), event=event.kind, id=str(event.revision), sep="\n")
            async for event in _happening(told)
        )

    async def described(_: Request) -> Response:
        return _json(openapi())

    def at(path: str, handler: Handler, method: str) -> Route:
        return Route(path, _by_no_other_page(handler), methods=[method])

    one_of_them = "/v1/deployments/{deployment}"
    return [
        at("/v1/deployments", several, "GET"),
        at("/v1/deployments", create, "POST"),
        at("/v1/deployments:whatif", whatif, "POST"),
        at(one_of_them, one, "GET"),
        at(one_of_them, put, "PUT"),
        at(one_of_them, cancel, "DELETE"),
        at(f"{one_of_them}/why", why, "GET"),
        at(f"{one_of_them}/events", events, "GET"),
        at(f"{one_of_them}/logs", logs, "GET"),
        at(f"{one_of_them}/scale", scale, "POST"),
        at(f"{one_of_them}/migrate", migrate, "POST"),
        at(f"{one_of_them}/pause", pause, "POST"),
        at(f"{one_of_them}/resume", resume, "POST"),
        at("/openapi.json", described, "GET"),
    ]


def _by_no_other_page(handler: Handler) -> Handler:
    """A browser sends what any page tells it to, but says which page: none from elsewhere may wish anything."""

    async def endpoint(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise Forbidden(
                f"a page of {origin[:80]} asks this",
                field="Origin",
                expected="a page of this address, or none",
            )
        return await handler(request)

    return endpoint


# -- what is asked ---------------------------------------------------------------------------------


def _deployment(request: Request) -> str:
    return token(request.path_params["deployment"], "deployment")


async def _asked(request: Request, kind: type[Doc], *, named: bool = False) -> Doc:
    """The document in the body; ``named`` fills in the deployment that the path names."""
    asked = await body_of(request, _LARGEST)
    if not isinstance(asked, dict):
        raise InvalidDocument("the body is no document", expected="a JSON object")
    if named:
        deployment = _deployment(request)
        if asked.get("deployment", deployment) != deployment:
            raise InvalidDocument("the path names another", field="deployment", expected=deployment)
        asked["deployment"] = deployment
    document: Doc = read_document(asked, kind)
    return document


def _only(request: Request, *known: str) -> None:
    for name in request.query_params:
        if name not in known:
            raise InvalidDocument("there is no such parameter", field=name[:80], expected=", ".join(known))


def _number(request: Request, name: str, least: int, most: int, default: int | None = None) -> int:
    text = request.query_params.get(name, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        raise InvalidDocument(f"{text[:40]!r} cannot be it", field=name, expected=f"{least} to {most}")
    return int(text)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidDocument(f"{text[:40]!r} is no answer", field=name, expected="true or false")
    return text == "true"


def _if_match(request: Request) -> int | None:
    """The revision that the last request must have; ``If-None-Match: *`` is none at all."""
    if request.headers.get("if-none-match") == "*":
        return 0
    text = request.headers.get("if-match")
    if text is None or text == "*":
        return None
    return revision(text.strip('"'), "If-Match", "an ETag from here")


def _kinds(request: Request) -> tuple[Kind, ...]:
    text = request.query_params.get("kinds")
    if text is None:
        return TOLD
    asked = [word.strip() for word in text.split(",") if word.strip()]
    for word in asked or [text]:
        if word not in _KINDS:
            raise InvalidDocument(
                f"{word[:40]!r} is no kind of event", field="kinds", expected=", ".join(_KINDS)
            )
    return tuple(kind for kind in _KINDS if kind in asked)


def _format(request: Request, *, follow: bool = False) -> str:
    """How it is told: by the parameter, else by what the client accepts, else as a document that ends."""
    allowed = {name: media for name, media in _FORMATS.items() if not (follow and name == "json")}
    asked = request.query_params.get("format")
    if asked is not None:
        if asked not in allowed:
            raise InvalidDocument(
                f"{asked[:40]!r} is no format of it", field="format", expected=" or ".join(allowed)
            )
        return allowed[asked]
    accepts = request.headers.get("accept", "")
    return next(
        (media for media in (_EVENTS, _LINES) if media in accepts), _LINES if follow else _FORMATS["json"]
    )


# -- what is answered ------------------------------------------------------------------------------


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_DOCUMENT.dump_json(document), status, headers, media_type="application/json")


def _wished(wish: Wished) -> Response:
    """That it is stored: what becomes of it, the deployment tells; nothing is to come where nothing changed."""
    where = {"Location": f"/v1/deployments/{wish.deployment}"}
    return _json(wish.model_dump(), _ACCEPTED if wish.changed else 200, where)


def _stream(events: AsyncIterator[ServerSentEvent]) -> Response:
    return EventSourceResponse(events, ping=_QUIET, headers={"Cache-Control": "no-store"})


async def _said(printed: AsyncIterator[Any]) -> AsyncIterator[tuple[str, str]]:
    async for workload, lines in printed:
        for line in lines:
            yield workload, LogLine(workload=workload, line=line).model_dump_json()


async def _page(told: AsyncGenerator[Told, None], since: int | None, limit: int) -> dict[str, Any]:
    """What is kept, at most ``limit`` of it, and after which revision to go on."""
    page, last = DeploymentEvents(events=[], next=since or 0, more=False), since or 0
    async with aclosing(told):
        async for one in told:
            if one.kind is None:
                break
            if len(page.events) == limit:
                page.more = True
                break
            event = _event(one)
            if event is not None:
                page.events.append(event)
                last = event.revision
    page.next = last
    return page.model_dump()


async def _begun(told: AsyncGenerator[Told, None]) -> AsyncGenerator[Told, None]:
    """The same once it is sure that it can be read: what cannot is said with a status."""
    first = await anext(told)

    async def whole() -> AsyncGenerator[Told, None]:
        async with aclosing(told):
            yield first
            async for one in told:
                yield one

    return whole()


async def _happening(told: AsyncGenerator[Told, None]) -> AsyncIterator[DeploymentEvent]:
    async with aclosing(told):
        async for one in told:
            event = _event(one)
            if event is not None:
                yield event


def _event(told: Told) -> DeploymentEvent | None:
    """What was published, in its envelope or, by hand, without one; None for what nobody can read."""
    if told.kind is None:
        return None
    try:
        published = from_json(told.payload, allow_inf_nan=False)
    except ValueError:
        return None
    enveloped = isinstance(published, dict) and isinstance(published.get("data"), dict)
    data = published["data"] if enveloped else published
    if not isinstance(data, dict):
        return None
    time = published.get("time") if enveloped else None
    return DeploymentEvent(
        revision=told.revision, kind=told.kind, time=time if isinstance(time, str) else None, data=data
    )
