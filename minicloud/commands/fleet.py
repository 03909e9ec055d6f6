"""``minicloud fleet``: simulated nodes over real MQTT connections, to see a minicloud grow."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from bus.credentials import Credentials
from minicloud.output import command, data_option
from minicloud.site import Site, data_folder


@click.command(
    epilog="""\b
Examples:
  minicloud fleet 100                   # beside a running `minicloud up`
  minicloud fleet 1000 --every 1        # each of them measured once a second
"""
)
@click.argument("count", type=click.IntRange(1, 100_000))
@click.option("--every", default=5.0, show_default=True, help="Seconds between the metrics of a node.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same machines.")
@data_option
@command
async def fleet(count: int, every: float, seed: int, data: Path | None) -> None:
    """Simulate COUNT nodes until Ctrl-C; their hardware and metrics are made up, their connections are real."""
    from minicloud.fleet import run_fleet  # noqa: PLC0415

    folder = data_folder(data)
    site = Site.find(folder)
    credential = Credentials(folder).ensure("fleet", "local")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_fleet(
        count=count,
        broker=site.mqtt,
        minicloud=site.minicloud,
        credential_for=lambda _: (credential.user, credential.password),
        rate=1 / every,
        seed=seed,
        on_progress=click.echo,
        stop=stop,
    )
