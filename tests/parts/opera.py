"""xOpera's TOSCA parser: a second opinion on the documents that the monitor writes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.parts.part import Part, run_tool

_READ: Final = """
import sys
from pathlib import Path
from opera_tosca_parser.parser import tosca
path = Path(sys.argv[1])
topology = tosca.load_service_template(path.parent, Path(path.name)).get_template({})
print("\\n".join(topology.nodes))
"""


class OperaParser(Part):
    """``opera-tosca-parser`` of the xOpera project, with the ``pkg_resources`` that it wants; no installation."""

    name = "opera-tosca-parser"
    version = "0.2.2"

    def build(self, into: Path) -> None:
        wheels = [f"opera-tosca-parser=={self.version}", "setuptools==80.9.0"]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", into, *wheels]
        run_tool(download, cwd=into)
        for wheel in into.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(into)
            wheel.unlink()

    def nodes(self, document: Path) -> list[str]:
        """The names of the node templates of a document; AssertionError with what is wrong with it."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _READ, str(document)],
            env={**os.environ, "PYTHONPATH": str(self.obtain())},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
