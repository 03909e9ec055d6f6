"""``minicloud scale``, ``migrate``, ``pause`` and ``resume``: wishes about what runs, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from minicloud.completion import deployment_argument, node_option
from minicloud.output import command, data_option, output_option, problem_lines, show_one
from minicloud.story import endpoint_lines
from schemas.decision import SETTLED_STATES, Decision, DeploymentStatus
from schemas.errors import RequestTimeout
from schemas.verbs import Wished

if TYPE_CHECKING:
    from minicloud.client import Minicloud

#: States that a wish may come to and be fulfilled.
_WELL: Final = frozenset({"running", "paused", "completed", "stopped"})
_REFUSED: Final = frozenset({"UpdateRejected", "CannotMigrate"})
#: Whether a wish is answered, by the last status and the last decision.
Answered = Callable[[DeploymentStatus, Decision | None], bool]

_wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Await what becomes of it."
)
_timeout_option = click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")


@click.command(
    epilog="\b\nExamples:\n  minicloud scale hello 3\n  minicloud scale hello 0       # none runs; it can be scaled up again"
)
@deployment_argument
@click.argument("replicas", type=click.IntRange(0, 1000))
@_wait_option
@_timeout_option
@data_option
@output_option
@command
async def scale(
    deployment: str, replicas: int, wait: bool, timeout: float, data: Path | None, output: str
) -> int:
    """Have REPLICAS of a deployment run. What runs already is let alone, and nothing else of its request changes."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        before = await _before(cloud, deployment)
        wished = await cloud.scale(deployment, replicas)

        def answered(status: DeploymentStatus, _: Decision | None) -> bool:
            counts = status.state not in ("running", "paused") or len(status.replicas) == replicas
            return _of_the_next(before, status) and status.state in SETTLED_STATES and counts

        return await _follow(cloud, before, wished, answered, output, timeout if wait else 0)


@click.command(
    epilog="""\b
Examples:
  minicloud migrate hello                      # every replica away from where it is
  minicloud migrate hello --replica 0 --to pi-4
  minicloud migrate hello --from pi-3          # what of it runs there
"""
)
@deployment_argument
@click.option("--replica", type=click.IntRange(min=0), help="Only this replica.")
@node_option("from", "Only replicas that run on this node.")
@node_option("to", "To this node.  [default: the best other one]")
@click.option("--reason", default="", help="Kept with the wish.")
@_wait_option
@_timeout_option
@data_option
@output_option
@command
async def migrate(
    deployment: str,
    replica: int | None,
    from_node: str | None,
    to_node: str | None,
    reason: str,
    wait: bool,
    timeout: float,
    data: Path | None,
    output: str,
) -> int:
    """Have replicas of a deployment run on another node. Each ends where it was once it runs where it goes.

    A singleton ends first. What finds no other place stays where it is and says why; the exit code is 1 then.
    """
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        before = await _before(cloud, deployment)
        wished = await cloud.migrate(deployment, replica=replica, origin=from_node, to=to_node, reason=reason)

        def answered(status: DeploymentStatus, decision: Decision | None) -> bool:
            if decision is None or decision.migrations < wished.revision:
                return False
            there = {placement.replica: placement.node for placement in decision.placements}
            here = {each.replica: each.node for each in status.replicas}
            told = not decision.unmoved or status.reason == "CannotMigrate" or status.state not in _WELL
            return status.state in SETTLED_STATES and here == there and told

        return await _follow(cloud, before, wished, answered, output, timeout if wait else 0)


