"""What every benchmark needs to tell its figures: progress, a check that can fail, an aligned table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_BEGUN = time.monotonic()


class WrongAnswer(Exception):
    """A benchmark's own correctness check failed: its figures mean nothing."""


def check(holds: bool, what: str) -> None:
    """Raise unless ``what`` holds.

    Raises:
        WrongAnswer: it does not.
    """
    if not holds:
        raise WrongAnswer(what)


def say(line: str) -> None:
    """One line of progress on standard error, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGUN:6.1f} s] {line}", file=sys.stderr, flush=True)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` under ``titles``: the first column to the left, figures to the right."""
    widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
    for row in [titles, *rows]:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(flush=True)


def goal(what: str, value: float, holds: Callable[[float], bool], wanted: str) -> None:
    """Say whether a goal was met; on a busy machine a missed one is news, not a failure."""
    print(f"goal: {what}: {value:.3g}, wanted {wanted}: {'met' if holds(value) else 'MISSED'}", flush=True)


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process, MB (the latter counts shared pages once)."""
    said = {
        name: int(value.split()[0])
        for name, _, value in (
            line.partition(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        )
    }
    return said["Rss"] * 1024 / 1e6, said["Pss"] * 1024 / 1e6
