"""A node's events as flat attributes: each is what the vocabulary says it is, and none speaks for another."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.attributes import ATTRIBUTES, FAMILIES, Value, kind_of, lookup
from schemas.flatten import allocatable, attributes_of, may_be_metric, measured, working
from schemas.node import Characterization
from schemas.workload import DesiredWorkload, WorkerStatus
from tests.schemas.examples import DATA

(NODE,) = (data for data in DATA if isinstance(data, Characterization))
(DESIRED,) = (data for data in DATA if isinstance(data, DesiredWorkload))
(WORKER,) = (data for data in DATA if isinstance(data, WorkerStatus))
_TYPES = {"string": str, "version": str, "bool": bool, "set": list, "number": (int, float)}


def _with(**changes: Any) -> Characterization:
    return Characterization.model_validate(NODE.model_dump() | changes)


def test_a_characterization_says_every_static_attribute() -> None:
    assert attributes_of(NODE) == {
        "id": "f00d",
        "name": "pi-3",
        "minicloud": "home",
        "addresses": ["10.0.0.3"],
        "agent.version": "0.1.0",
        "cpu.arch": "aarch64",
        "cpu.bits": 64,
        "cpu.cores": 4,
        "cpu.model": "Cortex-A72",
        "memory.total": 4 * 1024**3,
        "disk.total": 10**11,
        "disk.kind": ["ssd"],
        "gpu": True,
        "gpu.name": ["T4"],
        "battery": True,
        "os.name": "Debian",
        "os.version": "12",
        "kernel": "6.1",
        "k3s.role": "agent",
        "rack": "r1",
        "runtimes": ["unikernel"],
        "acceleration": "kvm",
        "storage.worker": True,
        "region.city": "Athens",
        "software.python3": "3.11.7",
        "label.storage.worker": "yes",
    }


def test_a_mapping_is_read_as_the_model() -> None:
    assert attributes_of(NODE.model_dump(mode="json")) == attributes_of(NODE)
    with pytest.raises(ValidationError):
        attributes_of({"node": "a"})


def test_what_cannot_be_known_is_absent() -> None:
    bare = _with(
        battery=None,
        gpus=[],
        k3s=None,
        rack=None,
        runtimes=[],
        disks=[],
        cpu={"arch": "a", "bits": 64, "cores": 1},
    )
    found = attributes_of(bare)
    assert {"k3s.role", "rack", "acceleration", "cpu.model"}.isdisjoint(found)
    assert (found["gpu"], found["battery"], found["disk.total"], found["runtimes"]) == (False, False, 0, [])


def test_every_value_is_of_its_attributes_kind() -> None:
    found = {
        **attributes_of(NODE),
        **measured({"load.1m": 0.5, "memory.available": 1.6}),
        **working(WORKER, ["process"]),
        **allocatable({"cpu.cores": 4, "memory.total": 1 << 30}, [DESIRED]),
    }
    for name, value in found.items():
        assert lookup(name), name
        assert isinstance(value, _TYPES[kind_of(name)]), name


def test_network_disks_do_not_count_as_the_nodes_own() -> None:
    disk = {"device": "d", "mount": "/d", "filesystem": "x"}
    two = _with(disks=[{**disk, "total": 10, "kind": "sd"}, {**disk, "total": 90, "kind": "network"}])
    assert attributes_of(two)["disk.total"] == 10
    assert attributes_of(two)["disk.kind"] == ["network", "sd"]


@pytest.mark.parametrize(
    ("said", "meant"), [("true", True), ("YES", True), ("1", True), ("no", False), ("", False)]
)
def test_a_label_makes_a_storage_worker(said: str, meant: bool) -> None:
    assert attributes_of(_with(labels={"storage.worker": said}))["storage.worker"] is meant


def test_a_label_that_is_no_name_is_no_attribute_and_an_absurd_size_no_size() -> None:
    odd = _with(labels={"a b": "x", "ok": "y", "x" * 200: "z"}, memory={"total": 10**30})
    found = attributes_of(odd)
    assert [name for name in found if name.startswith("label.")] == ["label.ok"]
    assert "memory.total" not in found


@given(st.dictionaries(st.sampled_from([*ATTRIBUTES, "fan.speed", "region.x", "a b", ""]), st.floats()))
def test_a_sample_speaks_for_metrics_only_and_in_finite_numbers(values: dict[str, float]) -> None:
    found = measured(values)
    assert found.keys() <= values.keys()
    for name, value in found.items():
        assert may_be_metric(name)
        assert isinstance(value, (int, float))
        assert math.isfinite(value)
        known = ATTRIBUTES.get(name)
        assert known is None or (known.dynamic and known.kind == "number")
        assert not name.startswith(tuple(prefix for prefix, family in FAMILIES.items() if not family.dynamic))
    assert {"age", "allocatable.cpu", "state", "cpu.cores", "region.x", "a b", ""}.isdisjoint(found)


def test_bytes_are_whole_numbers() -> None:
    assert measured({"memory.available": 1.6, "load.1m": 1.6}) == {"memory.available": 2, "load.1m": 1.6}


def test_runtimes_are_those_that_both_the_node_and_its_worker_offer() -> None:
    status = WORKER.model_copy(update={"runtimes": ["process", "container"]})
    assert working(status, ["container", "vm"])["runtimes"] == ["container"]
    assert working(status, ["container"])["worker"] is True
    assert working(status.model_copy(update={"state": "stopped"}), [])["worker"] is False
    assert working(None, ["container"]) == {}
    assert working(status, "container") == {}


def test_allocatable_is_what_reservations_leave_and_never_negative() -> None:
    static: dict[str, Value] = {"cpu.cores": 2, "memory.total": 1 << 27}
    one = DESIRED.model_copy(update={"cpu": 0.5, "memory": 1 << 26, "memory_overhead": 1 << 20})
    stopped = one.model_copy(update={"state": "stopped"})
    assert allocatable(static, []) == {"allocatable.cpu": 2.0, "allocatable.memory": 1 << 27}
    assert allocatable(static, [one, stopped]) == {
        "allocatable.cpu": 1.5,
        "allocatable.memory": (1 << 26) - (1 << 20),
    }
    assert allocatable(static, [one] * 9) == {"allocatable.cpu": 0.0, "allocatable.memory": 0}
    assert allocatable({}, [one]) == {}
