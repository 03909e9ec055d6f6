"""HTTP: the seed's paths to the letter, and typed ones under ``/v1``; every one asks for a secret.

``/monitoring`` and ``/characterization`` are those of seed 3.4. ``/v1`` says the same and more with pages,
units and errors (the documents of ``schemas/errors.py``). ``/metrics`` and ``/v1/targets`` are Prometheus'.
``/openapi.json`` describes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.errors import InvalidQuery, Unavailable
from services.monitor import figures
from services.monitor.answer import Answers, window_named
from services.monitor.guard import Endpoint, Guard
from services.monitor.openapi import document as openapi
from services.monitor.page import CONTENT_TYPE
from services.monitor.prometheus import Prometheus, checked_namespace
from services.monitor.tosca import MEDIA_TYPE
from services.monitor.views import Targets

_LIMIT: Final = 100
_MOST: Final = 1000
_PHYSICAL: Final = "physical_metrics"
_VIRTUAL: Final = "virtual_metrics"
_DOCUMENT: Final[TypeAdapter[Any]] = TypeAdapter(Any)
_TARGETS: Final = TypeAdapter(list[Targets])


def routes(
    answers: Answers,
    prometheus: Prometheus | None,
    scrape: Callable[[], bytes],
    guard: Guard,
    ready: Callable[[], bool],
    instance: str,
) -> list[Route]:
    """The routes of the monitor.

    Args:
        answers: what is known.
        prometheus: whom to ask for disks; None for nobody.
        scrape: the page for Prometheus.
        guard: lets through who knows a secret.
        ready: whether the present state is in; until then every route that tells of it says 503.
        instance: how Prometheus would label the monitor.
    """

    async def monitoring(request: Request) -> Response:
        asked = _asked(request, "metric", "namespace")
        metric, namespace = asked.get("metric"), asked.get("namespace")
        if metric == _PHYSICAL:
            return _results(await figures.physical(answers.fleet, prometheus))
        if namespace == "all" and metric in (None, _VIRTUAL):
            return _results(await figures.namespaces(answers.virtual))
        if metric != _VIRTUAL:
            raise InvalidQuery(
                f"{metric[:40]!r} is no metric" if metric else "is missing",
                field="metric",
                expected=f"{_PHYSICAL}, {_VIRTUAL} with a namespace, or namespace=all alone",
            )
        if not namespace:
            raise InvalidQuery("is missing", field="namespace", expected="the name of one, or all")
        return _results(await figures.virtual(answers.virtual, checked_namespace(namespace), instance))

    async def characterization(request: Request) -> Response:
        match _asked(request, "format").get("format", "json"):
            case "json":
                return _json([device async for device in figures.devices(answers.fleet)])
            case "tosca":
                return await tosca(request)
            case other:
                raise InvalidQuery(f"{other[:40]!r} is no format", field="format", expected="json or tosca")

    async def tosca(_: Request) -> Response:
        name = f"{answers.minicloud}.tosca.yaml"
        return Response(
            await answers.tosca(),
            media_type=MEDIA_TYPE,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def nodes(request: Request) -> Response:
        asked = _asked(request, "after", "limit")
        return _json(await answers.nodes(asked.get("after", ""), _limit(asked)))

    async def node(request: Request) -> Response:
        return _json(answers.node(request.path_params["node"]))

    async def past(request: Request) -> Response:
        asked = _asked(request, "before", "limit")
        return _json(await answers.past(request.path_params["node"], _limit(asked), _moment(asked)))

    async def windows(request: Request) -> Response:
        asked = _asked(request, "window", "after", "limit")
        window = window_named(asked.get("window", "5m"))
        return _json(await answers.windows(window, asked.get("after", ""), _limit(asked)))

    async def windows_of(request: Request) -> Response:
        window = window_named(_asked(request, "window").get("window", "5m"))
        return _json(answers.windows_of(request.path_params["node"], window))

    async def workloads(request: Request) -> Response:
        asked = _asked(request, "namespace", "after", "limit")
        namespace = checked_namespace(asked["namespace"]) if "namespace" in asked else None
        return _json(await answers.workloads(namespace, asked.get("after", ""), _limit(asked)))

    async def namespaces(_: Request) -> Response:
        return _json(await answers.namespaces())

    async def impacts(request: Request) -> Response:
        asked = _asked(request, "after", "limit")
        return _json(answers.impacts(asked.get("after", ""), _limit(asked)))

    async def impact(request: Request) -> Response:
        return _json(answers.impact(request.path_params["node"]))

    async def deployment(request: Request) -> Response:
        return _json(answers.deployment(request.path_params["deployment"]))

    async def targets(request: Request) -> Response:
        asked = _asked(request, "port")
        return Response(
            _TARGETS.dump_json(answers.targets(_number(asked, "port", 65535))), media_type="application/json"
        )

    async def metrics(_: Request) -> Response:
        return Response(scrape(), media_type=CONTENT_TYPE)

    async def described(_: Request) -> Response:
        return _json(openapi())

    def whole(answer: Endpoint) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            if not ready():
                raise Unavailable(
                    "the present state is still being read", expected="to be asked again in a moment"
                )
            return await answer(request)

        return guard(endpoint)

    return [
        Route("/monitoring", whole(monitoring)),
        Route("/characterization", whole(characterization)),
        Route("/v1/nodes", whole(nodes)),
        Route("/v1/nodes/{node}", whole(node)),
        Route("/v1/nodes/{node}/characterizations", whole(past)),
        Route("/v1/nodes/{node}/windows", whole(windows_of)),
        Route("/v1/nodes/{node}/impact", whole(impact)),
        Route("/v1/windows", whole(windows)),
        Route("/v1/workloads", whole(workloads)),
        Route("/v1/namespaces", whole(namespaces)),
        Route("/v1/impacts", whole(impacts)),
        Route("/v1/deployments/{deployment}", whole(deployment)),
        Route("/v1/tosca", whole(tosca)),
        Route("/v1/targets", whole(targets)),
        Route("/metrics", guard(metrics)),
        Route("/openapi.json", guard(described)),
    ]


def _results(told: figures.Results) -> Response:
    headers = {}
    if told.silent:
        # Beside the document, whose shape is the seed's.
        said = "; ".join(f"{name}: {why}" for name, why in told.silent.items())
        headers["Minicloud-Silent"] = said.encode("ascii", "replace").decode().replace("\n", " ")[:2000]
    return Response(_DOCUMENT.dump_json(told.document()), media_type="application/json", headers=headers)


def _json(document: BaseModel | dict[str, Any] | list[Any]) -> Response:
    if isinstance(document, BaseModel):
        return Response(document.model_dump_json(), media_type="application/json")
    return Response(_DOCUMENT.dump_json(document), media_type="application/json")


def _asked(request: Request, *allowed: str) -> dict[str, str]:
    """The parameters of the URL.

    Raises:
        InvalidQuery: names one that means nothing here.
    """
    for name in request.query_params:
        if name not in allowed:
            raise InvalidQuery("there is no such parameter", field=name[:80], expected=", ".join(allowed))
    return dict(request.query_params)


def _limit(asked: Mapping[str, str]) -> int:
    return _number(asked, "limit", _MOST) or _LIMIT


def _number(asked: Mapping[str, str], name: str, most: int) -> int | None:
    text = asked.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidQuery(f"{text[:40]!r} is too much or no number", field=name, expected=f"1 to {most}")
    return int(text)


def _moment(asked: Mapping[str, str]) -> datetime | None:
    text = asked.get("before")
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that nobody escaped
    except ValueError:
        raise InvalidQuery(
            f"{text[:40]!r} is no moment", field="before", expected="such as 2026-05-04T09:30:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
