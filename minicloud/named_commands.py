"""A group of commands that answers an unknown one with the nearest that exists."""

from __future__ import annotations

import difflib
from typing import NoReturn

import click


class NamedCommands(click.Group):
    """A group that answers an unknown command with the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begin with, and the rest of them."""
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            _unknown(ctx, args[0], known)
        return super().resolve_command(ctx, args)


def _unknown(ctx: click.Context, name: str, known: list[str]) -> NoReturn:
    """Refuse a command that does not exist, naming the nearest one that does."""
    near = difflib.get_close_matches(name, known, 2, cutoff=0.5)
    right = " or ".join(f"`{ctx.command_path} {one}`" for one in near) or f"one of {', '.join(known)}"
    ctx.fail(f"there is no command {name!r} (expected {right})")
