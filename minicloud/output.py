"""What commands print: tables for people, JSON and YAML for programs; errors that say what to do.

Every command runs inside :func:`command` or :func:`errors_told`, so that each of our errors becomes one
message and one exit code, Ctrl-C is quiet, and a reader that went away (``| head``) is no error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec

import click
import yaml

from schemas.errors import InvalidDocument, MinicloudError
from schemas.quantities import format_bytes

P = ParamSpec("P")
EXIT_CODES: Final = {
    0: "it is as asked",
    1: "refused, failed, or nothing matches",
    2: "the command, the query or a file cannot be read",
    4: "there is no such deployment, node or credential",
    5: "this credential or user may not do that",
    6: "no minicloud answers",
    7: "it was asked and did not answer in time",
    130: "Ctrl-C",
}
_CODES: Final = {
    "InvalidName": 2,
    "InvalidQuantity": 2,
    "InvalidQuery": 2,
    "NotFound": 4,
    "Forbidden": 5,
    "Unavailable": 6,
    "RequestTimeout": 7,
}
STATE_COLOURS: Final = {
    "running": "green",
    "completed": "green",
    "alive": "green",
    "stopped": "bright_black",
    "lost": "red",
    "failed": "red",
    "rejected": "red",
    "stale": "yellow",
    "paused": "yellow",
    "migrating": "yellow",
    "degraded": "yellow",
    "unschedulable": "yellow",
    "unknown": "yellow",
}

# Not an envvar of click's: what is typed goes before MINICLOUD_BROKER, and that before MINICLOUD_DATA.
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Data folder of a stack on this machine.  [env var: MINICLOUD_DATA; default: .data]",
)
output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)


def command(function: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, None]:
    """Run an async command; what it returns is the exit code."""

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        with errors_told():
            code = asyncio.run(_tidily(function(*arguments, **options)))
        sys.exit(code or 0)

    return run


async def _tidily(work: Coroutine[Any, Any, int | None]) -> int | None:
    """SIGTERM ends a command as Ctrl-C does: the terminal and the connection are left in order."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


@contextmanager
def errors_told() -> Iterator[None]:
    """Our errors become one clear message and a distinct exit code; leaving early is quiet."""
    try:
        yield
        sys.stdout.flush()
    except MinicloudError as error:
        refuse(error)
    except PermissionError as error:
        _fail(
            f"{error.filename}: not readable or writable by this user (expected the owner of the data folder)",
            5,
        )
    except BrokenPipeError:
        # What is still buffered has no reader: without this, Python complains when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


def refuse(error: MinicloudError) -> NoReturn:
    """Say what was wrong, where and what would be right, and exit."""
    code = _CODES.get(error.code, 1)
    problems = error.problems if isinstance(error, InvalidDocument) else []
    if len(problems) > 1:
        _fail("".join(f"\n  {line}" for line in problem_lines(problems)), code)
    _fail(str(error), code)


def problem_lines(problems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with a document, a field a line."""
    for problem in problems:
        right = f" (expected {problem['expected']})" if problem.get("expected") else ""
        yield f"{problem.get('field') or '-'}: {problem['message']}{right}"


def _fail(text: str, code: int) -> NoReturn:
    click.echo(click.style("Error:", fg="red") + (text if text.startswith("\n") else f" {text}"), err=True)
    sys.exit(code)


def for_people() -> bool:
    """Whether standard output is a terminal that may be drawn on, not a pipe or a plain one."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "")
    return sys.stdout.isatty() and not plain


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
    if output != "table":
        _show_document(list(rows), output)
    elif not rows:
        click.echo(none)
    else:
        names = list(columns or rows[0])
        table = [[cell(name, row.get(name)) for name in names] for row in rows]
        widths = [max(len(line[i]) for line in [names, *table]) for i in range(len(names))]
        click.secho(_line([name.upper() for name in names], widths), bold=True)
        for line in table:
            click.echo(_line(line, widths, [_colour(*pair) for pair in zip(names, line, strict=True)]))


def show_one(document: Mapping[str, Any], output: str) -> None:
    """Print one document as JSON or YAML."""
    _show_document(document, output)


def _show_document(document: Any, output: str) -> None:
    text = json.dumps(document, indent=2, default=str)
    click.echo(text if output == "json" else yaml.safe_dump(json.loads(text), sort_keys=False).rstrip())


def _line(cells: Sequence[str], widths: Sequence[int], colours: Sequence[str | None] = ()) -> str:
    padded = [text.ljust(width) for text, width in zip(cells, widths, strict=True)]
    padded[-1] = padded[-1].rstrip()
    for position, colour in enumerate(colours):
        if colour:
            padded[position] = click.style(padded[position], fg=colour)
    return "  ".join(padded).rstrip()


def _colour(name: str, text: str) -> str | None:
    return STATE_COLOURS.get(text) if name == "state" else None


def cell(name: str, value: Any) -> str:
    """A value of the attribute ``name`` as a table shows it; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, set)):
        return ",".join(str(part) for part in value) or "-"
    if isinstance(value, (int, float)) and name.startswith(("memory.", "disk.total", "disk.free")):
        return format_bytes(value)
    if isinstance(value, (int, float)) and name == "age":
        return span(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def span(seconds: float) -> str:
    """A span of time in one or two figures: ``8s``, ``12m``, ``5h``, ``3d``."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.0f}s"


def since(moment: str) -> float:
    """Seconds since a time in RFC 3339."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
