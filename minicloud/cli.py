"""The ``minicloud`` command: each subcommand is loaded when it is asked for, so that help is quick."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Final

import click
import structlog

from minicloud import __version__
from minicloud.named_commands import NamedCommands
from minicloud.output import EXIT_CODES

_COMMANDS: Final = {
    "up": ("up", "up", "Start the embedded stack on this machine."),
    "join": ("join", "join", "Make this machine a node of a minicloud elsewhere."),
    "tour": ("tour", "tour", "Start a stack and watch one deployment from request to page."),
    "nodes": ("nodes", "nodes", "List the nodes and how they do."),
    "query": ("nodes", "query", "Ask which nodes match."),
    "watch": ("nodes", "watch", "Follow the resource-change stream."),
    "deploy": ("deployments", "deploy", "Publish a deployment request and follow it."),
    "deployments": ("deployments", "deployments", "List the deployments."),
    "why": ("deployments", "why", "Tell why a deployment is where it is."),
    "whatif": ("deployments", "whatif", "Tell what would be decided of a request, and do nothing."),
    "events": ("deployments", "events", "Tell the life of a deployment, step by step."),
    "logs": ("deployments", "logs", "Print what a deployment said last."),
    "scale": ("wishes", "scale", "Have another number of replicas run."),
    "migrate": ("wishes", "migrate", "Have replicas run on another node."),
    "pause": ("wishes", "pause", "Have a deployment stand still."),
    "resume": ("wishes", "resume", "Have a paused deployment go on."),
    "cancel": ("deployments", "cancel", "End a deployment."),
    "package": ("package", "package", "Make the image of a unikernel, for nodes and pods."),
    "fleet": ("fleet", "fleet", "Simulate nodes over real MQTT connections."),
    "credentials": ("credentials", "credentials", "Make, list, rotate and revoke credentials."),
}


_EPILOG: Final = """
\b
Examples:
  minicloud up                            # this machine becomes a small cloud
  minicloud nodes --watch                 # in another terminal
  minicloud deploy examples/hello.yaml
  minicloud deploy --help                 # each command has examples

\b
Exit codes:
{codes}

\b
Another site than the stack in .data: by --data, or by environment:
  MINICLOUD_DATA           data folder of a stack on this machine
  MINICLOUD_BROKER         nats://host:4222, or tls://host:4222, elsewhere; needs MINICLOUD_USER
  MINICLOUD_MINICLOUD      the token of the minicloud [home]
  MINICLOUD_USER           such as user.ada, made by `minicloud credentials add user ada`
  MINICLOUD_PASSWORD_FILE  a file with its secret (or MINICLOUD_PASSWORD: the secret)
  MINICLOUD_CA             PEM file of who signed the broker's certificate

\b
Completion of commands and options, for bash (zsh and fish likewise):
  eval "$(_MINICLOUD_COMPLETE=bash_source minicloud)"
""".format(codes="\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items()))


class _Lazy(NamedCommands):
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
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="minicloud")
@click.pass_context
def main(ctx: click.Context) -> None:
    """One small cloud from unlike machines: everything that happens is an event on a bus."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False
    # asyncio warns of something harmless whenever a TLS connection ends.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


if __name__ == "__main__":
    main()
