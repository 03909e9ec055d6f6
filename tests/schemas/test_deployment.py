"""The deployment request: every rule refuses with the field named, and repeats are recognised."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from docs.contract import REQUEST
from minicloud.requestfile import read_request
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument
from schemas.event import read_document

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def _request(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(REQUEST) | changes
    return {name: value for name, value in document.items() if value is not ...}


def _read(document: dict[str, Any]) -> DeploymentRequest:
    request: DeploymentRequest = read_document(json.dumps(document), DeploymentRequest)
    return request


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"replcas": 2}, "replcas", "only fields of the schema"),
        ({"runtimes": ...}, "runtimes", "required"),
        ({"runtimes": []}, "runtimes", "at least 1"),
        ({"runtimes": ["docker"]}, "runtimes.0", "'process', 'container', 'vm' or 'unikernel'"),
        ({"runtimes": ["process", "process"]}, "runtimes", "each runtime once"),
        ({"runtimes": ["vm"]}, "images", "no image for runtime vm"),
        ({"images": ...}, "images", "required"),
        ({"images": {"wasm": {}}}, "images.wasm", "only fields of the schema"),
        ({"images": {"process": {"command": []}}}, "images.process.command", "at least 1"),
        ({"images": {"process": {"command": [""]}}}, "images.process.command.0", "at least 1"),
        ({"images": {"process": {"command": ["a\nb"]}}}, "images.process.command.0", "pattern"),
        ({"images": {"container": {}}}, "images.container", "exactly one of image, layout, rootfs"),
        (
            {"images": {"container": {"image": "a", "rootfs": "b"}}},
            "images.container",
            "exactly one of image, layout, rootfs is needed, got image, rootfs",
        ),
        ({"images": {"unikernel": {}}}, "images.unikernel", "exactly one of kernel, layout, image"),
        ({"images": {"vm": {"disk": "d"}}}, "images.vm", "exactly one of kernel, layout, image"),
        ({"name": "a.b"}, "name", "pattern"),
        ({"id": "*"}, "id", "pattern"),
        ({"resources": {"cpu": "5Mi"}}, "resources.cpu", "cores such as 250m"),
        ({"resources": {"cpu": 0}}, "resources.cpu", "greater than 0"),
        ({"resources": {"cpu": 2000}}, "resources.cpu", "1024"),
        ({"resources": {"memory": "5m"}}, "resources.memory", "bytes such as 64MiB"),
        ({"resources": {"memory": 10**400}}, "resources.memory", "bytes such as 64MiB"),
        ({"resources": {"memory": "1KiB"}}, "resources.memory", "1048576"),
        ({"resources": {"gpu": 1}}, "resources.gpu", "only fields of the schema"),
        ({"ports": [{"name": "http", "port": 0}]}, "ports.0.port", "greater than or equal to 1"),
        ({"ports": [{"name": "http", "port": 65536}]}, "ports.0.port", "65535"),
        ({"ports": [{"name": "a b", "port": 1}]}, "ports.0.name", "pattern"),
        ({"ports": [{"name": "http", "port": 1, "hostPort": 0}]}, "ports.0.hostPort", "1"),
        (
            {"ports": [{"name": "http", "port": 1}, {"name": "http", "port": 2}]},
            "ports",
            "each port with a name of its own",
        ),
        ({"ports": [{"name": f"p{n}", "port": 1} for n in range(33)]}, "ports", "at most 32"),
        ({"env": {"1A": "x"}}, "env.1A", "pattern"),
        ({"env": {"A": "x" * 40_000}}, "env.A", "32768"),
        ({"env": {"A": 1}}, "env.A", "string"),
        ({"files": [{"path": "../x", "content": ""}]}, "files.0.path", "'..' is not allowed"),
        ({"files": [{"path": "a/../../x", "content": ""}]}, "files.0.path", "'..' is not allowed"),
        ({"files": [{"path": "a b", "content": ""}]}, "files.0.path", "pattern"),
        ({"files": [{"path": "a", "content": "x" * 300_000}]}, "files.0.content", "262144"),
        ({"files": [{"path": "a", "content": "", "mode": 0o7777}]}, "files.0.mode", "511"),
        ({"replicas": -1}, "replicas", "greater than or equal to 0"),
        ({"replicas": 1001}, "replicas", "1000"),
        ({"replicas": "two"}, "replicas", "integer"),
        ({"where": "gpu"}, "where", "object"),
        ({"prefer": {"load.5m": "asc"}}, "prefer", "array"),
        ({"spread": {}}, "spread.over", "required"),
        ({"spread": {"over": ""}}, "spread.over", "at least 1"),
        ({"pack": True}, "spread", "it excludes pack"),
        ({"data": [{"bucket": "a/b"}]}, "data.0.bucket", "pattern"),
        ({"data": [{"bucket": "a", "access": "all"}]}, "data.0.access", "'read', 'write' or 'read-write'"),
        ({"health": {}}, "health", "exactly one of http, console"),
        ({"health": {"http": "/", "console": "up"}}, "health", "exactly one of http, console"),
        ({"health": {"http": "index.html"}}, "health.http", "pattern"),
        ({"health": {"http": "/ HTTP/1.1\r\nX:"}}, "health.http", "pattern"),
        ({"health": {"http": "/", "port": "ftp"}}, "health.port", "no port is named ftp one of http"),
        ({"health": {"http": "/", "every": "0s"}}, "health.every", "0.1"),
        ({"health": {"http": "/", "timeout": "5 parsecs"}}, "health.timeout", "a time such as"),
        ({"health": {"http": "/", "failures": 0}}, "health.failures", "1"),
        ({"ports": []}, "health.http", "an http probe needs a port"),
        ({"restart": "sometimes"}, "restart", "'always', 'on-failure' or 'never'"),
        ({"restart": "never"}, "health.http", "a job (restart: never) has its exit code"),
        ({"onLoss": {"replaceAfter": "10ms"}}, "onLoss.replaceAfter", "1"),
        ({"onLoss": {"singleton": "maybe"}}, "onLoss.singleton", "boolean"),
        ({"user": "bob"}, "user", "'root'"),
        ({"priority": 1001}, "priority", "1000"),
    ],
)
def test_a_rule_that_is_broken_is_named(changes: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        _read(_request(**changes))
    problems = refused.value.problems
    found = next((problem for problem in problems if problem["field"] == field), None)
    assert found, problems
    assert told in f"{found['message']} {found['expected']}"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidDocument, match="and 2 more") as refused:
        _read(_request(replicas=-1, user="bob", typo=1))
    assert {problem["field"] for problem in refused.value.problems} == {"replicas", "user", "typo"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_requests(path: Path) -> None:
    assert read_request(str(path)).deployment


def test_the_id_is_the_name_unless_one_is_given() -> None:
    assert _read(_request()).deployment == "hello"
    assert _read(_request(id="other")).deployment == "other"
    assert _read(_request(name=...)).deployment is None


def test_the_same_content_is_a_repeat_however_it_is_written() -> None:
    one = _read(_request())
    same = _request(resources={"memory": 64 * 1024**2, "cpu": 0.25}, health={"every": 5, "http": "/"})
    assert _read(dict(reversed(same.items()))).spec_hash() == one.spec_hash()
    assert _read(_request(replicas=3)).spec_hash() != one.spec_hash()


def test_a_request_survives_the_road() -> None:
    one = _read(_request())
    assert read_document(one.model_dump_json(by_alias=True), DeploymentRequest) == one
