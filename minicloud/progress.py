"""The progress of a deployment while one waits: the story line by line, and below it what is going on now.

In a terminal the last line lives (state, node, runtime, time) and is gone at the end; anywhere else there
are the lines of the story and nothing more.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from minicloud.output import STATE_COLOURS, for_people, span
from minicloud.story import decision_lines, status_line
from schemas.decision import Decision, DeploymentStatus

_MOST_REPLICAS: Final = 8
_PER_SECOND: Final = 10


class Progress:
    """A context manager around the waiting; tell it each event.

    Args:
        deployment: whose progress.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._status: DeploymentStatus | None = None
        self._decision: Decision | None = None
        self._begun = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if for_people():
            console = Console(highlight=False, soft_wrap=True)
            self._live = Live(self, console=console, refresh_per_second=_PER_SECOND, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with suppress(BrokenPipeError):
                self._live.stop()

    def tell(self, event: DeploymentStatus | Decision) -> None:
        """Print what happened and show what is going on."""
        if isinstance(event, DeploymentStatus):
            self._status = event
            lines = [status_line(event)]
        else:
            self._decision = event
            lines = list(decision_lines(event))
        for line in lines:
            if self._live:
                self._live.console.print(Text.from_ansi(line))
            else:
                click.echo(line)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The living part."""
        status = self._status
        state = status.state if status else "requested"
        parts = [Text(self._deployment, style="bold"), Text(state, style=STATE_COLOURS.get(state, "cyan"))]
        parts += [Text(part) for part in self._places()]
        parts.append(Text(span(time.monotonic() - self._begun), style="bright_black"))
        self._spinner.update(text=Text("  ").join(parts))
        yield self._spinner
        if status and len(status.replicas) > 1:
            yield self._replicas(status)

    def _places(self) -> list[str]:
        status, decision = self._status, self._decision
        if status and status.node:
            return [status.node, status.runtime or ""]
        places = decision.placements if decision else []
        if len(places) == 1:
            return [places[0].node, places[0].runtime]
        return [f"{len(places)} replicas"] if places else []

    @staticmethod
    def _replicas(status: DeploymentStatus) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for replica in status.replicas[:_MOST_REPLICAS]:
            state = Text(replica.state, style=STATE_COLOURS.get(replica.state, "cyan"))
            table.add_row(f"  {replica.replica}", state, replica.node, replica.runtime, replica.message)
        if len(status.replicas) > _MOST_REPLICAS:
            table.add_row("", f"and {len(status.replicas) - _MOST_REPLICAS} more")
        return table
