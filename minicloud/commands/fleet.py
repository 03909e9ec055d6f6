"""``minicloud fleet``: simulated nodes over real MQTT connections, to see a minicloud grow."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path

import click

from bus.credentials import Credentials
from minicloud.output import command, data_option, output_option, show_one
from minicloud.site import Site, data_folder
from schemas.errors import Forbidden


@click.command(
    epilog="""\b
Examples:
  minicloud fleet 100                   # beside a running `minicloud up`
  minicloud fleet 1000 --every 1        # each of them measured once a second
  minicloud fleet 50 -o json            # what it did, as a document, when it ends

\b
At a site elsewhere, MINICLOUD_USER must be of role fleet (see `minicloud --help`).
"""
)
@click.argument("count", type=click.IntRange(1, 100_000))
@click.option(
    "--every",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.01),
    help="Seconds between the metrics of a node.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same machines.")
@data_option
@output_option
@command
async def fleet(count: int, every: float, seed: int, data: Path | None, output: str) -> None:
    """Simulate COUNT nodes until Ctrl-C; their hardware and metrics are made up, their connections are real."""
    from minicloud.fleet import run_fleet  # noqa: PLC0415

    site = Site.find(data)
    user, password = site.user, site.password
    if not user.startswith("fleet."):
        folder = data_folder(data)
        if not (folder / "credentials.json").is_file():
            raise Forbidden(
                f"{user} may not speak for simulated nodes",
                field="MINICLOUD_USER",
                expected="one of role fleet",
            )
        credential = Credentials(folder).ensure("fleet", "local")
        user, password = credential.user, credential.password
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    report = await run_fleet(
        count=count,
        broker=site.mqtt,
        minicloud=site.minicloud,
        credential_for=lambda _: (user, password),
        rate=1 / every,
        seed=seed,
        on_progress=partial(click.echo, err=output != "table"),
        stop=stop,
        ca=site.ca,
    )
    if output != "table":
        show_one(report._asdict(), output)
