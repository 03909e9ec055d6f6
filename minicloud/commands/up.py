"""``minicloud up``: the embedded stack on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click

from minicloud.output import command, data_option
from minicloud.site import data_folder
from minicloud.stack import Stack, StackSettings, node_name
from schemas.names import token


@click.command(
    epilog="""\b
Examples:
  minicloud up                                     # this machine becomes a small cloud
  minicloud up --fleet 20                          # with 20 simulated nodes beside it
  minicloud up --host 0.0.0.0 --nats-port 4222 --mqtt-port 1883   # let other machines in
  minicloud up --region city=Athens --label site=roof

\b
Two sites as one (docs/federation.md):
  athens$ minicloud up --minicloud athens --host 0.0.0.0 --leaf-port 7422
  athens$ minicloud credentials add minicloud pisa        # its secret goes to Pisa, into a file
  pisa$   minicloud up --minicloud pisa --join nats-leaf://athens:7422 --leaf-password-file secret
"""
)
@data_option
@click.option("--minicloud", "minicloud", default="home", show_default=True, help="Its token.")
@click.option("--node", default=None, help="This machine's name in it.  [default: the host name]")
@click.option("--fleet", default=0, show_default=True, type=click.IntRange(0), help="Simulated nodes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the broker listens.")
@click.option("--nats-port", default=0, help="Port of NATS; 0 picks a free one and keeps it.")
@click.option("--mqtt-port", default=0, help="Port of MQTT; 0 picks a free one and keeps it.")
@click.option("--region", multiple=True, metavar="KEY=VALUE", help="Where the machine is.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of the machine.")
@click.option("--allow-root", is_flag=True, help="Let workloads run as root if their request says so.")
@click.option("--leaf-port", type=int, default=None, help="Let other miniclouds join here; 7422 is usual.")
@click.option("--join", multiple=True, metavar="URL", help="Join another one, nats-leaf://host:7422.")
@click.option(
    "--leaf-password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Our secret there, one a line for each --join.",
)
@click.option(
    "--leaf-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="PEM file to check certificates of joined brokers; asks for TLS.",
)
@command
async def up(
    data: Path | None,
    minicloud: str,
    node: str | None,
    fleet: int,
    host: str,
    nats_port: int,
    mqtt_port: int,
    region: tuple[str, ...],
    label: tuple[str, ...],
    allow_root: bool,
    leaf_port: int | None,
    join: tuple[str, ...],
    leaf_password_file: Path | None,
    leaf_ca: Path | None,
) -> None:
    """Start broker, rid, vim, this machine's worker and agent, and watch over them until Ctrl-C."""
    options = [part for pair in label for part in ("--label", pair)]
    if region:
        options += ["--region", ",".join(region)]
    settings = StackSettings(
        data=data_folder(data),
        minicloud=token(minicloud, "minicloud"),
        node=token(node, "node") if node else node_name(),
        fleet=fleet,
        host=host,
        nats_port=nats_port,
        mqtt_port=mqtt_port,
        agent_options=options,
        allow_root=allow_root,
        leaf_port=leaf_port,
        join=list(join),
        leaf_password_file=leaf_password_file,
        leaf_ca=leaf_ca,
    )
    stack = Stack(settings, click.echo)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        site = await stack.start()
        click.echo(f"node {settings.node} of minicloud {site.minicloud}; try: minicloud nodes")
        if os.geteuid() != 0:
            click.echo("not root: containers and kernel limits need it; processes and unikernels do not")
        await stopping.wait()
    finally:
        click.echo("stopping")
        await stack.stop()
