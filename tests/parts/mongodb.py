"""A server that speaks MongoDB's protocol: the real one that ``MONGODB_URL`` names, else another project's.

``mongo-java-server`` with its H2 file backend stands in where no mongod can be had: it keeps what it
acknowledged in a file and serves what Minicloud needs (no change streams, no sessions).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.database import Database

from tests.parts.part import Part, PartMissing, run_tool
from tests.parts.process import PartProcess, free_port

_POM: Final = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>minicloud</groupId><artifactId>parts</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>de.bwaldvogel</groupId><artifactId>mongo-java-server-h2-backend</artifactId>
    <version>{version}</version>
  </dependency></dependencies>
</project>
"""
_LAUNCHER: Final = Path(__file__).with_name("MongoServer.java")


class MongoServer(Part):
    """``mongo-java-server`` with its H2 backend, from Maven."""

    name = "mongo-java-server"
    version = "1.47.0"

    def installed(self) -> Path | None:
        if shutil.which("java") is None:
            raise PartMissing("no `java` on this machine; it needs 17 or later, or MONGODB_URL a mongod")
        return None

    def build(self, into: Path) -> None:
        pom = into / "pom.xml"
        pom.write_text(_POM.format(version=self.version))
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into / 'lib'}"]
        run_tool(["mvn", "--batch-mode", "--quiet", "--file", pom, *copy], cwd=into)

    def start(self, folder: Path, port: int | None = None, heap: str = "512m") -> MongoProcess:
        """A running server with its data in ``folder``; start it there again to find what it kept."""
        folder.mkdir(exist_ok=True)
        return MongoProcess(self.obtain() / "lib", folder, port or free_port(), heap)


class MongoProcess(PartProcess):
    """A running ``mongo-java-server``.

    Attributes:
        url: what a client connects to.
    """

    def __init__(self, jars: Path, folder: Path, port: int, heap: str) -> None:
        self.port = port
        self.url = f"mongodb://127.0.0.1:{port}"
        command = ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", _LAUNCHER]
        super().__init__([*command, str(port), folder / "mongodb.h2"], folder / "mongodb.log")
        try:
            self.wait_for_port(port, timeout=60)
        except BaseException:
            self.kill()
            raise


@contextmanager
def own_database(url: str) -> Iterator[Database[dict[str, Any]]]:
    """A database that nobody else uses; gone at the end."""
    with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=10_000) as client:
        name = f"t{secrets.token_hex(6)}"
        try:
            yield client[name]
        finally:
            client.drop_database(name)


def named_server() -> str | None:
    """The URL of a real mongod, where the environment names one."""
    return os.environ.get("MONGODB_URL") or None
