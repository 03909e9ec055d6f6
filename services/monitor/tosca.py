"""The fleet as a TOSCA Simple Profile 1.3 document: characterizations in, a service template out (seed 3.3).

A cluster and its devices extend what TOSCA has: a device is a ``tosca.nodes.Compute`` with the properties that
the profile has no words for, and a member of its cluster. Before it is handed out, ``tosca-parser`` reads it in
a process of its own, so that neither its memory nor its time are the monitor's.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterable
from typing import Any, Final

from schemas.errors import MinicloudError, Unavailable
from schemas.node import Characterization

VERSION: Final = "tosca_simple_yaml_1_3"
MEDIA_TYPE: Final = "application/yaml"
_LONGEST: Final = 60.0
#: Characters that JSON takes as they are and YAML does not, or folds as the end of a line.
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_HEAD: Final = f"""\
tosca_definitions_version: {VERSION}
metadata:
  template_name: %s
  template_author: minicloud
  template_version: "1.0"
description: The cluster and the devices of a minicloud, as their agents characterized them.
data_types:
  minicloud.datatypes.Disk:
    derived_from: tosca.datatypes.Root
    properties:
      device: {{type: string}}
      mount: {{type: string}}
      filesystem: {{type: string}}
      kind: {{type: string}}
      size: {{type: scalar-unit.size}}
      read_only: {{type: boolean}}
  minicloud.datatypes.Gpu:
    derived_from: tosca.datatypes.Root
    properties:
      name: {{type: string}}
      vendor: {{type: string, required: false}}
      memory: {{type: scalar-unit.size, required: false}}
node_types:
  minicloud.nodes.Cluster:
    derived_from: tosca.nodes.Root
    description: A minicloud.
    properties:
      minicloud: {{type: string}}
      devices: {{type: integer}}
  minicloud.nodes.Device:
    derived_from: tosca.nodes.Compute
    description: A node of a minicloud.
    properties:
      device_name: {{type: string}}
      uuid: {{type: string}}
      addresses: {{type: list, entry_schema: {{type: string}}}}
      cpu_bits: {{type: integer}}
      cpu_model: {{type: string, required: false}}
      gpus: {{type: list, entry_schema: {{type: minicloud.datatypes.Gpu}}}}
      disks: {{type: list, entry_schema: {{type: minicloud.datatypes.Disk}}}}
      battery: {{type: boolean}}
      k3s_role: {{type: string, required: false}}
      rack: {{type: string, required: false}}
      region: {{type: map, entry_schema: {{type: string}}}}
      labels: {{type: map, entry_schema: {{type: string}}}}
      software: {{type: map, entry_schema: {{type: string}}}}
      runtimes: {{type: list, entry_schema: {{type: string}}}}
    requirements:
      - member_of:
          capability: tosca.capabilities.Node
          node: minicloud.nodes.Cluster
          relationship: tosca.relationships.DependsOn
          occurrences: [1, 1]
topology_template:
  node_templates:
"""


def document(minicloud: str, devices: Iterable[Characterization]) -> str:
    """The document.

    Args:
        minicloud: the cluster's name.
        devices: its nodes.
    """
    # What varies is written as JSON, which quotes whatever a label may hold.
    parts = [_template(it, minicloud) for it in devices]
    cluster = {
        "type": "minicloud.nodes.Cluster",
        "properties": {"minicloud": minicloud, "devices": len(parts)},
    }
    return "".join(
        [
            _HEAD % _yaml(minicloud),
            f"    {_yaml(_cluster(minicloud))}: {_yaml(cluster)}\n",
            *parts,
        ]
    )


def _cluster(minicloud: str) -> str:
    # A device may be called as its minicloud is.
    return f"cluster {minicloud}"


def _template(it: Characterization, minicloud: str) -> str:
    host = {
        "num_cpus": it.cpu.cores,
        "mem_size": _size(it.memory.total),
        "disk_size": _size(sum(disk.total for disk in it.disks if disk.kind != "network")),
    }
    system = {
        "architecture": it.cpu.arch,
        "type": "linux",
        "distribution": it.os.name,
        **({"version": version} if (version := _version(it.os.version)) else {}),
    }
    properties: dict[str, Any] = {
        "device_name": it.node,
        "uuid": it.id,
        "addresses": sorted({one.address for one in it.addresses}),
        "cpu_bits": it.cpu.bits,
        "cpu_model": it.cpu.model,
        "gpus": [
            {
                "name": gpu.name,
                **({"vendor": gpu.vendor} if gpu.vendor else {}),
                **({"memory": _size(gpu.memory)} if gpu.memory is not None else {}),
            }
            for gpu in it.gpus
        ],
        "disks": [
            {
                "device": disk.device,
                "mount": disk.mount,
                "filesystem": disk.filesystem,
                "kind": disk.kind,
                "size": _size(disk.total),
                "read_only": disk.read_only,
            }
            for disk in it.disks
        ],
        "battery": it.battery is not None,
        "k3s_role": it.k3s.role if it.k3s else None,
        "rack": it.rack,
        "region": it.region,
        "labels": it.labels,
        "software": it.software,
        "runtimes": [runtime.name for runtime in it.runtimes],
    }
    told = {
        "type": "minicloud.nodes.Device",
        "properties": {name: value for name, value in properties.items() if value is not None},
        "capabilities": {"host": {"properties": host}, "os": {"properties": system}},
        "requirements": [{"member_of": _cluster(minicloud)}],
    }
    return f"    {_yaml(it.node)}: {_yaml(told)}\n"


def _yaml(document: Any) -> str:
    """A document in the part of YAML that is JSON: what only one of them takes is escaped."""
    text = json.dumps(document, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _size(octets: int) -> str:
    return f"{octets} B"


def _version(text: str | None) -> str | None:
    """``12`` as TOSCA's type ``version`` wants it, ``12.0``; None for what it cannot say."""
    numbers = (text or "").split(".")[:3]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    return ".".join(numbers if len(numbers) > 1 else [*numbers, "0"])


async def check(text: str) -> None:
    """Have ``tosca-parser`` read the document.

    Raises:
        MinicloudError: it finds something wrong, which is ours to mend.
        Unavailable: it did not end in time.
    """
    checker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.monitor.toscacheck",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LONGEST):
            _, problems = await checker.communicate(text.encode())
    except TimeoutError:
        raise Unavailable(f"tosca-parser did not read the document within {_LONGEST:g} s") from None
    finally:
        if checker.returncode is None:
            checker.kill()
            await checker.wait()
    if checker.returncode:
        raise MinicloudError(f"tosca-parser refuses our own document: {problems.decode(errors='replace')}")
