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
  minicloud query gpu --sort load.1m --keep best-gpu
  minicloud query --forget best-gpu
  minicloud query 'state=lost' --at=-10m       # as it was ten minutes ago
"""
)
@click.argument("question", default="")
@click.option("--file", "file", type=click.File("rb"), help="A query document (JSON); - for standard input.")
@click.option("--sort", multiple=True, help="Attribute to sort by; with a leading - descending.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many nodes.")
@click.option("--fields", help="Attributes to show, separated by commas.")
@click.option("--explain", is_flag=True, help="Also tell why the other nodes do not match.")
@click.option("--keep", metavar="NAME", help="Keep it answered for devices, retained on MQTT.")
@click.option("--forget", metavar="NAME", help="Keep it answered no more; asks nothing.")
@click.option("--at", help="As of a past moment: RFC 3339, a time ago such as -10m, or a revision.")
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
    at: str | None,
    keep: str | None,
    forget: str | None,
    data: Path | None,
    output: str,
) -> int:
    """Ask which nodes match; the exit code is 1 if none does."""
    from minicloud.client import connect  # noqa: PLC0415

    if forget:
        if question or file or keep or at:
            raise click.UsageError("--forget NAME stands alone: it asks nothing")
        async with connect(data) as cloud:
            await cloud.forget(forget)
        click.echo(f"forgotten; devices read no answer of {forget} any more", err=True)
        return 0
    more: dict[str, Any] = {}
    if sort:
        more["sort"] = [{s.removeprefix("-"): "desc" if s.startswith("-") else "asc"} for s in sort]
    if limit:
        more["limit"] = limit
    if explain:
        more["explain"] = True
    if at:
        more["at"] = at
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
        if keep:
            kept = {name: more[name] for name in ("sort", "limit") if name in more}
            told = await cloud.keep(keep, document if file else question, **kept)
            click.echo(f"kept; devices read it from {told}", err=True)
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
            if part.horizon is not None:
                known = f"{part.missing or 'no'} node{'s' if part.missing != 1 else ''} known to be missing"
                click.echo(f"  the log begins only at {part.horizon.isoformat()}: {known}", err=True)
    else:
        show_one(answer.model_dump(mode="json"), output)
    return 0 if answer.nodes else 1


@click.command(
    epilog="""\b
Examples:
  minicloud watch                              # the nodes as they are, then every change
  minicloud watch 'cpu.arch=x86_64,load.5m<1'  # the nodes that match, and how that changes
  minicloud watch --since 1042                 # resume: nothing is missed
  minicloud watch -o json | jq .kind
"""
)
@click.argument("question", required=False)
@click.option("--since", type=click.IntRange(min=0), help="Resume after this revision.")
@click.option("--fields", help="Attributes to show of what matches, separated by commas.")
@data_option
@output_option
@command
async def watch(
    question: str | None, since: int | None, fields: str | None, data: Path | None, output: str
) -> None:
    """Follow the change log, or with QUESTION what matches: ITEM... SYNC, then changes, until Ctrl-C."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        if question is None and not fields:
            async for kind, revision, change in cloud.watch(since=since):
                if output == "table":
                    _tell(kind, revision, _line(kind, revision, change) if change else None)
                else:
                    body = change.model_dump(mode="json") if change else None
                    _print(json.dumps({"kind": kind, "revision": revision, "change": body}))
            return
        asked: dict[str, Any] = {"where": question or ""}
        if fields:
            asked["fields"] = [name.strip() for name in fields.split(",")]
        async for match in cloud.watch_query(asked, since=since):
            if output == "table":
                line = (
                    _standing_line(match.kind, match.revision, match.node, bool(fields))
                    if match.node
                    else None
                )
                _tell(match.kind, match.revision, line)
            else:
                _print(json.dumps(match._asdict()))


def _tell(kind: str, revision: int, line: str | None) -> None:
    if line is not None:
        _print(line)
    elif kind in ("SYNC", "RESYNC"):
        told = "in step; changes follow" if kind == "SYNC" else "too much changed; from the beginning:"
        _print(click.style(f"{revision:>8}  {told}", fg="bright_black"))


def _print(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _line(kind: str, revision: int, change: ResourceChange) -> str:
    shown = change.changed if kind == "CHANGE" else {}
    what = ", ".join(f"{name}={value}" for name, value in list(shown.items())[:6])
    return f"{revision:>8}  {kind:<6}  {change.node:<20}  {change.kind:<8}  {what}".rstrip()


def _standing_line(kind: str, revision: int, node: dict[str, Any], shown: bool) -> str:
    names = [name for name in node if name != "name"] if shown else [n for n in _COLUMNS[1:] if n in node]
    what = ", ".join(f"{name}={node[name]}" for name in names)
    return f"{revision:>8}  {kind:<6}  {node['name']:<20}  {what}".rstrip()
