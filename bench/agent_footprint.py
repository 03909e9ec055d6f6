"""What the agent costs a node, beside Prometheus' node_exporter: resident memory and CPU of each, running.

Both report every five seconds: the agent to a real broker, the exporter to a scraper. Run it with
``python -m bench.agent_footprint [seconds]``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from bus.credentials import Credentials
from tests.parts.nats_server import NatsServer
from tests.parts.node_exporter import NodeExporter
from tests.parts.process import PartProcess

GOAL = 26.0  # MB
INTERVAL = 5.0  # seconds


def main(seconds: float = 30.0) -> dict[str, float]:
    """Measure, print a table; the figures by name."""
    with tempfile.TemporaryDirectory() as folder, NatsServer().start(Path(folder) / "broker") as broker:
        base = Path(folder)
        credential = Credentials(broker.data, "home").add("agent", "pi-3")
        (base / "password").write_text(credential.password)
        options = ["--node", "pi-3", "--broker", broker.mqtt_url, "--data", str(base / "agent")]
        options += ["--password-file", str(base / "password"), "--interval", str(INTERVAL)]
        command = [sys.executable, "-m", "services.charagent", *options]
        # An installed agent runs from bytecode: the first start writes it, the second is measured.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(base / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with PartProcess(command, base / "first.log", environment) as first:
            first.wait_until(lambda: "connected" in first.text())
            cold = _megabytes(psutil.Process(first.process.pid))
        exporter, url = NodeExporter().start(base / "exporter.log")
        with exporter, PartProcess(command, base / "agent.log", environment) as agent:
            agent.wait_until(lambda: "connected" in agent.text())
            figures = _watch(
                psutil.Process(agent.process.pid), psutil.Process(exporter.process.pid), url, seconds
            )
    figures["agent without bytecode MB"] = cold
    ratio = figures["agent MB"] / figures["node_exporter MB"]
    print(f"{'':24}{'RSS MB':>10}{'CPU ms/report':>16}")
    for name in ("agent", "node_exporter"):
        print(f"{name:24}{figures[f'{name} MB']:>10.1f}{figures[f'{name} ms']:>16.1f}")
    print(f"agent / node_exporter: {ratio:.2f} in memory; goal: at most {GOAL:g} MB", end="")
    print(f" ({'met' if figures['agent MB'] <= GOAL else 'MISSED'}); first start, no bytecode: {cold:.1f} MB")
    return figures


def _watch(agent: psutil.Process, exporter: psutil.Process, url: str, seconds: float) -> dict[str, float]:
    """Scrape the exporter as often as the agent reports, and read what both took."""
    began = {process: _cpu(process) for process in (agent, exporter)}
    reports = max(1, round(seconds / INTERVAL))
    for _ in range(reports):
        with urllib.request.urlopen(url, timeout=10) as page:
            page.read()
        time.sleep(INTERVAL)
    figures = {}
    for name, process in (("agent", agent), ("node_exporter", exporter)):
        figures[f"{name} MB"] = _megabytes(process)
        figures[f"{name} ms"] = 1000 * (_cpu(process) - began[process]) / reports
    return figures


def _megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def _cpu(process: psutil.Process) -> float:
    """Seconds of CPU of every thread, exact: the ticks of /proc/<pid>/stat are too coarse for an agent."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