@click.command(epilog="\b\nExamples:\n  minicloud pause hello\n  minicloud resume hello")
@deployment_argument
@_wait_option
@_timeout_option
@data_option
@output_option
@command
async def pause(deployment: str, wait: bool, timeout: float, data: Path | None, output: str) -> int:
    """Have every replica of a deployment stand still where it is, with its memory and its place."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        before = await _before(cloud, deployment)
        wished = await cloud.pause(deployment)
        answered = partial(_left, "running", before)
        return await _follow(cloud, before, wished, answered, output, timeout if wait else 0)


@click.command(epilog="\b\nExamples:\n  minicloud resume hello\n  minicloud resume hello --no-wait")
@deployment_argument
@_wait_option
@_timeout_option
@data_option
@output_option
@command
async def resume(deployment: str, wait: bool, timeout: float, data: Path | None, output: str) -> int:
    """Have a paused deployment go on from where it stood still."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        before = await _before(cloud, deployment)
        wished = await cloud.resume(deployment)
        answered = partial(_left, "paused", before)
        return await _follow(cloud, before, wished, answered, output, timeout if wait else 0)


class _Before(NamedTuple):
    """How a deployment was before anything was wished."""

    status: DeploymentStatus
    decision: Decision | None


async def _before(cloud: Minicloud, deployment: str) -> _Before:
    """How it is now; of a mistyped id, those that are like it."""
    known = await cloud.deployment(deployment)
    decision = known["decision"]
    return _Before(
        DeploymentStatus.model_validate(known["status"]),
        None if decision is None else Decision.model_validate(decision),
    )


def _of_the_next(before: _Before, status: DeploymentStatus) -> bool:
    """Whether a status answers a request that came after."""
    refused = status.reason == "UpdateRejected" and status.sequence > before.status.sequence
    return status.generation > before.status.generation or refused


def _left(state: str, before: _Before, status: DeploymentStatus, _: Decision | None) -> bool:
    """Whether it has settled in another state than the one that it was to leave."""
    return _of_the_next(before, status) and status.state in SETTLED_STATES - {state}


async def _follow(
    cloud: Minicloud,
    before: _Before,
    wished: Wished,
    answered: Answered,
    output: str,
    timeout: float,
) -> int:
    """Tell what becomes of a wish until it is answered; the exit code."""
    deployment = wished.deployment
    if not wished.changed or not timeout:
        if output == "table":
            how = f"is wished; follow it with `minicloud events {deployment} --follow`"
            click.echo(f"{deployment} {how if wished.changed else 'is wished so already; nothing changes'}")
        else:
            show_one(wished.model_dump(), output)
        return 0
    if output == "table":
        from minicloud.progress import Progress  # noqa: PLC0415 - rich takes a while to load

        with Progress(deployment) as progress:
            status = await _until(cloud, before, wished, answered, timeout, progress.tell)
        for line in [
            *endpoint_lines(status),
            *(f"              {p}" for p in problem_lines(status.problems)),
        ]:
            click.echo(line)
    else:
        status = await _until(cloud, before, wished, answered, timeout, lambda _: None)
        show_one(status.model_dump(mode="json", by_alias=True), output)
    return 0 if status.state in _WELL and status.reason not in _REFUSED else 1


async def _until(
    cloud: Minicloud,
    before: _Before,
    wished: Wished,
    answered: Answered,
    timeout: float,
    tell: Callable[[Any], None],
) -> DeploymentStatus:
    """The status that answers, of all that was told since the wish.

    Raises:
        RequestTimeout: none came in time; it goes on by itself.
    """
    status, decision = before
    deployment = wished.deployment
    try:
        async with asyncio.timeout(timeout), aclosing(_since(cloud, wished)) as life:
            async for _, event in life:
                if isinstance(event, DeploymentStatus):
                    status = event
                else:
                    decision = event
                tell(event)
                if answered(status, decision):
                    return status
    except TimeoutError:
        pass
    raise RequestTimeout(
        f"{deployment} has not come to it within {timeout:g} s; it is {status.state}: {status.message}",
        expected="to be looked at with `minicloud why`",
    )


def _since(cloud: Minicloud, wished: Wished) -> AsyncGenerator[tuple[int, DeploymentStatus | Decision], None]:
    """What was told of a deployment since the wish, and what comes: nothing is missed between two commands."""
    return cloud.life(wished.deployment, since=wished.revision, follow=True)
