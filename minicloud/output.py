"""What commands print: tables for people, JSON and YAML for programs; errors that say what to do."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec

import click
import yaml

from schemas.errors import InvalidDocument, MinicloudError
from schemas.quantities import format_bytes

P = ParamSpec("P")
_CODES: Final = {"NotFound": 4, "Forbidden": 5, "Unavailable": 6, "RequestTimeout": 7}
_STYLE: Final = {
    "running": "green",
    "completed": "green",
    "alive": "green",
    "stopped": "bright_black",
    "lost": "red",
    "failed": "red",
    "rejected": "red",
    "stale": "yellow",
    "degraded": "yellow",
    "unschedulable": "yellow",
    "unknown": "yellow",
}

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MINICLOUD_DATA",
    show_envvar=True,
    default=None,
    help="Data folder of an embedded stack.  [default: .data]",
)
output_option = click.option(
    "--output", "-o", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)


def command(function: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, None]:
    """Run an async command: our errors become one clear message and a distinct exit code; Ctrl-C is quiet."""

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            code = asyncio.run(function(*arguments, **options))
        except MinicloudError as error:
            refuse(error)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(0)
        sys.exit(code or 0)

    return run


def refuse(error: MinicloudError) -> None:
    """Say what was wrong, where and what would be right, and exit."""
    problems = error.problems if isinstance(error, InvalidDocument) else []
    if len(problems) > 1:
        click.secho("Error:", fg="red", err=True)
        for problem in problems:
            right = f" (expected {problem['expected']})" if problem.get("expected") else ""
            click.echo(f"  {problem.get('field') or '-'}: {problem['message']}{right}", err=True)
    else:
        click.echo(f"{click.style('Error:', fg='red')} {error}", err=True)
    sys.exit(_CODES.get(error.code, 1))


def show(
    rows: Sequence[Mapping[str, Any]],
    output: str,
    *,
    columns: Sequence[str] | None = None,
    none: str = "none",
) -> None:
    """Print rows as asked.

    Args:
        rows: what there is.
        output: ``table``, ``json`` or ``yaml``.
        columns: a table's columns; all keys of the first row by default.
        none: what a table says when there are no rows.
    """
    if output == "json":
        click.echo(json.dumps(list(rows), indent=2, default=str))
    elif output == "yaml":
        click.echo(yaml.safe_dump(json.loads(json.dumps(list(rows), default=str)), sort_keys=False).rstrip())
    elif not rows:
        click.echo(none)
    else:
        names = list(columns or rows[0])
        table = [[_cell(name, row.get(name)) for name in names] for row in rows]
        widths = [max(len(line[i]) for line in [names, *table]) for i in range(len(names))]
        click.secho(
            "  ".join(n.upper().ljust(w) for n, w in zip(names, widths, strict=True)).rstrip(), bold=True
        )
        for line in table:
            cells = [
                click.style(cell.ljust(width), fg=_STYLE.get(cell))
                for cell, width in zip(line, widths, strict=True)
            ]
            click.echo("  ".join(cells).rstrip())


def show_one(document: Mapping[str, Any], output: str) -> None:
    """Print one document as JSON or YAML."""
    text = json.dumps(document, indent=2, default=str)
    click.echo(text if output == "json" else yaml.safe_dump(json.loads(text), sort_keys=False).rstrip())


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, set)):
        return ",".join(str(part) for part in value) or "-"
    if isinstance(value, (int, float)) and name.startswith(("memory.", "disk.total", "disk.free")):
        return format_bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
