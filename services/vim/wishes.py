"""What users wish of deployments, published as levels: whoever reads them next makes them so.

Everything is read from the bus at the moment it is asked, and written by compare-and-set, so any vim may
do it, also one that stands by, and of two who scale at once neither undoes what the other one wished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from bus.bus import Bus
from schemas.decision import Decision, DeploymentStatus
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.errors import Conflict, InvalidDocument, NotFound, Unavailable
from schemas.event import read_document
from schemas.verbs import MigrateDeployment, ScaleDeployment, WhichDeployment, Wished
from services.vim.level import last_level
from services.vim.offer import PAUSES

#: So many others may be faster before we give up.
_TRIES: Final = 20
Change = Callable[[DeploymentRequest], DeploymentRequest]


@dataclass(frozen=True)
class Present:
    """The last wish of a deployment.

    Attributes:
        request: what was asked last and was not refused; None if nothing that can be read.
        revision: of the last request, whatever it holds; 0 for none.
        cancelled: whether it was cancelled since.
        rejected: whether it never was accepted.
    """

    request: DeploymentRequest | None
    revision: int
    cancelled: bool
    rejected: bool


class Wishes:
    """Reads and publishes the wishes of one minicloud's users."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def serve(self) -> None:
        """Answer the verbs that wish."""
        bus = self._bus
        await bus.serve("vim", "scale", ScaleDeployment, self.scale)
        await bus.serve("vim", "pause", WhichDeployment, lambda which: self.pause(which.deployment))
        await bus.serve("vim", "resume", WhichDeployment, lambda which: self.resume(which.deployment))
        await bus.serve("vim", "migrate", MigrateDeployment, self.migrate)

    # -- requests --------------------------------------------------------------------------------

    async def create(self, request: DeploymentRequest) -> Wished:
        """Publish a request for a deployment that is not there.

        Raises:
            InvalidDocument: it has no name.
            Conflict: there is one of this name, and it is another.
        """
        deployment = request.deployment
        if deployment is None:
            raise InvalidDocument(
                "a deployment needs a name", field="name", expected="a token, such as hello"
            )
        present = await self._present(deployment)
        free = not present.revision or present.cancelled or present.rejected
        if present.request == request and not present.cancelled:
            return Wished(deployment=deployment, changed=False, revision=present.revision)
        if not free:
            raise Conflict(
                f"there is a deployment {deployment!r} already, and it is another",
                field="id" if request.id else "name",
                expected="a name of its own; or put it, if it is to be changed",
            )
        return await self._publish(deployment, request, present.revision)

    async def put(self, deployment: str, request: DeploymentRequest, expect: int | None = None) -> Wished:
        """Publish a request, whether or not the deployment is there.

        Args:
            deployment: for which one.
            request: the whole of it.
            expect: the revision that the last request must have; whatever is there unless given.

        Raises:
            InvalidDocument: it is for another deployment.
            Conflict: the last request is not the expected one.
        """
        # A name is for people: only an id must be the one that it is put under, and the name where that is all.
        if request.id not in (None, deployment):
            raise InvalidDocument(
                f"the request says {request.id!r} and is put under {deployment!r}",
                field="id",
                expected=f"{deployment!r}, or no id",
            )
        present = await self._present(deployment)
        if expect not in (None, present.revision):
            raise Conflict(
                f"the last request of {deployment!r} has revision {present.revision}, not {expect}",
                field="If-Match",
                expected="to be read and changed again",
            )
        if present.request == request and not present.cancelled:
            return Wished(deployment=deployment, changed=False, revision=present.revision)
        return await self._publish(deployment, request, None if expect is None else present.revision)

    async def cancel(self, deployment: str, reason: str = "") -> Wished:
        """Publish that it is to end.

        Raises:
            NotFound: there is none of that id.
        """
        present = await self._present(deployment)
        if not present.revision:  # its request may be kept no longer, while it runs on
            await self._bus.request("vim", "get", {"deployment": deployment})
        wish = Cancellation(reason=reason)
        subject = self._bus.subjects.cancel(deployment)
        revision = await self._bus.publish(subject, wish, about=deployment)
        return Wished(deployment=deployment, changed=not present.cancelled, revision=revision)

    # -- changes ---------------------------------------------------------------------------------

    async def scale(self, asked: ScaleDeployment) -> Wished:
        """Another number of replicas.

        Raises:
            NotFound: there is none of that id.
            Conflict: it was cancelled.
        """
        return await self._change(
            asked.deployment, lambda request: request.model_copy(update={"replicas": asked.replicas})
        )

    async def pause(self, deployment: str) -> Wished:
        """Have it stand still; raises as :meth:`scale`, and Conflict where it runs by what cannot do that."""
        _, decision = await last_level(self._bus, self._bus.subjects.decision(deployment), Decision)
        for placement in decision.placements if decision else ():
            if placement.cluster is not None and placement.engine not in PAUSES:
                # As a request it would move to where that can be done, and begin anew there.
                raise Conflict(
                    f"replica {placement.replica} of {deployment!r} runs by {placement.engine} of cluster "
                    f"{placement.cluster}, which pauses nothing",
                    expected="what runs by a node's own worker or by KubeVirt",
                )
        return await self._change(deployment, lambda request: request.model_copy(update={"paused": True}))

    async def resume(self, deployment: str) -> Wished:
        """Have it go on; raises as :meth:`scale`."""
        return await self._change(deployment, lambda request: request.model_copy(update={"paused": False}))

    async def migrate(self, asked: MigrateDeployment) -> Wished:
        """Have replicas run elsewhere.

        Raises:
            NotFound: there is no such deployment, replica or node.
            Conflict: it was cancelled, or the replica is nowhere yet.
        """
        deployment = asked.deployment
        wish = read_document(asked.model_dump(exclude={"deployment"}), Migration)
        request = (await self._wanted(deployment)).request
        if request and asked.replica is not None and asked.replica >= request.replicas:
            raise NotFound(
                f"{deployment} has no replica {asked.replica}",
                field="replica",
                expected=f"0 to {request.replicas - 1}" if request.replicas else "a deployment with replicas",
            )
        if asked.to is not None:
            await self._node(asked.to)
        subject = self._bus.subjects.migrate(deployment)
        if wish.replica is not None and wish.origin is None:
            wish.origin = await self._place_of(deployment, wish.replica)
            if wish.origin == wish.to:
                last = await last_level(self._bus, subject, Migration)
                return Wished(deployment=deployment, changed=False, revision=last[0])
        revision = await self._bus.publish(subject, wish, about=deployment)
        return Wished(deployment=deployment, changed=True, revision=revision)

    async def check_known(self, deployment: str) -> None:
        """That it was ever requested, as far as the log or the acting vim knows.

        Raises:
            NotFound: it never was.
        """
        revision, _ = await last_level(self._bus, self._bus.subjects.request(deployment), DeploymentRequest)
        if not revision:  # its request may be kept no longer, while it runs on
            await self._bus.request("vim", "get", {"deployment": deployment})

    async def _change(self, deployment: str, change: Change) -> Wished:
        for attempt in range(_TRIES):
            present = await self._wanted(deployment)
            if present.request is None:
                raise Conflict(
                    f"the last request of {deployment!r} cannot be read, so it cannot be changed",
                    expected="a whole request",
                )
            wanted = change(present.request)
            if wanted == present.request:
                return Wished(deployment=deployment, changed=False, revision=present.revision)
            with suppress(Conflict):
                return await self._publish(deployment, wanted, present.revision)
            await asyncio.sleep(0.001 * 2 ** min(attempt, 6))
        raise Conflict(f"others change {deployment!r} all the time", expected="to be asked again")

    async def _publish(self, deployment: str, request: DeploymentRequest, expect: int | None) -> Wished:
        subject = self._bus.subjects.request(deployment)
        revision = await self._bus.publish(subject, request, about=deployment, expect=expect)
        return Wished(deployment=deployment, changed=True, revision=revision)

    # -- what is there ---------------------------------------------------------------------------

    async def _wanted(self, deployment: str) -> Present:
        """The last wish of a deployment that is to run.

        Raises:
            NotFound: there is none.
            Conflict: it was cancelled.
        """
        present = await self._present(deployment)
        if not present.revision:
            await self._unknown(deployment)
        if present.cancelled:
            raise Conflict(f"{deployment!r} was cancelled", expected="a request, to have it again")
        return present

    async def _present(self, deployment: str) -> Present:
        s = self._bus.subjects
        (revision, request), (cancelled, _), (_, status) = await asyncio.gather(
            last_level(self._bus, s.request(deployment), DeploymentRequest),
            last_level(self._bus, s.cancel(deployment), Cancellation),
            last_level(self._bus, s.status(deployment), DeploymentStatus),
        )
        refused = request is None or bool(
            status and status.reason == "UpdateRejected" and status.spec == request.spec_hash()
        )
        if revision and refused:  # what holds is what was decided before it
            _, decision = await last_level(self._bus, s.decision(deployment), Decision)
            request = decision.request if decision else request
        rejected = bool(status and status.state == "rejected")
        return Present(request, revision, cancelled > revision, rejected)

    async def _place_of(self, deployment: str, replica: int) -> str:
        _, decision = await last_level(self._bus, self._bus.subjects.decision(deployment), Decision)
        for placement in decision.placements if decision else ():
            if placement.replica == replica:
                return placement.node
        raise Conflict(f"replica {replica} of {deployment!r} is nowhere yet", expected="one that runs")

    async def _node(self, name: str) -> None:
        """Raises NotFound for a node that is not there; an index that is away does not stop a wish."""
        with suppress(Unavailable):
            await self._bus.request("rid", "node", {"node": name})

    async def _unknown(self, deployment: str) -> None:
        """Raise, with the names that are like it where the acting vim can tell them."""
        with suppress(Unavailable):
            await self._bus.request("vim", "get", {"deployment": deployment})
        raise NotFound(f"there is no deployment {deployment!r}")
