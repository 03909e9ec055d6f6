"""Everything of ours that lies in the cluster, by whose it is: mirrors of each resource under one roof.

In: the resources that kinds must see. Out: the objects of one deployment and runtime, and a word whenever one of
them changed. A resource that the cluster does not serve is looked for again in time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from schemas.errors import MinicloudError
from services.vim.cluster.api import RUNTIME_CLASSES, Api, Object, Resource
from services.vim.cluster.kind import Facts
from services.vim.cluster.mirror import Mirror
from services.vim.cluster.names import Key, Ours, name_of

log = structlog.get_logger("cluster")
_LOOK_EVERY: Final = 30.0


class Lying:
    """What of ours lies there.

    Args:
        api: the cluster.
        ours: our mark.
        resources: what is looked at.
        changed: called with whose object changed.
        resync: seconds after which all is listed anew.

    Attributes:
        facts: what the cluster can do.
    """

    def __init__(
        self,
        api: Api,
        ours: Ours,
        resources: Iterable[Resource],
        changed: Callable[[Key], None],
        *,
        resync: float,
    ) -> None:
        self._api = api
        self._ours = ours
        self._resources = list(dict.fromkeys(resources))
        self._changed = changed
        self._resync = resync
        self._mirrors: dict[Resource, Mirror] = {}
        self._by_key: dict[Key, dict[tuple[Resource, str], Object]] = defaultdict(dict)
        self.facts = Facts()

    async def look(self) -> bool:
        """Find out what the cluster serves; whether that is new.

        Raises:
            ApiError, Unavailable: it does not say.
        """
        groups = {group["name"] for group in (await self._api.document("/apis")).get("groups") or ()}
        classes: dict[str, str] = {}
        try:
            for one in (await self._api.list(RUNTIME_CLASSES)).items:
                classes[name_of(one)] = str(one.get("handler") or "")
        except MinicloudError as error:
            log.info("runtime classes cannot be read", error=str(error))
            classes = dict(self.facts.runtime_classes)
        version = str((await self._api.document("/version")).get("gitVersion") or "")
        facts = Facts(version, frozenset(groups), classes)
        news, self.facts = facts != self.facts, facts
        return news

    def missing(self) -> list[Mirror]:
        """Mirrors of what the cluster serves by now and nobody follows yet; whoever asks must run them."""
        made = []
        for resource in self._resources:
            served = not resource.group or resource.group in self.facts.groups
            if served and resource not in self._mirrors:
                mirror = Mirror(
                    self._api,
                    resource,
                    self._ours.namespace,
                    self._ours.selector,
                    self._take(resource),
                    resync=self._resync,
                )
                self._mirrors[resource] = mirror
                made.append(mirror)
        return made

    async def synced(self) -> None:
        """Return once all was listed, or may not be read."""
        for mirror in list(self._mirrors.values()):
            while not mirror.synced.is_set() and not mirror.refused:
                await asyncio.sleep(0.02)

    def away_for(self, now: float) -> float:
        """For how many seconds the server has not answered."""
        since = [mirror.away_since for mirror in self._mirrors.values() if mirror.away_since is not None]
        return now - min(since) if since else 0.0

    def groups(self) -> set[Key]:
        """Everybody of whom something lies there."""
        return {key for key, objects in self._by_key.items() if objects}

    def of(self, key: Key) -> dict[Resource, list[Object]]:
        """What lies there of one group, by name."""
        found: dict[Resource, list[Object]] = defaultdict(list)
        for (resource, _), document in sorted(self._by_key.get(key, {}).items(), key=lambda one: one[0][1]):
            found[resource].append(document)
        return dict(found)

    def get(self, resource: Resource, name: str) -> Object | None:
        """One object of ours."""
        mirror = self._mirrors.get(resource)
        return mirror.get(name) if mirror else None

    def learn(self, resource: Resource, document: Object) -> None:
        """Take in what a write of ours answered, before the watch says the same."""
        mirror = self._mirrors.get(resource)
        key = self._ours.key_of(document)
        if mirror is None or key is None:
            return
        document.setdefault("kind", resource.kind)
        mirror.learn(document)
        if mirror.get(name_of(document)) is document:
            self._by_key[key][resource, name_of(document)] = document

    def _take(self, resource: Resource) -> Callable[[Object | None, Object | None], None]:
        def take(before: Object | None, after: Object | None) -> None:
            for document in (before, after):
                key = self._ours.key_of(document) if document else None
                if document is None or key is None:
                    continue
                if document is after:
                    self._by_key[key][resource, name_of(document)] = document
                elif after is None or self._ours.key_of(after) != key:
                    self._by_key[key].pop((resource, name_of(document)), None)
                    if not self._by_key[key]:
                        del self._by_key[key]
                self._changed(key)

        return take


def controlled(document: Object) -> bool:
    """Whether an object was made by another, which sees to its end."""
    owners: list[dict[str, Any]] = document["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") for owner in owners)
