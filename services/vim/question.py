"""What is asked of the resource index about a request: which nodes may run it, and what they have.

Where more nodes match than one answer holds, the question is narrowed to those that have room, so
that no node is passed over because of its name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from schemas.deployment import DeploymentRequest
from schemas.node import RuntimeName
from services.vim.preferences import preferences
from services.vim.room import needs

#: What is asked about each node.
FIELDS: Final = [
    "name",
    "runtimes",
    "acceleration",
    "cpu.arch",
    "cpu.cores",
    "memory.total",
    "memory.available",
    "load.1m",
    "worker.allow_root",
    "worker.runtimes",
    "cluster.name",
    "cluster.runtimes",
    "cluster.engine.container",
    "cluster.engine.unikernel",
    "cluster.engine.vm",
    "cluster.without.urunc",
    "cluster.without.qemu-pod",
    "cluster.acceleration",
    "cluster.allow_root",
    "cluster.cpu",
    "cluster.memory",
    "cluster.taints",
    "taints",
]
#: Nodes in one answer; their attributes, and the names of the others, must fit into one message.
MOST_NODES: Final = 1000
_LONGEST_LIST: Final = 1000


def question(
    request: DeploymentRequest, runtimes: Collection[RuntimeName] = (), over: Collection[str] = ()
) -> dict[str, Any]:
    """The query that gives the nodes to choose from: alive, with a worker, as the request says.

    Args:
        request: what is to run.
        runtimes: how; in any that the request lists by default.
        over: attributes beside those that every question asks for.
    """
    required: list[dict[str, Any]] = [
        {"worker": True},
        {"state": "alive"},
        {"runtimes": {"$in": list(runtimes or request.runtimes)}},
    ]
    if request.user == "root":
        required.append({"$or": [{"worker.allow_root": True}, {"cluster.allow_root": True}]})
    if request.where:
        required.insert(0, request.where)
    extra = [name for preference in preferences(request) for name in preference]
    extra += over
    if request.spread:
        extra.append(request.spread.over)
    return {
        "where": {"$and": required},
        "fields": list(dict.fromkeys([*FIELDS, *extra])),
        "limit": MOST_NODES,
        "explain": True,
        "scope": {"mode": "local"},  # only nodes of our own minicloud take workloads from us
    }


def narrowed(
    request: DeploymentRequest,
    runtime: RuntimeName,
    without: Collection[str] = (),
    over: Collection[str] = (),
) -> dict[str, Any]:
    """The same for one runtime, of the nodes that have room, those that are preferred first.

    Args:
        request: what is to run.
        runtime: how.
        without: nodes that cannot take it for reasons that the index does not know.
        over: attributes beside those that every question asks for.
    """
    ask = question(request, [runtime], over)
    cpu, memory, overhead = needs(request, runtime)
    required: list[dict[str, Any]] = ask["where"]["$and"]
    if cpu:
        required.append({"allocatable.cpu": {"$gte": cpu}})
    if memory + overhead:
        required.append({"allocatable.memory": {"$gte": memory + overhead}})
        required.append(
            {
                "$or": [
                    {"memory.available": {"$exists": False}},
                    {"memory.available": {"$gte": memory + overhead}},
                ]
            }
        )
    if without:
        required.append({"name": {"$nin": sorted(without)[:_LONGEST_LIST]}})
    ask["sort"] = [*preferences(request)[:7], {"allocatable.memory": "asc" if request.pack else "desc"}]
    return ask


def these(request: DeploymentRequest, nodes: Collection[str], over: Collection[str] = ()) -> dict[str, Any]:
    """The same about some nodes only: those where it runs already, whatever room they have."""
    ask = question(request, over=over)
    ask["where"]["$and"].append({"name": {"$in": sorted(nodes)[:_LONGEST_LIST]}})
    return {**ask, "explain": False}
