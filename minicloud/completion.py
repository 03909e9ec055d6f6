"""What the shell may complete beside commands and options: the deployments of the stack that is spoken to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from schemas.errors import MinicloudError


def deployment_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument DEPLOYMENT of a command."""
    return click.argument("deployment", shell_complete=_deployments)(command)


def node_option(name: str, about: str) -> Callable[..., Any]:
    """An option that names a node."""
    return click.option(f"--{name}", f"{name}_node", metavar="NODE", shell_complete=_nodes, help=about)


def _deployments(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    names: list[str] = []
    with suppress(MinicloudError, OSError):  # a shell that completes has no place for errors
        names = asyncio.run(_names(ctx.params.get("data")))
    return [name for name in names if name.startswith(incomplete)]


def _nodes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    names: list[str] = []
    with suppress(MinicloudError, OSError):
        names = asyncio.run(_node_names(ctx.params.get("data")))
    return [name for name in names if name.startswith(incomplete)]


async def _node_names(data: Path | None) -> list[str]:
    from minicloud.client import connect  # noqa: PLC0415 - only when somebody completes

    async with connect(data, timeout=0.2) as cloud:
        return [str(node["name"]) for node in (await cloud.query("worker", fields=["name"])).nodes]


async def _names(data: Path | None) -> list[str]:
    from minicloud.client import connect  # noqa: PLC0415 - only when somebody completes

    async with connect(data, timeout=0.2) as cloud:
        return [each["deployment"] for each in await cloud.deployments()]
