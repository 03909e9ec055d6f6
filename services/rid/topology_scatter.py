"""Scatter: the query goes to the rids of other miniclouds, each returns its own best (seed 2.3, Figure 4).

Two messages a minicloud and query, and always as fresh as the other side; the slowest link, or the
deadline, says how long it takes. Whoever is known to be silent is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import ValidationError

from bus.bus import Bus
from schemas.errors import MinicloudError, RequestTimeout, Unavailable
from schemas.federation import PeerQuery
from schemas.query import Answer, Coverage, Query
from services.rid.topology import Mapped, Part
from services.rid.topology_peers import Peers


class Scatter:
    """The topology manager that asks.

    Args:
        link: our connection to the links.
        peers: who is there.
    """

    def __init__(self, link: Bus, peers: Peers) -> None:
        self._link = link
        self._peers = peers

    def covers(self, minicloud: str, query: Query) -> bool:  # noqa: ARG002 - the port's
        """Whoever is not silent can be asked."""
        return minicloud in self._peers and self._peers.silent(minicloud) is None

    async def execute(self, mapped: Mapped, miniclouds: Sequence[str]) -> list[Part]:
        """Ask all at once; a part each."""
        return list(await asyncio.gather(*(self._ask(mapped, name) for name in miniclouds)))

    async def _ask(self, mapped: Mapped, name: str) -> Part:
        silence = self._peers.silent(name)
        if silence is not None:
            return _missing(name, f"not asked: nothing was heard of it for {silence:.0f} s", asked=False)
        deadline = mapped.query.scope.deadline
        try:
            said = await self._link.request(
                "rid",
                "query",
                PeerQuery(query=mapped.document, seen=mapped.seen),
                minicloud=name,
                timeout=deadline,
            )
            answer = Answer.model_validate(said)
            if any("name" not in node for node in answer.nodes):
                return _missing(name, "its answer has nodes without a name")
        except RequestTimeout:
            return _missing(name, f"no answer within {deadline:g} s")
        except Unavailable as error:
            return _missing(name, f"it cannot be reached: {error.message}")
        except MinicloudError as error:
            return _missing(name, f"it refused: {error}")
        except ValidationError as error:
            return _missing(name, f"its answer cannot be read: {error.errors()[0]['msg']}")
        own = answer.coverage[0] if answer.coverage else Coverage(minicloud=name)
        told = Coverage(minicloud=name, age=own.age, nodes=own.nodes, via="link", means=own.means)
        return Part(told, answer)


def _missing(name: str, reason: str, *, asked: bool = True) -> Part:
    return Part(Coverage(minicloud=name, asked=asked, answered=False, reason=reason))
