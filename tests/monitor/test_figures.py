"""The seed's documents to the letter: each figure of seed 3.4, its shape as printed there.

The figures were broken across pages: where one lost a bracket, what is left says where it was. A shape is
written as the figure has it: text is text, a number a number, ``null`` null.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import yaml

from tests.monitor.conftest import Site, observed
from tests.rid import nodes
from tests.rid.nodes import GIB, until

#: Figure 9: every part, in its order, with one row.
FIGURE_9: dict[str, Any] = json.loads("""
{"Results": [
 {"timestamp": 1613918256.884719, "Cpu Usage Results": [{"node": "giannis", "cpu_usage(percentage)": " 11.39"}]},
 {"timestamp": 1613918256.948491, "Memory Usage Results": [{"node": "giannis", "mem_usage(percentage)": " 43.58"}]},
 {"timestamp": 1613918257.013779, "Disk Write Latency Results":
  [{"node": "giannis", "device": "sdc", "disk_write_latency(percentage)": " 0.80"}]},
 {"timestamp": 1613918257.075608, "Disk Read Latency Results":
  [{"node": "giannis", "device": "sdc", "disk_read_latency(percentage)": " 0.02"}]},
 {"timestamp": 1613918257.137085, "Filesystem Usage Results":
  [{"node": "giannis", "mountpoint": null, "fstype": null, "filesystem_usage(percentage)": " 19.49"}]},
 {"timestamp": 1613918257.198618, "Disk Size Results":
  [{"node": "giannis", "disk_total_size(bytes)": "2204823101440"}]},
 {"timestamp": 1613918257.258936, "Disk Free Space Results":
  [{"node": "giannis", "disk_free_space(bytes)": "2170876522496"}]},
 {"timestamp": 1613918257.318943, "Disk IO Usage Results":
  [{"node": "giannis", "disk_io_time_spent(seconds)": "0.007369490285714287"}]}
]}""")
FIGURE_10: dict[str, Any] = json.loads("""
{"Results": [
 {"timestamp": 1613918536.169836, "Pod Info Results": [{"pod": "mysql-bfc5c9f44-477rv", "pod_ip": "192.168.1.2",
  "namespace": "application", "created_by_kind": "ReplicaSet", "replica": "1", "node": "giannis",
  "node_ip": "192.168.1.2"}]},
 {"timestamp": 1613918536.238763, "Kube Pod Status Phase Results": [{"kube_pod_status_phase": "Running",
  "pod": "mysql-bfc5c9f44-477rv", "instance": "10.42.0.42:8443", "namespace": "application"}]},
 {"timestamp": 1613918536.300128, "Pod CPU Usage Results": [{"node": "giannis", "pod": "mysql-bfc5c9f44-477rv",
  "pod_cpu_usage(seconds)": "0.018315272811091667"}]},
 {"timestamp": 1613918536.368414, "Pod Memory Usage Results": [{"node": "giannis",
  "pod": "mysql-bfc5c9f44-477rv", "pod_memory_usage(bytes)": "20627632.01304764"}]}
]}""")
FIGURE_11: dict[str, Any] = json.loads("""
{"Results": [
 {"timestamp": 1613918683.353328, "Namespace CPU Results":
  [{"namespace": "monitoring", "cpu_usage(seconds)": "0.1492824091256434"}]},
 {"timestamp": 1613918683.416821, "Namespace Memory Results":
  [{"namespace": "kube-system", "memory_usage(bytes)": "232685568"}]}
]}""")
#: Figure 12: the entry of ``raspberrypi``, which is whole, and what only ``giannis``' GPU has.
FIGURE_12: list[dict[str, Any]] = json.loads("""
[{"device": {"_id": {"$oid": "60326f8f528bf960d6b36ce3"}, "device_name": "raspberrypi", "ip": "192.168.1.205",
  "UUID": "e7cd9caa-7451-11eb-85aa-dca632298c4f", "RAM(bytes)": 4095737856, "Battery": "None",
  "CPU": {"Arch": "armv7l", "bits": "32", "cores": 4},
  "GPU": {"GPU_name": "llvmpipe (LLVM 7.0, 128 bits) (0xffffffff)",
   "GPU_type": "Intergated graphics processing", "GPU_video_memory(bytes)": 4095737856, "unified_memory": "no"},
  "OS": {"OS_name": "Linux", "OS_version": "4.19.118-v7l+"},
  "DISK": [{"device": "/dev/root", "fstype": "ext4", "mountpoint": "/dev/termination-log"}]},
  "K3s": {"node_role": ""},
  "Region": {"continent": "Europe", "country": "Greece", "city": "Athens"}}]""")


def shape(document: Any) -> Any:
    """A document with its kinds in place of its values; a list is the shapes of its entries, each once."""
    if isinstance(document, dict):
        return {name: shape(value) for name, value in document.items()}
    if isinstance(document, list):
        once: list[Any] = []
        for entry in document:
            if (its := shape(entry)) not in once:
                once.append(its)
        return once
    return type(document).__name__


def parts(document: dict[str, Any]) -> list[list[str]]:
    """The names of the parts in their order; a document's keys are ordered."""
    return [list(part) for part in document["Results"]]


async def _asked(http: httpx.AsyncClient, url: str) -> tuple[Any, httpx.Response]:
    answer = await http.get(url)
    assert answer.status_code == 200, answer.text
    return answer.json(), answer


