"""The Kubernetes API as raw JSON: get, list, watch, apply, patch, delete, each within a bounded time.

In: resources and documents. Out: documents as the server sent them, since typed models drop fields that they
do not know. The official client reads the kubeconfig and connects; what the server refuses is an
:class:`ApiError`, and one that cannot be reached is :class:`schemas.errors.Unavailable`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlencode

import aiohttp
import structlog
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from schemas.errors import InvalidDocument, MinicloudError, Unavailable

log = structlog.get_logger("cluster")
Object = dict[str, Any]
#: Who we are among those that own fields of an object.
MANAGER: Final = "minicloud"
_PATIENCE: Final = 15.0
_WATCH: Final = 240.0
_PAGE: Final = 500
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_TOKEN_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object: where the API serves it.

    Attributes:
        group: of the API; empty for the core.
        version: of the group.
        plural: its name in paths.
        kind: its name in documents.
        namespaced: whether its objects lie in a namespace.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As documents say it: ``v1``, ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, part: str | None = None) -> str:
        """Where one object, or all of them, are."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(filter(None, [f"{root}{within}/{self.plural}", name, part]))


NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
EVENTS: Final = Resource("", "v1", "events", "Event")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
JOBS: Final = Resource("batch", "v1", "jobs", "Job")
RUNTIME_CLASSES: Final = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)


class ApiError(MinicloudError):
    """The API server refused.

    Attributes:
        http: its HTTP status.
        reason: its own word: ``NotFound``, ``AlreadyExists``, ``Conflict``, ``Forbidden``, ``Invalid``, ``Expired``.
        causes: what it holds against it, ``{reason, message, field}`` each.
    """

    code: ClassVar[str] = "ClusterRefused"
    status: ClassVar[int] = 502

    def __init__(self, http: int, reason: str, message: str, causes: list[dict[str, Any]]) -> None:
        super().__init__(message or reason or f"HTTP {http}")
        self.http = http
        self.reason = reason
        self.causes = causes

    @classmethod
    def of(cls, http: int, document: Any) -> Self:
        """The error that a ``Status`` document describes."""
        told = document if isinstance(document, dict) else {}
        causes = (told.get("details") or {}).get("causes") or []
        return cls(http, str(told.get("reason") or ""), str(told.get("message") or document), causes)

    @property
    def owners(self) -> list[dict[str, Any]]:
        """The fields that somebody else owns, where that is what it is about."""
        return [cause for cause in self.causes if cause.get("reason") == "FieldManagerConflict"]

    @property
    def expired(self) -> bool:
        """Whether what was asked after is no longer kept: list anew."""
        return self.http == 410 or self.reason in ("Expired", "Gone")


@dataclass(slots=True)
class Listing:
    """Objects, and the version after which a watch goes on."""

    items: list[Object]
    version: str


