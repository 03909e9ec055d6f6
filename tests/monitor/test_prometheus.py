"""A real Prometheus: it scrapes the monitor and the exporters that the monitor names, and is asked back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from schemas.errors import InvalidQuery
from services.monitor.prometheus import Prometheus as Client
from tests.monitor.conftest import PASSWORD, TOKEN, Site, observed
from tests.monitor.test_figures import FIGURE_9, FIGURE_10, FIGURE_11, parts, shape
from tests.parts.node_exporter import NodeExporter
from tests.parts.process import free_port
from tests.parts.prometheus import Prometheus, PrometheusProcess
from tests.rid import nodes

OF_NODE = 'host_ip="192.168.1.2",node="pi-3"'
#: Generated: the series that a kubelet's cAdvisor and kube-state-metrics have, of pods that never were.
GENERATED = """\
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{namespace="application",pod="mysql-0",container="mysql",node="pi-3"} %(cpu)s
container_cpu_usage_seconds_total{namespace="application",pod="mysql-0",container="POD",node="pi-3"} %(cpu)s
container_cpu_usage_seconds_total{namespace="application",pod="mysql-0",container="",node="pi-3"} %(cpu)s
container_cpu_usage_seconds_total{namespace="kube-system",pod="dns-0",container="dns",node="pi-3"} %(cpu)s
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{namespace="application",pod="mysql-0",container="mysql",node="pi-3"} 1000
container_memory_working_set_bytes{namespace="application",pod="mysql-0",container="log",node="pi-3"} 24
container_memory_working_set_bytes{namespace="application",pod="mysql-0",container="",node="pi-3"} 5000
container_memory_working_set_bytes{namespace="kube-system",pod="dns-0",container="dns",node="pi-3"} 512
# TYPE kube_pod_info gauge
kube_pod_info{namespace="application",pod="mysql-0",pod_ip="10.42.0.4",%(of)s,created_by_kind="ReplicaSet"} 1
kube_pod_info{namespace="kube-system",pod="dns-0",pod_ip="10.42.0.2",%(of)s,created_by_kind="DaemonSet"} 1
# TYPE kube_pod_status_phase gauge
kube_pod_status_phase{namespace="application",pod="mysql-0",phase="Running"} 1
kube_pod_status_phase{namespace="application",pod="mysql-0",phase="Failed"} 0
kube_pod_status_phase{namespace="kube-system",pod="dns-0",phase="Pending"} 1
# TYPE kube_pod_container_status_restarts_total counter
kube_pod_container_status_restarts_total{namespace="application",pod="mysql-0",container="mysql"} 2
kube_pod_container_status_restarts_total{namespace="application",pod="mysql-0",container="log"} 1
"""


@asynccontextmanager
async def _generated() -> AsyncIterator[str]:
    """A page with the generated series; its counters grow with each scrape."""

    class Page(BaseHTTPRequestHandler):
        scraped = 0

        def do_GET(self) -> None:
            Page.scraped += 1
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((GENERATED % {"cpu": Page.scraped * 0.1, "of": OF_NODE}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _rows(told: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The parts of an answer of the seed's, by name."""
    return [(name, rows) for part in told["Results"] for name, rows in part.items() if name != "timestamp"]


async def _until(ask: Callable[[], Awaitable[Any]], what: str, within: float = 30.0) -> Any:
    deadline = asyncio.get_running_loop().time() + within
    while not (found := await ask()):
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.1)
    return found


