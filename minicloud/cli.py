"""The ``minicloud`` command: each subcommand is loaded when it is asked for, so that help is quick."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Final

import click
import structlog

from minicloud import __version__

_COMMANDS: Final = {
    "up": ("up", "up", "Start the embedded stack on this machine."),
    "tour": ("tour", "tour", "Start a stack and watch one deployment from request to page."),
    "nodes": ("nodes", "nodes", "List the nodes and how they do."),
    "query": ("nodes", "query", "Ask which nodes match."),
    "watch": ("nodes", "watch", "Follow the resource-change stream."),
    "deploy": ("deployments", "deploy", "Publish a deployment request and follow it."),
    "deployments": ("deployments", "deployments", "List the deployments."),
    "why": ("deployments", "why", "Tell why a deployment is where it is."),
    "logs": ("deployments", "logs", "Print what a deployment said last."),
    "cancel": ("deployments", "cancel", "End a deployment."),
    "fleet": ("fleet", "fleet", "Simulate nodes over real MQTT connections."),
    "credentials": ("credentials", "credentials", "Make, list, rotate and revoke credentials."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"minicloud.commands.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nFirst steps:\n  minicloud up\n  minicloud nodes\n  minicloud deploy examples/hello.yaml",
)
@click.version_option(__version__, prog_name="minicloud")
def main() -> None:
    """One small cloud from unlike machines: everything that happens is an event on a bus."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


if __name__ == "__main__":
    main()
