"""``minicloud nodes``, ``query`` and ``watch``: what there is, and how it changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from minicloud.output import command, data_option, output_option, refuse, show, show_one
from schemas.errors import InvalidQuery
from schemas.resource import ResourceChange

_COLUMNS = [
    "name",
    "state",
    "cpu.arch",
    "cpu.cores",
    "memory.total",
    "memory.available",
    "load.1m",
    "runtimes",
]


@click.command(
    epilog="""\b
Examples:
  minicloud nodes
  minicloud nodes --wide --all                # also those that are lost
  minicloud nodes --watch                     # a live table; lines of changes on a pipe
  minicloud nodes -o json | jq '.[].name'
"""
)
@click.option("--wide", is_flag=True, help="More columns.")
@click.option("--all", "-a", "everybody", is_flag=True, help="Also the nodes that are lost.")
@click.option("--watch", "-w", "live", is_flag=True, help="Go on showing them, with what runs on each.")
@data_option
@output_option
@command
async def nodes(wide: bool, everybody: bool, live: bool, data: Path | None, output: str) -> None:
    """List the nodes and how they do.

    With --watch, -o json prints one document a line, for each node and each change.
    """
    from minicloud.client import connect  # noqa: PLC0415

    columns = _COLUMNS + (["region.city", "os.name", "gpu.name", "temperature", "age"] if wide else [])
    async with connect(data) as cloud:
        if live:
            from minicloud.nodewatch import watch_nodes  # noqa: PLC0415 - rich takes a while to load

            await watch_nodes(cloud, output, everybody=everybody)
            return
        question: dict[str, Any] = {"sort": [{"name": "asc"}]}
        if everybody:
            question["where"] = {"state": {"$exists": True}}
        if output == "table":
            question["fields"] = columns
        answer = await cloud.query(question)
    show(answer.nodes, output, columns=columns, none="no nodes yet; an agent makes this machine one")


@click.command(
    epilog="""\b
Examples:
  minicloud query 'cpu.cores>=4,memory.available>=2GiB'
  minicloud query 'region.city in (Athens,Pisa),gpu,!battery' --sort load.5m
  minicloud query --file question.json -o json
  minicloud query 'gpu.name=T4' --explain      # why the others do not match
"""
)
@click.argument("question", default="")
@click.option("--file", "file", type=click.File("rb"), help="A query document (JSON); - for standard input.")
@click.option("--sort", multiple=True, help="Attribute to sort by; with a leading - descending.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many nodes.")
@click.option("--fields", help="Attributes to show, separated by commas.")
@click.option("--explain", is_flag=True, help="Also tell why the other nodes do not match.")
@data_option
@output_option
@command
async def query(
    question: str,
    file: Any,
    sort: tuple[str, ...],
    limit: int | None,
    fields: str | None,
    explain: bool,
    data: Path | None,
    output: str,
) -> int:
    """Ask which nodes match; the exit code is 1 if none does."""
    from minicloud.client import connect  # noqa: PLC0415

    more: dict[str, Any] = {}
    if sort:
        more["sort"] = [{s.removeprefix("-"): "desc" if s.startswith("-") else "asc"} for s in sort]
    if limit:
        more["limit"] = limit
    if explain:
        more["explain"] = True
    wanted = [name.strip() for name in fields.split(",")] if fields else None
    if wanted:
        more["fields"] = wanted
    elif output == "table":
        more["fields"] = _COLUMNS
    async with connect(data) as cloud:
        if file:
            try:
                document = json.load(file)
            except ValueError as error:
                refuse(InvalidQuery(f"not JSON: {error}", field=file.name, expected="a query document"))
            answer = await cloud.query({**document, **more})
        else:
            answer = await cloud.query(question, **more)
    if output == "table":
        columns = ["name", *(name for name in wanted if name != "name")] if wanted else _COLUMNS
        if len(answer.coverage) > 1:
            columns = list(dict.fromkeys([columns[0], "minicloud", *columns[1:]]))
        show(answer.nodes, output, columns=columns, none="no node matches")
        for group in answer.rejected or []:
            click.echo(f"  {len(group.nodes)} x {group.reason}: {', '.join(group.nodes[:8])}", err=True)
        for part in answer.coverage:
            if not part.answered:
                click.echo(f"  without {part.minicloud}: {part.reason}", err=True)
    else:
        show_one(answer.model_dump(mode="json"), output)
    return 0 if answer.nodes else 1


@click.command(
    epilog="""\b
Examples:
  minicloud watch                     # the nodes as they are, then every change
  minicloud watch --since 1042        # resume: nothing is missed
  minicloud watch -o json | jq .kind
"""
)
@click.option("--since", type=click.IntRange(min=0), help="Resume after this revision.")
@data_option
@output_option
@command
async def watch(since: int | None, data: Path | None, output: str) -> None:
    """Follow the resource-change stream: ITEM... SYNC (CHANGE|BOOKMARK)... until Ctrl-C."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        async for kind, revision, change in cloud.watch(since=since):
            if output != "table":
                body = change.model_dump(mode="json") if change else None
                click.echo(json.dumps({"kind": kind, "revision": revision, "change": body}))
            elif change:
                click.echo(_line(kind, revision, change))
            elif kind == "SYNC":
                click.secho(f"{revision:>8}  in step; changes follow", fg="bright_black")
            sys.stdout.flush()


def _line(kind: str, revision: int, change: ResourceChange) -> str:
    shown = change.changed if kind == "CHANGE" else {}
    what = ", ".join(f"{name}={value}" for name, value in list(shown.items())[:6])
    return f"{revision:>8}  {kind:<6}  {change.node:<20}  {change.kind:<8}  {what}".rstrip()
