"""``minicloud join``: this machine becomes a node of a minicloud that runs elsewhere, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click

from minicloud.invitation import Invitation
from minicloud.joined import Joined
from minicloud.output import command, data_option
from minicloud.site import data_folder


@click.command(
    epilog="""\b
On the hub, once:
  minicloud up --host 0.0.0.0
  minicloud credentials add node pi-3

\b
Examples (on pi-3):
  minicloud join                        # asks for the line that the hub printed; later starts need none
  minicloud join pi-3.txt               # the line is in a file
  ssh hub minicloud credentials add node pi-3 | minicloud join -
  minicloud join --label camera=yes --region city=Athens --bind 0.0.0.0

\b
The line holds the node's secrets; they are kept in the data folder, readable by its owner only. It is dead
after `minicloud credentials revoke node pi-3` or `rotate` on the hub.
"""
)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@data_option
@click.option("--region", multiple=True, metavar="KEY=VALUE", help="Where the machine is.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of the machine.")
@click.option(
    "--bind", default="127.0.0.1", show_default=True, help="Address that ports of workloads listen on."
)
@click.option("--allow-root", is_flag=True, help="Let workloads run as root if their request says so.")
@click.option("--check", is_flag=True, help="Only join: connect, keep what is needed, and end.")
@command
async def join(
    file: str | None,
    data: Path | None,
    region: tuple[str, ...],
    label: tuple[str, ...],
    bind: str,
    allow_root: bool,
    check: bool,
) -> None:
    """Start this machine's agent and worker for a minicloud elsewhere, and watch over them until Ctrl-C.

    FILE holds the line that `minicloud credentials add node NAME` printed on the hub; - reads it from
    standard input.
    """
    folder = data_folder(data)
    joined = None if file else Joined.kept(folder)
    if joined is None:
        joined = Joined(folder, Invitation.read(_line(file)))
        joined.refuse_a_stack()
        await joined.check()
        joined.store()
        click.echo(f"joined: node {joined.invitation.node} of minicloud {joined.invitation.minicloud}")
    if check:
        return
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    agent = [part for pair in label for part in ("--label", pair)]
    agent += ["--region", ",".join(region)] if region else []
    worker = ["--stop-workloads", *(["--allow-root"] if allow_root else [])]
    processes = joined.processes(click.echo, agent, worker, bind)
    told = joined.invitation
    try:
        processes.start()
        click.echo(f"node {told.node} serves {told.broker}; on the hub, try: minicloud nodes --watch")
        await stopping.wait()
    finally:
        click.echo("stopping")
        await processes.stop(["worker", "agent"])


def _line(file: str | None) -> str:
    if file and file != "-":
        return Path(file).read_text()
    if sys.stdin.isatty():
        # Not shown: it holds secrets.
        return str(click.prompt("Paste the line from the hub", hide_input=True))
    return sys.stdin.read()
