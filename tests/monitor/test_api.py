"""The typed API: pages, units, errors, and nobody answered without a secret."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.errors import InvalidDocument
from services.monitor.guard import Guard
from services.monitor.settings import MonitorSettings
from tests.bus.test_broker import certificate
from tests.monitor.conftest import PASSWORD, TOKEN, Site, observed
from tests.rid import nodes
from tests.rid.nodes import GIB, until

__all__ = ["certificate"]


async def test_nodes_come_in_pages_with_units(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(*(nodes.characterization(f"n{at}", site.mc) for at in range(5)))
        await site.say(nodes.measurement("n3", load_1m=0.5, queue_depth=7))
        await until(lambda: len(monitor.fleet.nodes()) == 5 and monitor.fleet.node("n3").values, "five")  # type: ignore[union-attr]
        seen: list[dict[str, Any]] = []
        after = ""
        while True:
            page = (await http.get("/v1/nodes", params={"limit": 2, "after": after})).json()
            assert len(page["nodes"]) <= 2
            seen += page["nodes"]
            if page["next"] is None:
                break
            after = page["next"]
        assert [node["name"] for node in seen] == [f"n{at}" for at in range(5)]
        assert seen[3]["metrics"] == {
            "load.1m": {"value": 0.5, "unit": None},
            "memory.available": {"value": 4 * GIB, "unit": "B"},
            "queue.depth": {"value": 7.0, "unit": None},
        }
        assert seen[3]["state"] == "alive"
        assert seen[3]["characterization"]["silent"] == {"battery": "no power supply"}
        assert (await http.get("/v1/nodes/id-of-n3")).json() == (await http.get("/v1/nodes/n3")).json()


async def test_windows_of_one_node_and_of_all(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("a", site.mc), nodes.characterization("b", site.mc))
        for load in (1.0, 2.0, 6.0):
            await site.say(nodes.measurement("a", load_1m=load))
        await until(
            lambda: monitor.windows.mean("a", "load.1m", "5m", monitor.answers.clock()) == 3.0, "three"
        )
        one = (await http.get("/v1/nodes/a/windows", params={"window": "10m"})).json()
        assert one["window"] == "10m"
        load = one["metrics"]["load.1m"]
        assert (load["mean"], load["maximum"], load["samples"]) == (3.0, 6.0, 3)
        assert load["rate"] > 0
        assert one["metrics"]["memory.available"]["unit"] == "B"
        page = (await http.get("/v1/windows", params={"limit": 1})).json()
        assert [node["node"] for node in page["nodes"]] == ["a"]
        assert page["next"] == "a"
        rest = (await http.get("/v1/windows", params={"after": "a"})).json()
        assert rest == {"nodes": [{"node": "b", "window": "5m", "metrics": {}}], "next": None}


async def test_workloads_say_what_is_not_known_and_why(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("a", site.mc))
        endpoint = {"name": "http", "address": "10.0.0.9", "port": 80}
        await site.say(
            observed("a", "hello-0", endpoints=[endpoint], restarts=2), observed("a", "hello-1", "failed")
        )
        await until(lambda: len(list(monitor.fleet.workloads())) == 2, "both")
        page = (await http.get("/v1/workloads", params={"limit": 1})).json()
        (one,) = page["workloads"]
        assert one["name"] == "hello-0"
        assert one["namespace"] == site.mc
        assert (one["source"], one["state"], one["node"]) == ("worker", "running", "a")
        assert (one["addresses"], one["restarts"], one["deployment"]) == (["10.0.0.9"], 2, "hello")
        assert one["cpu"] is None
        assert "no Prometheus is configured" in page["silent"]["cpu"]
        rest = (await http.get("/v1/workloads", params={"after": page["next"], "namespace": site.mc})).json()
        assert [one["state"] for one in rest["workloads"]] == ["failed"]
        assert rest["next"] is None
        assert (await http.get("/v1/workloads", params={"namespace": "other"})).json()["workloads"] == []
        (space,) = (await http.get("/v1/namespaces")).json()["namespaces"]
        assert space == {"name": site.mc, "workloads": 2, "cpu": None, "memory": None}


async def test_exporters_are_told_to_prometheus(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        v6 = [{"interface": "eth0", "family": "ipv6", "address": "fd00::4"}]
        await site.say(
            nodes.characterization("a", site.mc),
            nodes.characterization("b", site.mc, labels={"exporter.port": "9101"}),
            nodes.characterization("c", site.mc, addresses=v6, labels={"exporter.port": "nonsense"}),
            nodes.characterization("d", site.mc, addresses=[]),
        )
        await until(lambda: len(monitor.fleet.nodes()) == 4, "four")

        async def told(**asked: Any) -> dict[str, list[str]]:
            found = (await http.get("/v1/targets", params=asked)).json()
            assert all(one["labels"]["minicloud"] == site.mc for one in found)
            return {one["labels"]["node"]: one["targets"] for one in found}

        assert await told() == {"b": ["192.168.1.4:9101"]}
        assert await told(port=9100) == {
            "a": ["192.168.1.4:9100"],
            "b": ["192.168.1.4:9101"],
            "c": ["[fd00::4]:9100"],
        }


@pytest.mark.parametrize(
    ("url", "status", "field"),
    [
        ("/v1/nodes?limit=0", 400, "limit"),
        ("/v1/nodes?limit=5000", 400, "limit"),
        ("/v1/nodes?page=2", 400, "page"),
        ("/v1/nodes/nobody", 404, "node"),
        ("/v1/nodes/nobody/windows", 404, "node"),
        ("/v1/nodes/nobody/impact", 404, "node"),
        ("/v1/nodes/nobody/characterizations", 404, "node"),
        ("/v1/nodes/nobody/characterizations?before=yesterday", 400, "before"),
        ("/v1/windows?window=7m", 400, "window"),
        ("/v1/workloads?namespace=a%22b", 400, "namespace"),
        ("/v1/deployments/none", 404, "deployment"),
        ("/v1/targets?port=99999", 400, "port"),
    ],
)
async def test_errors_say_where_and_what_would_be_right(
    site: Site, url: str, status: int, field: str
) -> None:
    async with site.monitor() as (_, http):
        refused = await http.get(url)
        assert refused.status_code == status
        assert refused.json()["field"] == field


async def test_nothing_but_health_is_anonymous(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        paths = [route.path for route in monitor.frame.routes]
        assert {"/metrics", "/monitoring", "/openapi.json"} <= set(paths)
        async with httpx.AsyncClient(base_url=http.base_url) as stranger:
            for path in paths:
                url = path.replace("{node}", "a").replace("{deployment}", "a")
                refused = await stranger.get(url)
                assert refused.status_code == 401, url
                assert refused.json()["code"] == "Unauthenticated"
                assert "Basic" in refused.headers["www-authenticate"]
            assert (await stranger.get("/healthz")).status_code == 200
            assert (await stranger.get("/readyz")).status_code == 200
            known = {"Authorization": f"Bearer {TOKEN}"}
            assert (await stranger.get("/v1/nodes", headers=known)).status_code == 200
            assert (await stranger.get("/v1/nodes", auth=("monitor", PASSWORD))).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Basic",
        "Basic !!",
        "Basic bW9uaXRvcjp3cm9uZw==",
        "Basic bW9uaXRvcjo=",
        "Digest x",
    ],
)
def test_a_wrong_secret_is_none(said: str) -> None:
    assert not Guard("monitor", "right", "token").admits(said)
    assert not Guard("monitor", "", "").admits(said)


def test_an_api_without_a_secret_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="api_password_file"):
        MonitorSettings.load({})
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    assert MonitorSettings.load({}, api_password_file=secret).api_password == "from a file"
    with pytest.raises(InvalidDocument, match="setting api_token_file"):
        MonitorSettings.load({}, api_token_file=tmp_path / "none")


async def test_http_is_encrypted_where_there_is_a_certificate(
    site: Site, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    trusted = ssl.create_default_context(cafile=cert)
    async with site.monitor(http_cert=cert, http_key=key) as (_, http):
        assert str(http.base_url).startswith("https://")
        async with httpx.AsyncClient(
            base_url=http.base_url, verify=trusted, auth=("monitor", PASSWORD)
        ) as known:
            assert (await known.get("/v1/nodes")).json() == {"nodes": [], "next": None}
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await http.get("/v1/nodes")
    for given, wrong in (
        ({"http_cert": cert}, "http_key"),
        ({"http_key": key}, "http_cert"),
        ({"http_cert": key, "http_key": cert}, "http_cert"),
        ({"http_cert": cert, "http_key": cert.parent / "none"}, "http_cert"),
    ):
        with pytest.raises(InvalidDocument, match=f"setting {wrong}"):
            async with site.monitor(**given):
                pass
