"""Parts that are Go programs: built from their released modules, checked against the hashes that lie beside us.

``go_modules/<module>/`` holds a ``go.mod`` of ours that names the version and a ``go.sum`` with the hash of every
module that is compiled. Go's own caches make a second build a matter of linking.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.parts.part import Part, PartMissing

_MODULES: Final = Path(__file__).with_name("go_modules")
_TOLD_EVERY_S: Final = 10.0
_NEEDED: Final = (1, 26)


class GoPart(Part):
    """Some programs out of one Go module; obtained is the folder that holds them.

    Args:
        name: the part's name.
        module: the folder below ``go_modules/`` with its ``go.mod``.
        packages: the main packages; a program is called as its package, or as ``program=package`` says.
        cost: how long a build takes that finds nothing in Go's caches, for whoever waits.
        variables: string variables to set while linking, such as a version; ``{version}`` is ours.
    """

    def __init__(
        self, name: str, module: str, packages: Sequence[str], cost: str, variables: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.module = _MODULES / module
        self.packages = packages
        self.cost = cost
        self.variables = variables

    @cached_property
    def version(self) -> str:
        """What ``go.mod`` requires."""
        required = re.search(r"^require \S+ (v\S+)$", (self.module / "go.mod").read_text(), re.MULTILINE)
        assert required is not None, f"{self.module / 'go.mod'} requires no single module"
        return required[1]

    def entry(self, folder: Path) -> Path:
        return folder / "bin"

    def build(self, into: Path) -> None:
        if shutil.which("go") is None:
            needed = ".".join(map(str, _NEEDED))
            raise PartMissing(
                f"it is built from source: no `go` on this machine; {needed} or newer is needed"
            )
        self.say(f"building with Go; {self.cost} if nothing of it was built before")
        # A copy, because Go writes into the module that it builds.
        work = into / "module"
        shutil.copytree(self.module, work)
        sets = " ".join(f"-X {variable}" for variable in self.variables).format(version=self.version)
        flags = ["-mod=mod", f"-ldflags=-s -w {sets}".rstrip()]
        for program, packages in self._programs().items():
            target = into / "bin" / program if program else f"{into / 'bin'}/"
            self._go(["go", "build", "-v", *flags, "-o", str(target), *packages], work)
        shutil.rmtree(work)

    def _programs(self) -> dict[str, list[str]]:
        """Packages by the program's name of their own, those without one under ""."""
        programs: dict[str, list[str]] = {}
        for package in self.packages:
            program, equals, path = package.partition("=")
            programs.setdefault(program if equals else "", []).append(path if equals else package)
        return programs

    def _go(self, command: list[str], work: Path) -> None:
        """Run Go and tell now and then how far it is: it names each module it fetches, each package it compiles."""
        started = told = time.monotonic()
        fetched = compiled = 0
        ending: list[str] = []
        with subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True) as go:
            assert go.stderr is not None
            for line in go.stderr:
                ending = [*ending[-4:], line.strip()]
                fetched += line.startswith("go: downloading")
                compiled += not line.startswith("go:")
                now = time.monotonic()
                if now - told >= _TOLD_EVERY_S:
                    told = now
                    self.say(
                        f"{now - started:.0f} s: {fetched} modules fetched, {compiled} packages compiled"
                    )
        if go.returncode != 0:
            raise PartMissing(f"`{' '.join(command[:2])}` failed: {' | '.join(ending)}")
