"""The nodes as they do: a table that lives in a terminal, a line for each change anywhere else.

In come answers of the resource index, asked for again when the resource-change log says so and every other
second, and the deployments. Out go rows: a node's state, load and memory, and what runs on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from minicloud.client import Minicloud
from minicloud.output import STATE_COLOURS, cell, for_people, show
from schemas.errors import Unavailable
from schemas.quantities import format_bytes

_FIELDS: Final = ["state", "cpu.arch", "cpu.cores", "cpu.used", "load.1m", "memory.total", "memory.available"]
_EVERY: Final = 2.0  # seconds: metrics alone are rarely worth an event of the log
_GATHER: Final = 0.2  # seconds: what changes together is shown together
_OVER: Final = frozenset({"stopped", "completed", "failed", "lost"})
_FRAME: Final = 5  # lines around the rows
_BAR: Final = 8


class View(NamedTuple):
    """What is known at one moment.

    Attributes:
        rows: a flat document a node, by name, with its ``workloads``.
        changed: nodes that the log has spoken of since the last view.
        trouble: what could not be asked; empty if all answered.
    """

    rows: list[dict[str, Any]]
    changed: set[str]
    trouble: str


async def watch_nodes(cloud: Minicloud, output: str, *, everybody: bool) -> None:
    """Show the nodes until cancelled.

    Args:
        cloud: whose.
        output: ``table``, ``json`` or ``yaml``; the last two are a document for each change.
        everybody: also the nodes that are lost.
    """
    views = _views(cloud, everybody=everybody)
    if output == "table" and for_people():
        console = Console()
        with Live(Text("asking the index"), console=console, auto_refresh=False) as live:
            async for view in views:
                live.update(_table(view, cloud.bus.minicloud, console.height - _FRAME), refresh=True)
        return
    before: dict[str, dict[str, Any]] | None = None
    async for view in views:
        _print_changes(view, before, output)
        before = {row["name"]: row for row in view.rows}


async def _views(cloud: Minicloud, *, everybody: bool) -> AsyncIterator[View]:
    changed: set[str] = set()
    news = asyncio.Event()
    listening = asyncio.ensure_future(_listen(cloud, changed, news))
    rows: list[dict[str, Any]] = []
    try:
        while True:
            told = changed.copy()
            changed.clear()
            news.clear()
            trouble = ""
            try:
                rows = await _nodes(cloud, everybody=everybody)
                workloads = await _workloads(cloud)
                rows = [{**row, "workloads": workloads.get(row["name"], [])} for row in rows]
            except Unavailable as error:
                trouble = str(error)
                rows = [{"workloads": [], **row} for row in rows]
            yield View(rows, told, trouble)
            if await _either(news, listening, _EVERY):
                listening.result()
            await asyncio.sleep(_GATHER)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _either(news: asyncio.Event, listening: asyncio.Future[None], seconds: float) -> bool:
    """Wait for news, at most so long; whether the listening has ended."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(news.wait())
    await asyncio.wait([waiting, listening], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return listening.done()


async def _listen(cloud: Minicloud, changed: set[str], news: asyncio.Event) -> None:
    async for item in cloud.watch():
        if item.kind == "CHANGE" and item.change:
            changed.add(item.change.node)
            news.set()


async def _nodes(cloud: Minicloud, *, everybody: bool) -> list[dict[str, Any]]:
    where = {"state": {"$exists": True}} if everybody else {}
    answer = await cloud.query({"where": where, "sort": [{"name": "asc"}], "fields": _FIELDS})
    return answer.nodes


async def _workloads(cloud: Minicloud) -> dict[str, list[str]]:
    """What runs on each node, as ``deployment/replica state``."""
    found: dict[str, list[str]] = {}
    for deployment in await cloud.deployments():
        for replica in deployment["replicas"]:
            if replica["state"] not in _OVER:
                name = f"{deployment['deployment']}/{replica['replica']}"
                found.setdefault(replica["node"], []).append(f"{name} {replica['state']}")
    return found


# -- a terminal ----------------------------------------------------------------------------------


def _table(view: View, minicloud: str, room: int) -> Table:
    rows = view.rows
    if len(rows) > max(room, 1):  # whoever runs something is looked at first
        rows = sorted(rows, key=lambda row: (not row["workloads"], row["name"]))[: max(room, 1)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption_justify="left")
    for heading in ("NODE", "STATE", "ARCH", "CPU", "LOAD", "MEMORY", "WORKLOADS"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for row in rows:
        state = str(row.get("state"))
        table.add_row(
            row["name"],
            Text(state, style=STATE_COLOURS.get(state, "")),
            row.get("cpu.arch"),
            _bar(_part(row.get("cpu.used"), 100)),
            _load(row),
            _memory(row),
            ", ".join(row["workloads"]),
        )
    table.caption = _caption(view, minicloud, len(view.rows) - len(rows))
    return table


def _caption(view: View, minicloud: str, hidden: int) -> Text:
    states: dict[str, int] = {}
    for row in view.rows:
        states[str(row.get("state"))] = states.get(str(row.get("state")), 0) + 1
    parts = [f"{count} {state}" for state, count in sorted(states.items())]
    running = sum(len(row["workloads"]) for row in view.rows)
    text = f"{minicloud} at {datetime.now().astimezone():%H:%M:%S}: {len(view.rows)} nodes"
    text += f" ({', '.join(parts)}), {running} workload{'s' * (running != 1)}" if parts else ""
    text += f"; {hidden} more nodes do not fit here" if hidden else ""
    caption = Text(text, style="bright_black")
    if view.trouble:
        caption.append(f"\n{view.trouble}", style="yellow")
    return caption


def _part(value: Any, whole: Any) -> float | None:
    return None if value is None or not whole else min(1.0, max(0.0, value / whole))


def _bar(part: float | None) -> Text:
    if part is None:
        return Text("-")
    full = round(part * _BAR)
    colour = "green" if part < 0.7 else "yellow" if part < 0.9 else "red"
    return Text.assemble(("━" * full, colour), ("━" * (_BAR - full), "bright_black"), f" {part * 100:3.0f}%")


def _load(row: Mapping[str, Any]) -> str:
    load = row.get("load.1m")
    return "-" if load is None else f"{load:.2f} of {row.get('cpu.cores', '?')}"


def _memory(row: Mapping[str, Any]) -> Text:
    total, available = row.get("memory.total"), row.get("memory.available")
    if total is None or available is None:
        return Text("-" if total is None else f"of {format_bytes(total)}")
    bar = _bar(_part(total - available, total))
    return bar.append(f" of {format_bytes(total)}", style="bright_black")


# -- lines ---------------------------------------------------------------------------------------

_COLUMNS: Final = ("name", "state", "cpu.used", "load.1m", "memory.available", "workloads")


def _print_changes(view: View, before: Mapping[str, dict[str, Any]] | None, output: str) -> None:
    """The nodes as they are; then, a line each, those that changed by more than their metrics' noise."""
    if view.trouble:
        click.echo(view.trouble, err=True)
    if before is None:
        shown: Sequence[dict[str, Any]] = view.rows
    else:
        shown = [
            row for row in view.rows if row["name"] in view.changed or _differs(row, before.get(row["name"]))
        ]
        present = {row["name"] for row in view.rows}
        shown = [
            *shown,
            *({"name": name, "state": "gone", "workloads": []} for name in before if name not in present),
        ]
    if output == "table" and before is None:
        show(shown, output, columns=_COLUMNS, none="no nodes yet; an agent makes this machine one")
        return
    for row in shown:
        if output == "json":
            click.echo(json.dumps(row))
        elif output == "yaml":  # JSON is YAML, too
            click.echo(f"---\n{json.dumps(row)}")
        else:
            click.echo("  ".join(cell(name, row.get(name)) for name in _COLUMNS))


def _differs(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    return before is None or any(row.get(name) != before.get(name) for name in ("state", "workloads"))
