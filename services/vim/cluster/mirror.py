"""What lies in the cluster, as we last heard: one list, then every change, and a list anew in time.

In: a resource and which of its objects. Out: the objects by name, and a word about each that changed. A watch
that ends is resumed where it was; where that is too long ago, or nothing was heard for long, all is listed anew
and compared, so that nothing stays missed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import structlog

from schemas.errors import Unavailable
from services.vim.cluster.api import Api, ApiError, Object, Resource
from services.vim.cluster.names import name_of

log = structlog.get_logger("cluster")
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0


class Mirror:
    """The objects of one resource.

    Args:
        api: the cluster.
        resource: which.
        namespace: where; None for everywhere.
        selector: of which labels; empty for all.
        changed: called with an object as it was (None where it is new) and as it is (None where it went).
        resync: seconds after which all are listed anew, whatever was heard.

    Attributes:
        objects: by name.
        synced: set once all were listed.
        away_since: since when the server does not answer, by the loop's clock; None while it does.
        refused: why the server does not let us read them; empty while it does.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        namespace: str | None,
        selector: str,
        changed: Callable[[Object | None, Object | None], None],
        *,
        resync: float = 600.0,
    ) -> None:
        self.resource = resource
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        self.away_since: float | None = None
        self.refused = ""
        self._api = api
        self._namespace = namespace
        self._query = {"labelSelector": selector} if selector else {}
        self._changed = changed
        self._resync = resync
        self._version = ""
        self._relist = asyncio.Event()

    def get(self, name: str) -> Object | None:
        """The object of this name."""
        return self.objects.get(name)

    def learn(self, document: Object) -> None:
        """Take in what a write of ours answered, before the watch says the same."""
        before = self.objects.get(name_of(document))
        if before is None or _newer(document, before):
            self.objects[name_of(document)] = document

    async def run(self) -> None:
        """Follow for ever."""
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            try:
                if not self._version:
                    await self._list()
                pause = _FIRST_PAUSE
                listed = loop.time()
                while self._version and loop.time() - listed < self._resync:
                    await self._watch(self._resync - (loop.time() - listed))
                self._version = ""
            except ApiError as error:
                self._version = ""
                if error.expired:
                    log.info("listed anew", resource=self.resource.plural, reason=error.reason)
                    continue
                if error.http in (401, 403, 404):
                    self.refused = str(error)
                log.warning("refused", resource=self.resource.plural, error=str(error))
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            except Unavailable as error:
                # What was watched is resumed where it was, once the server is back.
                if self.away_since is None:
                    self.away_since = loop.time()
                    log.info("away", resource=self.resource.plural, error=str(error))
                # Not all at the same moment: a server that comes back has enough to do.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(_LONGEST_PAUSE / 4, 2 * pause)
            except ValueError as error:  # no JSON: something between us and the server
                log.warning("cannot be read", resource=self.resource.plural, error=str(error))
                self._version = ""
                await asyncio.sleep(_LONGEST_PAUSE)

    async def _list(self) -> None:
        listing = await self._api.list(self.resource, self._namespace, **self._query)
        self._heard()
        fresh = {name_of(item): item for item in listing.items}
        for name in self.objects.keys() - fresh.keys():
            self._drop(name)
        for document in fresh.values():
            # Lists leave out what is the same for all of their items.
            document.setdefault("kind", self.resource.kind)
            document.setdefault("apiVersion", self.resource.api_version)
            self._put(document)
        self._version = listing.version
        self.synced.set()

    async def _watch(self, seconds: float) -> None:
        """One watch, to its end or until it is time to list anew."""
        try:
            async with asyncio.timeout(max(1.0, seconds)):
                async for kind, document in self._api.watch(
                    self.resource, self._namespace, self._version, **self._query
                ):
                    self._heard()
                    self._take(kind, document)
        except TimeoutError:
            return

    def _take(self, kind: str, document: Object) -> None:
        self._version = str(document["metadata"]["resourceVersion"])
        if kind == "DELETED":
            self._drop(name_of(document), document)
        elif kind != "BOOKMARK":
            self._put(document)

    def _heard(self) -> None:
        self.refused = ""
        if self.away_since is not None:
            log.info("back", resource=self.resource.plural)
            self.away_since = None

    def _put(self, document: Object) -> None:
        before = self.objects.get(name_of(document))
        if before is not None and not _newer(document, before):
            if before["metadata"]["resourceVersion"] == document["metadata"]["resourceVersion"]:
                self._changed(before, document)  # learned from a write, but nobody was told yet
            return
        self.objects[name_of(document)] = document
        self._changed(before, document)

    def _drop(self, name: str, last: Object | None = None) -> None:
        before = self.objects.get(name)
        if before is None:
            return
        if last is not None and last["metadata"]["uid"] != before["metadata"]["uid"]:
            return  # its successor is here already
        del self.objects[name]
        self._changed(before, None)


def _newer(one: Object, other: Object) -> bool:
    """Whether ``one`` was written after ``other``; of another life of that name it always was."""
    left, right = one["metadata"], other["metadata"]
    if left.get("uid") != right.get("uid"):
        return True
    return _version(left) > _version(right)


def _version(metadata: dict[str, Any]) -> int:
    try:
        return int(metadata["resourceVersion"])
    except (KeyError, ValueError):
        return 0
