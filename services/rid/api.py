"""HTTP: JSON in, JSON back (seed 2.3). Errors are the documents of ``schemas/errors.py``.

``POST /v1/query``, ``GET /v1/nodes?where=gpu,cpu.cores>=4&fields=name,load.1m&sort=load.1m:asc&limit=10``,
``GET /v1/nodes/{name or id}``, ``GET /v1/attributes``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas.errors import InvalidQuery, Unavailable
from schemas.query import Answer
from services.rid.answer import Answers

_LARGEST: Final = 1024 * 1024
_PARTS: Final = ("where", "sort", "fields", "limit", "explain")


def routes(
    answers: Answers, ask: Callable[[Any], Awaitable[Answer]], ready: Callable[[], bool]
) -> list[Route]:
    """The routes of rid.

    Args:
        answers: who answers about our own nodes.
        ask: who answers a query document, from other miniclouds too.
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
        return _json((await ask(await _body(request))).model_dump(mode="json"))

    async def nodes(request: Request) -> Response:
        return _json((await ask(_from_url(request))).model_dump(mode="json"))

    async def node(request: Request) -> Response:
        return _json(answers.node(request.path_params["which"]))

    async def attributes(_: Request) -> Response:
        return _json({"attributes": answers.attributes()})

    return [
        Route("/v1/query", guarded(query), methods=["POST"]),
        Route("/v1/nodes", guarded(nodes)),
        Route("/v1/nodes/{which}", guarded(node)),
        Route("/v1/attributes", guarded(attributes)),
    ]


def _json(document: Any) -> Response:
    return JSONResponse(document)


async def _body(request: Request) -> Any:
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > _LARGEST:
            raise InvalidQuery("the body is too large", expected=f"at most {_LARGEST} bytes")
    try:
        # As strict as the bus: no NaN, and no half of a surrogate pair, which no answer could carry back.
        return from_json(bytes(read) or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise InvalidQuery(f"the body is not JSON: {error}", expected="a query document") from None


def _from_url(request: Request) -> dict[str, Any]:
    """The query that the parameters of a URL spell; ``where`` is the short form."""
    document: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name not in _PARTS:
            raise InvalidQuery("a query has no such part", field=name[:80], expected=", ".join(_PARTS))
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
