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


def _deployments(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    names: list[str] = []
    with suppress(MinicloudError, OSError):  # a shell that completes has no place for errors
        names = asyncio.run(_names(ctx.params.get("data")))
    return [name for name in names if name.startswith(incomplete)]


async def _names(data: Path | None) -> list[str]:
    from minicloud.client import connect  # noqa: PLC0415 - only when somebody completes

    async with connect(data, timeout=0.2) as cloud:
        return [each["deployment"] for each in await cloud.deployments()]