@asynccontextmanager
async def _scraping(
    site: Site, prometheus: Prometheus, folder: Path, more: list[dict[str, Any]]
) -> AsyncIterator[tuple[Any, httpx.AsyncClient, PrometheusProcess]]:
    """A monitor whose Prometheus scrapes it and what else is said."""
    port = free_port()
    own = {"job_name": "monitor", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    secret = {"basic_auth": {"username": "monitor", "password": PASSWORD}}
    discovered = {
        "job_name": "nodes",
        "http_sd_configs": [
            {
                "url": f"http://127.0.0.1:{port}/v1/targets",
                "authorization": {"type": "Bearer", "credentials": TOKEN},
                "refresh_interval": "1s",
            }
        ],
    }
    with prometheus.start(
        folder, [{**own, **secret}, discovered, *more], "tests", "a secret of Prometheus"
    ) as it:
        access = {
            "prometheus_url": it.url,
            "prometheus_user": "tests",
            "prometheus_password": "a secret of Prometheus",
        }
        async with site.monitor(http_port=port, **access) as (monitor, http):
            yield monitor, http, it


async def test_it_scrapes_nodes_and_exporters_and_tells_them_back(
    site: Site, prometheus: Prometheus, node_exporter: NodeExporter, tmp_path: Path
) -> None:
    exporter, page = node_exporter.start(tmp_path / "exporter.log")
    with exporter:
        async with _scraping(site, prometheus, tmp_path / "prometheus", []) as (_, http, it):
            loopback = [{"interface": "lo", "family": "ipv4", "address": "127.0.0.1"}]
            port = httpx.URL(page).port
            await site.say(
                nodes.characterization(
                    "pi-3", site.mc, addresses=loopback, labels={"exporter.port": str(port)}
                ),
                nodes.measurement("pi-3", cpu_used=12.5, disk_free=nodes.GIB),
            )
            client = Client(it.url, "tests", "a secret of Prometheus")

            async def stored() -> Any:
                return await client.vector('minicloud_node_cpu_used_percent{node="pi-3"}')

            (sample,) = await _until(stored, "the agent's metric is stored")
            assert sample.value == 12.5
            assert sample.labels["minicloud"] == site.mc
            (up,) = await client.vector("minicloud_node_up")
            assert up.value == 1

            # Two scrapes of the exporter make a rate, which is the disk part of Figure 9.
            async def disks() -> Any:
                # Something for a disk to do.
                with (tmp_path / "written").open("wb") as file:
                    file.write(b"x" * 2_000_000)
                    file.flush()
                    await asyncio.to_thread(os.fsync, file.fileno())
                told = (await http.get("/monitoring?metric=physical_metrics")).json()
                # A quiet disk may have nothing to read.
                return told if all(rows for name, rows in _rows(told) if "Read" not in name) else None

            told = await _until(disks, "the exporter's disks are stored")
            assert parts(told) == parts(FIGURE_9)
            for part, printed in zip(told["Results"], FIGURE_9["Results"], strict=True):
                if "Disk Read Latency Results" not in part:
                    assert shape(part) == shape(printed)
            assert {row["node"] for _, rows in _rows(told) for row in rows} == {"pi-3"}


async def test_pods_and_namespaces_come_from_its_series(
    site: Site, prometheus: Prometheus, tmp_path: Path
) -> None:
    async with _generated() as target:
        kubelet = {"job_name": "generated", "honor_labels": True, "static_configs": [{"targets": [target]}]}
        async with _scraping(site, prometheus, tmp_path / "prometheus", [kubelet]) as (_, http, _it):
            await site.say(nodes.characterization("pi-3", site.mc), observed("pi-3", "hello-0"))

            async def pods() -> Any:
                told = (await http.get("/monitoring?metric=virtual_metrics&namespace=application")).json()
                return told if told["Results"][2]["Pod CPU Usage Results"] else None

            told = await _until(pods, "two scrapes")
            assert shape(told) == shape(FIGURE_10)
            info, phase, cpu, memory = (rows for _, rows in _rows(told))
            assert info[0] == {
                "pod": "mysql-0", "pod_ip": "10.42.0.4", "namespace": "application", "created_by_kind": "ReplicaSet",
                "replica": "1", "node": "pi-3", "node_ip": "192.168.1.2",
            }  # fmt: skip
            assert [(row["kube_pod_status_phase"], row["instance"]) for row in phase] == [("Running", target)]
            assert memory == [{"node": "pi-3", "pod": "mysql-0", "pod_memory_usage(bytes)": "1024.0"}]
            assert 0 < float(cpu[0]["pod_cpu_usage(seconds)"]) < 1
            told = (await http.get("/monitoring?namespace=all")).json()
            assert shape(told) == shape(FIGURE_11)
            assert {
                row["namespace"]: row["memory_usage(bytes)"]
                for row in told["Results"][1]["Namespace Memory Results"]
            } == {
                "application": "1024",
                "kube-system": "512",
            }
            page = (await http.get("/v1/workloads")).json()
            found = {one["name"]: one for one in page["workloads"]}
            assert set(found) == {"mysql-0", "dns-0", "hello-0"}
            assert (found["mysql-0"]["source"], found["hello-0"]["source"]) == ("prometheus", "worker")
            assert (found["mysql-0"]["restarts"], found["mysql-0"]["memory"]) == (3, 1024)
            assert found["dns-0"]["state"] == "Pending"
            assert "do not measure" in page["silent"]["cpu"]


async def test_a_prometheus_that_is_away_or_refuses_is_told_and_the_rest_answered(
    site: Site, prometheus: Prometheus, tmp_path: Path
) -> None:
    with prometheus.start(tmp_path / "prometheus", [], "tests", "right") as it:
        wrong = {"prometheus_user": "tests", "prometheus_password": "wrong"}
        for url, why in ((it.url, "401"), (f"http://127.0.0.1:{free_port()}", "refused")):
            async with site.monitor(prometheus_url=url, **wrong) as (_, http):
                await site.say(nodes.characterization("pi-3", site.mc), observed("pi-3"))
                await _until(
                    lambda http=http: _workloads(http),
                    "the workload",  # type: ignore[misc]
                )
                page = (await http.get("/v1/workloads")).json()
                assert why in page["silent"]["pods"].lower()
                answer = await http.get("/monitoring?metric=physical_metrics")
                assert why in answer.headers["minicloud-silent"].lower()


async def _workloads(http: httpx.AsyncClient) -> Any:
    return (await http.get("/v1/workloads")).json()["workloads"]


@pytest.mark.parametrize("namespace", ['a"b', "a}b", "", "-a", "a" * 300])
def test_a_namespace_cannot_widen_a_query(namespace: str) -> None:
    with pytest.raises(InvalidQuery):
        Client("", "", "").pod_cpu(namespace)