async def test_physical_metrics_are_figure_9(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("giannis", site.mc))
        values = {"cpu_used": 11.386, "memory_available": 2 * GIB, "disk_free": 16 * GIB}
        await site.say(nodes.measurement("giannis", **values))
        await until(lambda: (node := monitor.fleet.node("giannis")) and node.values, "a sample")
        told, answer = await _asked(http, "/monitoring?metric=physical_metrics")
        assert parts(told) == parts(FIGURE_9)
        by_disk = {"Disk Write Latency Results", "Disk Read Latency Results", "Disk IO Usage Results"}
        for part, printed in zip(told["Results"], FIGURE_9["Results"], strict=True):
            (name,) = printed.keys() - {"timestamp"}
            if name in by_disk:  # what no agent measures; test_prometheus.py has them
                assert part[name] == []
                assert f"{name}: no Prometheus is configured" in answer.headers["Minicloud-Silent"]
            else:
                assert shape(part) == shape(printed)
        rows = {
            name: part[name][0]
            for part in told["Results"]
            for name in part
            if part[name] and name != "timestamp"
        }
        assert rows["Cpu Usage Results"]["cpu_usage(percentage)"] == " 11.39"
        assert rows["Memory Usage Results"]["mem_usage(percentage)"] == " 75.00"
        assert rows["Filesystem Usage Results"]["filesystem_usage(percentage)"] == " 75.00"
        assert rows["Disk Size Results"]["disk_total_size(bytes)"] == str(64 * GIB)
        assert rows["Disk Free Space Results"]["disk_free_space(bytes)"] == str(16 * GIB)


async def test_virtual_metrics_are_figure_10(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("giannis", site.mc), observed("giannis", "mysql-0"))
        await site.say(observed("giannis", "job-0", "completed"), observed("giannis", "old-0", "stopped"))
        await until(lambda: len(list(monitor.fleet.workloads())) == 2, "the workloads")
        told, answer = await _asked(http, f"/monitoring?metric=virtual_metrics&namespace={site.mc}")
        assert parts(told) == parts(FIGURE_10)
        info, phases, cpu, memory = told["Results"]
        assert shape(info) == shape(FIGURE_10["Results"][0])
        assert shape(phases) == shape(FIGURE_10["Results"][1])
        assert info["Pod Info Results"][1] == {
            "pod": "mysql-0", "pod_ip": "192.168.1.4", "namespace": site.mc, "created_by_kind": "Deployment",
            "replica": "1", "node": "giannis", "node_ip": "192.168.1.4",
        }  # fmt: skip
        assert [row["kube_pod_status_phase"] for row in phases["Kube Pod Status Phase Results"]] == [
            "Succeeded",
            "Running",
        ]
        assert cpu["Pod CPU Usage Results"] == memory["Pod Memory Usage Results"] == []
        assert "Pod CPU Usage Results: no Prometheus" in answer.headers["Minicloud-Silent"]
        told, _ = await _asked(http, "/monitoring?metric=virtual_metrics&namespace=another")
        assert all(part[name] == [] for part in told["Results"] for name in part if name != "timestamp")


async def test_namespaces_are_figure_11(site: Site) -> None:
    async with site.monitor() as (_, http):
        for url in ("/monitoring?namespace=all", "/monitoring?metric=virtual_metrics&namespace=all"):
            told, _ = await _asked(http, url)
            assert parts(told) == parts(FIGURE_11)


async def test_a_characterization_is_figure_12(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(
            nodes.characterization("raspberrypi", site.mc, gpus=[{"name": "V3D"}], region={"city": "Athens"}),
            nodes.characterization(
                "giannis",
                site.mc,
                battery={"charge": 50},
                k3s={"role": "server"},
                gpus=[{"name": "AMD BONAIRE", "memory": 2 * GIB}],
            ),
            nodes.characterization("plain", site.mc),
        )
        await until(lambda: len(monitor.fleet.nodes()) == 3, "three nodes")
        for url in ("/characterization?format=json", "/characterization"):
            told, _ = await _asked(http, url)
            assert shape(told) == shape(FIGURE_12)
        told = {entry["device"]["device_name"]: entry for entry in told}
        assert told["giannis"]["K3s"]["node_role"] == "control-plane, master"
        assert told["giannis"]["device"]["GPU"]["GPU_type"] == "Dedicated graphics processing"
        assert told["giannis"]["device"]["Battery"] == "50.0"
        assert told["raspberrypi"]["device"]["Battery"] == "None"
        assert told["raspberrypi"]["device"]["UUID"] == "id-of-raspberrypi"
        assert told["raspberrypi"]["device"]["CPU"] == {"Arch": "x86_64", "bits": "64", "cores": 4}
        assert told["raspberrypi"]["Region"] == {"continent": "", "country": "", "city": "Athens"}
        ids = {entry["device"]["_id"]["$oid"] for entry in told.values()}
        assert len(ids) == 3
        assert all(len(bytes.fromhex(one)) == 12 for one in ids)


async def test_a_characterization_as_tosca_is_a_file_to_download(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("raspberrypi", site.mc))
        await until(lambda: len(monitor.fleet.nodes()) == 1, "a node")
        answer = await http.get("/characterization?format=tosca")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="{site.mc}.tosca.yaml"'
        assert "raspberrypi" in yaml.safe_load(answer.text)["topology_template"]["node_templates"]


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("/monitoring", "metric"),
        ("/monitoring?metric=physical", "metric"),
        ("/monitoring?metric=virtual_metrics", "namespace"),
        ("/monitoring?metric=virtual_metrics&namespace=%22%7D+or+vector(1)", "namespace"),
        ("/monitoring?metrics=physical_metrics", "metrics"),
        ("/characterization?format=xml", "format"),
    ],
)
async def test_a_wrong_question_is_told_what_would_be_right(site: Site, url: str, field: str) -> None:
    async with site.monitor() as (_, http):
        refused = await http.get(url)
        assert refused.status_code == 400
        assert refused.json()["field"] == field
        assert refused.json()["expected"]