class Api:
    """One cluster's API server, by one credential."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        configuration.connection_pool_maxsize = 64
        self._rest = RESTClientObject(configuration)
        self._loader: Any = None
        self._loaded = 0.0

    @classmethod
    async def connect(cls, kubeconfig: Path | None, context: str | None = None) -> Self:
        """By a kubeconfig; without one as the ServiceAccount of the pod that we are in.

        Raises:
            InvalidDocument: the kubeconfig cannot be read, or names no cluster.
        """
        configuration = Configuration()
        loader = None
        try:
            if kubeconfig is None:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                loader = await kubernetes_config.load_kube_config(
                    config_file=str(kubeconfig),
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (kubernetes_config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidDocument(
                f"cannot be used: {error}",
                field=str(kubeconfig or "the ServiceAccount of this pod"),
                expected="a kubeconfig with a cluster, a user and a context",
            ) from None
        api = cls(configuration)
        api._loader = loader
        return api

    async def close(self) -> None:
        """End all connections."""
        await self._rest.close()

    # -- objects ---------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """An object; None where there is none."""
        try:
            return await self._ask("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.http == 404:
                return None
            raise

    async def list(self, resource: Resource, namespace: str | None = None, **query: str) -> Listing:
        """All objects, asked for page by page."""
        while True:
            items: list[Object] = []
            page: dict[str, str] = {"limit": str(_PAGE), **query}
            try:
                while True:
                    document = await self._ask("GET", resource.path(namespace), page, patience=60.0)
                    items += document.get("items") or []
                    meta = document.get("metadata") or {}
                    if not meta.get("continue"):
                        return Listing(items, str(meta.get("resourceVersion", "")))
                    page = {**page, "continue": meta["continue"]}
            except ApiError as error:
                if not error.expired or "continue" not in page:
                    raise

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, **query: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """What changes after ``version``: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK`` with the object.

        It ends quietly after some minutes, as the server was asked to; resume it after the last version.

        Raises:
            ApiError: ``expired``: too old; list anew.
            Unavailable: the server went away.
        """
        asked = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(_WATCH)),
            **query,
        }
        # Bookmarks come once a minute: a connection that says nothing for longer is dead.
        async with self._open(
            "GET", resource.path(namespace), asked, total=_WATCH + 30, silence=150.0
        ) as answer:
            while line := await answer.content.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError.of(int(event["object"].get("code") or 500), event["object"])
                yield event["type"], event["object"]

    async def apply(self, resource: Resource, namespace: str | None, document: Object) -> Object:
        """Make the object have what the document says, by server-side apply; what others own is a conflict."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        path = resource.path(namespace, document["metadata"]["name"])
        return await self._ask("PATCH", path, query, document, _APPLY)

    async def create(self, resource: Resource, namespace: str | None, document: Object) -> Object:
        """Make an object; one that is there already is a conflict."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._ask("POST", resource.path(namespace), query, document)

    async def patch(
        self, resource: Resource, namespace: str | None, name: str, document: Object, part: str | None = None
    ) -> Object:
        """Merge ``document`` into an object, or into a part of it such as ``status``."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._ask("PATCH", resource.path(namespace, name, part), query, document, _MERGE)

    async def put(
        self, resource: Resource, namespace: str | None, name: str, part: str, document: Object
    ) -> Object:
        """Tell a part of an object what to do, such as ``pause`` of a virtual machine."""
        return await self._ask("PUT", resource.path(namespace, name, part), None, document)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace: int | None = None,
    ) -> None:
        """End an object and, behind it, what it made; one that is gone, or is another by now, is left alone."""
        document: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            document["preconditions"] = {"uid": uid}
        if grace is not None:
            document["gracePeriodSeconds"] = grace
        try:
            await self._ask("DELETE", resource.path(namespace, name), None, document)
        except ApiError as error:
            if error.http not in (404, 409):
                raise

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        """A text that the server, or a node behind it, tells: what a container printed."""
        async with self._open("GET", path, query, total=_PATIENCE, silence=_PATIENCE) as answer:
            return (await answer.read()).decode(errors="replace")

    async def document(self, path: str) -> Object:
        """What lies at a path: ``/version``, ``/apis``."""
        return await self._ask("GET", path)

    # -- asking ----------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        kind: str = "application/json",
        patience: float = _PATIENCE,
    ) -> Object:
        async with self._open(
            method, path, query, total=patience, silence=patience, body=body, kind=kind
        ) as answer:
            document: Object = json.loads(await answer.read() or b"{}")
            return document

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        total: float,
        silence: float,
        body: Object | None = None,
        kind: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Content-Type": kind, "Accept": "application/json", **await self._credential()}
        patience = aiohttp.ClientTimeout(total=total, sock_connect=5.0, sock_read=silence)
        try:
            answer = await self._rest.request(method, url, headers, body, _request_timeout=patience)
            response: aiohttp.ClientResponse = answer.response
            try:
                if response.status >= 400:
                    raise ApiError.of(response.status, _json(await response.read()))
                yield response
            finally:
                response.release()
        except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"the API server does not answer: {why}", field=self.configuration.host
            ) from None

    async def _credential(self) -> dict[str, str]:
        """What proves who we are; a token is read anew in time, since tokens end."""
        now = asyncio.get_running_loop().time()
        if self._loader is not None and now - self._loaded > _TOKEN_EVERY:
            self._loaded = now
            try:
                await self._loader.load_and_set(self.configuration)
            except (kubernetes_config.ConfigException, OSError, ValueError) as error:
                log.warning("the kubeconfig cannot be read again", error=str(error))
        headers = {}
        known: dict[str, Any] = await self.configuration.auth_settings()  # type: ignore[assignment]
        for auth in known.values():
            if auth["in"] == "header" and auth["value"]:
                headers[str(auth["key"])] = str(auth["value"])
        return headers


def _json(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode(errors="replace")[:400]
