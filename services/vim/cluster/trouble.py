"""Why a pod does not start, in the cluster's own words: its events, asked for only where a pod is stuck.

In: observations that are in trouble, and the pods. Out: the same with what the last warning says of it. Events are
many and short-lived, so they are not mirrored.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from schemas.errors import MinicloudError
from services.vim.cluster.api import EVENTS, Api, Object
from services.vim.cluster.kind import Observation
from services.vim.cluster.names import name_of

_RUNTIME_MISSING: Final = re.compile(r"no runtime for .* is configured|RuntimeHandler .* not supported")
_LONGEST: Final = 600


class Troubles:
    """Explains what is stuck.

    Args:
        api: the cluster.
        namespace: where pods lie.

    Attributes:
        every: seconds after which a pod is asked about again.
    """

    every: float = 5.0

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._known: dict[str, tuple[float, tuple[str, str] | None]] = {}

    async def explain(self, seen: Observation, pods: Sequence[Object]) -> Observation:
        """The observation with the last warning about its pod, if there is one."""
        name = (seen.reference or "").rpartition("/")[2]
        pod = next((pod for pod in pods if name_of(pod) == name), None)
        if pod is None:
            return seen
        warning = await self._warning(str(pod["metadata"]["uid"]))
        if warning is None:
            return seen
        reason, message = warning
        if _RUNTIME_MISSING.search(message):
            return replace(seen, state="failed", reason="RuntimeMissing", message=message)
        if seen.reason in ("Preparing", "Scheduling"):
            return replace(seen, reason=reason, message=message)
        return replace(seen, message=seen.message or message)

    async def _warning(self, uid: str) -> tuple[str, str] | None:
        now = asyncio.get_running_loop().time()
        asked, known = self._known.get(uid, (None, None))
        if asked is not None and now - asked < self.every:
            return known
        self._known = {one: entry for one, entry in self._known.items() if now - entry[0] < 20 * self.every}
        if asked is None:
            # Most pods are on their way for a moment: only those that are still so later are worth a question.
            self._known[uid] = (now, None)
            return None
        try:
            listing = await self._api.list(
                EVENTS, self._namespace, fieldSelector=f"involvedObject.uid={uid},type=Warning"
            )
        except MinicloudError:
            return known
        events = sorted(
            listing.items,
            key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""),
        )
        if events:
            last = events[-1]
            known = (str(last.get("reason") or "Warning"), str(last.get("message") or "")[:_LONGEST])
        self._known[uid] = (now, known)
        return known
