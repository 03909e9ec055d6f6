"""Parts that are npm packages: the independent parser of AsyncAPI documents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.parts.part import Part, run_tool

_CHECK: Final = """
import fs from 'node:fs';
import { createRequire } from 'node:module';
const { Parser } = createRequire(process.argv[1] + '/package.json')('@asyncapi/parser');
const { diagnostics } = await new Parser().parse(fs.readFileSync(process.argv[2], 'utf8'));
const told = diagnostics.map(({ code, message, path, severity }) => ({ code, message, path, severity }));
fs.writeSync(1, JSON.stringify(told));
"""


class NpmPart(Part):
    """One npm package of one version; obtained is the folder that holds ``node_modules``."""

    def __init__(self, package: str, version: str) -> None:
        self.name = "npm-" + package.removeprefix("@").replace("/", "-")
        self.package = package
        self._version = version

    @property
    def version(self) -> str:
        return self._version

    def build(self, into: Path) -> None:
        run_tool(["node", "--version"])
        (into / "package.json").write_text('{"private": true}\n')
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        run_tool(["npm", "install", *quiet, "--prefix", into, f"{self.package}@{self.version}"], cwd=into)


class AsyncApiParser(NpmPart):
    """The parser of the AsyncAPI project."""

    def __init__(self) -> None:
        super().__init__("@asyncapi/parser", "3.6.3")

    def problems(self, document: Path) -> list[dict[str, Any]]:
        """What is wrong with an AsyncAPI document (``severity`` 0 is an error, 1 a warning)."""
        command = ["node", "--input-type=module", "-e", _CHECK, "--", str(self.obtain()), str(document)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found
