"""A stack for the examples of the manual: started as a reader would, with the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts.mosquitto import Mosquitto
from tests.parts.process import PartProcess

ROOT = Path(__file__).parents[2]


@dataclass
class Reader:
    """Somebody who reads the manual beside a running ``minicloud up``."""

    data: Path
    mqtt_port: str
    monitor_port: str
    path: str

    def run(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a page's blocks in ``folder``, where ``examples`` is as in the checkout."""
        (folder / "examples").symlink_to(ROOT / "examples")
        return subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                script.replace("1883", self.mqtt_port).replace(":3000", f":{self.monitor_port}"),
            ],
            cwd=folder,
            env={
                **os.environ,
                "PATH": self.path,
                "MINICLOUD_DATA": str(self.data),
                "PYTHONPATH": str(ROOT),
                "TERM": "dumb",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture(scope="package")
def reader(
    part: Callable[[Mosquitto], Mosquitto], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    clients = part(Mosquitto()).folders()
    data = tmp_path_factory.mktemp("manual") / "data"
    path = os.pathsep.join([str(Path(sys.executable).parent), *map(str, clients), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    command = [sys.executable, "-m", "minicloud"]

    def ready() -> bool:
        asked = subprocess.run(
            [*command, "query", "worker", "--data", data], env=environment, capture_output=True, check=False
        )
        return asked.returncode == 0

    def monitored() -> bool:
        url = json.loads((data / "stack.json").read_text())["http"]["monitor"]
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return True
        except OSError:
            return False

    started = [*command, "up", "--data", data, "--fleet", "3", "--monitor", "0"]
    up = PartProcess(started, data.parent / "up.log", environment)
    with up:
        up.wait_until(ready, 60)
        up.wait_until(monitored, 60)
        stack = json.loads((data / "stack.json").read_text())
        ports = (url.rpartition(":")[2] for url in (stack["mqtt"], stack["http"]["monitor"]))
        yield Reader(data, *ports, path)
