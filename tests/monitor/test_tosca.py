"""The TOSCA document: two parsers of others take it, whatever a node may be called or labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import MinicloudError
from schemas.node import Characterization
from services.monitor import tosca
from services.monitor.tosca import document
from services.monitor.toscacheck import problem
from tests.monitor.conftest import Site
from tests.parts.opera import OperaParser
from tests.rid import nodes
from tests.rid.nodes import GIB, until

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.dictionaries(text, text, max_size=3)


def _rich(name: str) -> Characterization:
    return nodes.characterization(
        name,
        gpus=[{"name": "T4", "vendor": "NVIDIA", "memory": 16 * GIB}, {"name": "V3D"}],
        battery={"charge": 50},
        k3s={"role": "server"},
        rack="r1",
        os={"name": "debian", "version": "12.4.1", "kernel": "6.1"},
        labels={'a "b": c': "on\ntwo lines", "yes": "no", "1.0": "0x10", "é": "☃"},
    )


def _bare(name: str) -> Characterization:
    plain = {"addresses": [], "disks": [], "runtimes": [], "software": {}, "region": {}, "labels": {}}
    return nodes.characterization(name, **plain, os={"name": "debian", "version": "trixie/sid"})


def test_both_parsers_take_it(opera: OperaParser, tmp_path: Path) -> None:
    # A device may be called as its minicloud is, or as YAML's own words.
    made = document("home", [_rich("home"), _bare("no"), _bare("12")])
    assert problem(made) is None
    path = tmp_path / "home.yaml"
    path.write_text(made)
    assert opera.nodes(path) == ["cluster home", "home", "no", "12"]


def test_both_parsers_refuse_what_is_wrong(opera: OperaParser, tmp_path: Path) -> None:
    made = document("home", [_rich("a")])
    assert "mem_sizo" in str(problem(made.replace("mem_size", "mem_sizo")))
    wrong = made.replace('"type": "minicloud.nodes.Device"', '"type": "minicloud.nodes.Devise"')
    assert problem(wrong) is not None
    path = tmp_path / "home.yaml"
    path.write_text(wrong)
    with pytest.raises(AssertionError, match="Devise"):
        opera.nodes(path)


@settings(max_examples=25, deadline=None)
@given(names, names, text, st.lists(text, max_size=2))
def test_whatever_an_agent_says_it_stays_valid_and_true(
    labels: dict[str, str], software: dict[str, str], version: str, gpus: list[str]
) -> None:
    it = nodes.characterization(
        "a",
        labels=labels,
        software=software,
        os={"name": version, "version": version},
        gpus=[{"name": name} for name in gpus],
    )
    made = document("home", [it])
    assert problem(made) is None
    said: dict[str, Any] = yaml.safe_load(made)["topology_template"]["node_templates"]["a"]["properties"]
    assert said["labels"] == labels
    assert said["software"] == software
    assert [gpu["name"] for gpu in said["gpus"]] == gpus


async def test_it_is_checked_before_it_is_handed_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(_rich("a").model_copy(update={"minicloud": site.mc}), _bare("b"))
        await until(lambda: len(monitor.fleet.nodes()) == 2, "both")
        told = await http.get("/v1/tosca")
        assert told.headers["content-type"] == "application/yaml"
        assert yaml.safe_load(told.text)["tosca_definitions_version"] == "tosca_simple_yaml_1_3"
        assert told.text == (await http.get("/characterization?format=tosca")).text
        monkeypatch.setattr(tosca, "_size", str)  # what a mistake of ours would be
        await site.say(_bare("c"))
        await until(lambda: len(monitor.fleet.nodes()) == 3, "c")
        refused = await http.get("/v1/tosca")
        assert refused.status_code == MinicloudError.status
        assert "tosca-parser refuses" in refused.json()["message"]
