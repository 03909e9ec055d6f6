"""``python -m bench``: every benchmark one after the other, or those that are named.

Each is a module here with a ``main()`` that measures, checks its own answers and prints. A goal that is missed
is said; a wrong answer, or a benchmark that fails, makes the exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from bench.figures import say
from tests.parts.part import PartMissing

_EXAMPLES: Final = """examples:
  python -m bench                   # all of them, about ten minutes
  python -m bench bus journey       # these two
  python -m bench.bus --rounds 1    # one, with options of its own (--help lists them)
"""


def main() -> int:
    """Run what is asked for; the exit code."""
    benchmarks = known()
    width = max(map(len, benchmarks)) + 2
    listed = "\n".join(f"  {name:<{width}}{about}" for name, about in benchmarks.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"{__doc__}\nbenchmarks:\n{listed}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="benchmark", help="which; all of them if none is named")
    names = parser.parse_args().names or list(benchmarks)
    if unknown := [name for name in names if name not in benchmarks]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(benchmarks)}")
    print(f"{machine()}\n", flush=True)
    failed = []
    for number, name in enumerate(names):
        say(f"{number + 1} of {len(names)}: {name}: {benchmarks[name]}")
        print(f"## {name}\n", flush=True)
        try:
            run: Callable[[], object] = import_module(f"bench.{name}").main
            with _arguments(f"bench.{name}"):
                run()
        except PartMissing as missing:
            print(f"skipped: {missing}")
        except Exception:  # noqa: BLE001 - the others still run
            traceback.print_exc()
            failed.append(name)
        print(flush=True)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return bool(failed)


def known() -> dict[str, str]:
    """Every module here with a ``main()`` and the first sentence of its docstring, read without importing it."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(file.read_text())
        if any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in tree.body):
            found[file.stem] = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return found


@contextlib.contextmanager
def _arguments(program: str) -> Iterator[None]:
    """A benchmark with options of its own reads them from here: none."""
    before, sys.argv = sys.argv, [program]
    try:
        yield
    finally:
        sys.argv = before


def machine() -> str:
    """The machine in a line: figures mean little without it."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}; load {load:.1f} before the start"
    )


if __name__ == "__main__":
    sys.exit(main())
