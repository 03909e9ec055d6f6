"""``minicloud up``: the embedded stack on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from bus.broker_config import Tls
from minicloud.client import connect
from minicloud.fleetreport import report
from minicloud.kubeconfig import clusters_of
from minicloud.output import command, data_option, output_option, show_one
from minicloud.site import data_folder
from minicloud.stack import Stack, StackSettings, node_name
from schemas.errors import MinicloudError, Unavailable
from schemas.names import token

_LONG: Final = 10.0  # seconds until a service that does not answer is worth a word
_PEM: Final = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    epilog="""\b
Examples:
  minicloud up                                     # this machine becomes a small cloud
  minicloud up --fleet 20                          # with 20 simulated nodes beside it
  minicloud up --monitor                           # with the monitoring API and a page for Prometheus
  minicloud up --region city=Athens --label site=roof
  minicloud up --kubeconfig ~/.kube/config         # and a Kubernetes cluster is part of it (docs/kubernetes.md)
  minicloud up --host 0.0.0.0 --nats-port 4222 --mqtt-port 1883   # let other machines in
  minicloud up --host 0.0.0.0 --address hub.example --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem

\b
Another machine becomes a node with one line (see `minicloud join --help`):
  minicloud credentials add node pi-3

\b
Two sites as one (docs/federation.md):
  athens$ minicloud up --minicloud athens --host 0.0.0.0 --leaf-port 7422
  athens$ minicloud credentials add minicloud pisa        # its secret goes to Pisa, into a file
  pisa$   minicloud up --minicloud pisa --join nats-leaf://athens:7422 --leaf-password-file secret
"""
)
@data_option
@output_option
@click.option("--minicloud", "minicloud", default="home", show_default=True, help="Its token.")
@click.option("--node", default=None, help="This machine's name in it.  [default: the host name]")
@click.option("--fleet", default=0, show_default=True, type=click.IntRange(0), help="Simulated nodes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the broker listens.")
@click.option(
    "--address",
    default=None,
    help="Name or address by which other machines reach this one, and that its certificate is for.  "
    "[default: found out, if --host lets others in]",
)
@click.option("--nats-port", default=0, help="Port of NATS; 0 picks a free one and keeps it.")
@click.option("--mqtt-port", default=0, help="Port of MQTT; 0 picks a free one and keeps it.")
@click.option("--tls-cert", type=_PEM, help="PEM certificate of the broker: everything is encrypted.")
@click.option("--tls-key", type=_PEM, help="Its PEM key.")
@click.option(
    "--tls-ca", type=_PEM, help="PEM of who signed it; nodes and clients trust that.  [default: the system's]"
)
@click.option("--region", multiple=True, metavar="KEY=VALUE", help="Where the machine is.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of the machine.")
@click.option("--allow-root", is_flag=True, help="Let workloads run as root if their request says so.")
@click.option(
    "--monitor",
    "monitor_port",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=3000,
    default=None,
    metavar="[PORT]",
    help="Run the monitor, too, its API on this port; 0 picks a free one and keeps it.  [port: 3000]",
)
@click.option(
    "--kubeconfig",
    multiple=True,
    metavar="[NAME=]FILE",
    help="A Kubernetes cluster that takes workloads, too; can be given for several.",
)
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
    output: str,
    minicloud: str,
    node: str | None,
    fleet: int,
    host: str,
    address: str | None,
    nats_port: int,
    mqtt_port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    region: tuple[str, ...],
    label: tuple[str, ...],
    allow_root: bool,
    kubeconfig: tuple[str, ...],
    monitor_port: int | None,
    leaf_port: int | None,
    join: tuple[str, ...],
    leaf_password_file: Path | None,
    leaf_ca: Path | None,
) -> None:
    """Start broker, rid, vim, this machine's worker and agent, and watch over them until Ctrl-C.

    With -o json or yaml, standard output gets one document, when all are started: where what is.
    """
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
        tls=_certificates(tls_cert, tls_key, tls_ca),
        address=address or _address(host),
        agent_options=options,
        allow_root=allow_root,
        clusters=clusters_of(kubeconfig),
        monitor_port=monitor_port,
        leaf_port=leaf_port,
        join=list(join),
        leaf_password_file=leaf_password_file,
        leaf_ca=leaf_ca,
    )
    say = partial(click.echo, err=output != "table")
    stack = Stack(settings, say)
    begun = time.monotonic()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        site = await stack.start()
        answering = asyncio.ensure_future(_answering(settings.data, say))
        await asyncio.wait([answering, stop], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            return
        say(f"ready after {time.monotonic() - begun:.1f} s")
        if output == "table":
            say(f"node {settings.node} of minicloud {site.minicloud}; try: minicloud nodes")
            if site.address:
                say(
                    f"other machines reach it at {site.broker_elsewhere}; minicloud credentials add node NAME"
                )
        else:
            known = {"minicloud": site.minicloud, "node": site.node, "data": str(settings.data)}
            known |= {"broker": site.broker_elsewhere, "mqtt": site.mqtt_elsewhere, "ca": site.ca}
            show_one({**known, "http": site.http}, output)
        if site.http and "monitor" in site.http:
            say(f"monitor at {site.http['monitor']}; user monitor, its password is in {stack.api_secret}")
        if os.geteuid() != 0:
            say("not root: containers and kernel limits need it; processes and unikernels do not")
        telling = asyncio.ensure_future(_tell_fleet(stack, say, begun))
        await stop
        telling.cancel()
    finally:
        if stack.site:
            say("stopping")
        await stack.stop()


async def _answering(data: Path, say: Callable[[str], None]) -> None:
    """Return when commands have somebody to ask; tells once whom it has waited for long."""
    begun, told = time.monotonic(), False
    async with connect(data) as cloud:
        asked: tuple[tuple[str, Callable[[], Awaitable[Any]]], ...] = (
            ("rid", partial(cloud.query, limit=1)),
            ("vim", cloud.deployments),
        )
        for name, ask in asked:
            while True:
                try:
                    await ask()
                    break
                except Unavailable:
                    if not told and time.monotonic() - begun > _LONG:
                        told = True
                        say(f"{name} does not answer yet; {data / 'logs' / name}.log says why")
                    await asyncio.sleep(0.05)


async def _tell_fleet(stack: Stack, say: Callable[[str], None], begun: float) -> None:
    """How many of the simulated nodes can be queried until all of them can, then how the stack fares."""
    settings, told = stack.settings, 0
    while told < settings.fleet:
        with suppress(MinicloudError):
            async with connect(settings.data) as cloud:
                while told < settings.fleet:
                    answer = await cloud.query("label.simulated=true", limit=1, fields=["name"])
                    if answer.total >= settings.fleet or answer.total - told >= settings.fleet / 10:
                        told = answer.total
                        seconds = time.monotonic() - begun
                        say(f"fleet: {told} of {settings.fleet} nodes can be queried after {seconds:.1f} s")
                    await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)  # rid is being started again
    if settings.fleet:
        await report(stack.processes(), settings.fleet, settings.data, say)


def _certificates(cert: Path | None, key: Path | None, ca: Path | None) -> Tls | None:
    if cert and key:
        return Tls(cert, key, ca)
    if cert or key or ca:
        raise click.UsageError("--tls-cert and --tls-key belong together (and --tls-ca to them)")
    return None


def _address(host: str) -> str | None:
    """How other machines reach a broker that listens on ``host``; None where they cannot."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - it is what was asked for
        return _own_address()
    return None if host in ("127.0.0.1", "::1", "localhost") else host


def _own_address() -> str:
    """The address that this machine has towards others; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
