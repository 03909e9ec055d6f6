"""The page for Prometheus: the last sample of every node in its text format, version 0.0.4.

A scrape of 10,000 nodes with 20 metrics is 200,000 lines. What does not change between two scrapes, every
line up to its value, is made once and kept as one template a metric; a scrape only fills in the values. The
template is made anew when a node comes, goes, or has other metrics than before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from schemas.attributes import ATTRIBUTES, METRICS, Unit
from services.monitor.fleet import Fleet, place

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNITS: Final[dict[Unit | None, str]] = {
    None: "",
    "B": "_bytes",
    "cores": "_cores",
    "s": "_seconds",
    "%": "_percent",
    "B/s": "_bytes_per_second",
    "C": "_celsius",
}
#: Metrics that nobody foresaw share a family: a name of its own for each could be that of another.
_OTHERS: Final = "minicloud_node_value"


def family(attribute: str) -> str:
    """The name of a foreseen attribute as Prometheus writes it: ``minicloud_node_memory_available_bytes``."""
    return f"minicloud_node_{attribute.replace('.', '_')}{_UNITS[ATTRIBUTES[attribute].unit]}"


_FAMILIES: Final = {name: family(name) for name in METRICS}
_STATIC: Final = {name: family(name) for name in ("cpu.cores", "memory.total", "disk.total")}


class Page:
    """The lines about nodes and workloads.

    Args:
        minicloud: whose, a label of every line.
        fleet: what is known.
    """

    def __init__(self, minicloud: str, fleet: Fleet) -> None:
        self._minicloud = minicloud
        self._fleet = fleet
        self._layout = -1
        self._labels: dict[str, str] = {}
        self._metrics: list[tuple[str, str, list[Mapping[str, float]]]] = []
        self._still = ""

    def render(self) -> bytes:
        """The page."""
        if self._layout != self._fleet.layout:
            self._build()
        text = [self._still]
        for metric, template, holders in self._metrics:
            text.append(template % tuple([values[metric] for values in holders]))
        text.extend(self._workloads())
        return "".join(text).encode()

    def _build(self) -> None:
        """Make everything that stays until a node comes, goes, or has other metrics."""
        self._layout = self._fleet.layout
        nodes = self._fleet.nodes()
        labels = {
            node.name: self._labels.get(node.name) or f'{{minicloud="{self._minicloud}",node="{node.name}"}}'
            for node in nodes
        }
        self._labels = labels
        up = [f"minicloud_node_up{labels[node.name]} {int(node.state == 'alive')}\n" for node in nodes]
        still = [_head("minicloud_node_up", "1 while the node is alive, 0 while it is stale or lost"), *up]
        for attribute, name in _STATIC.items():
            still.append(_head(name, ATTRIBUTES[attribute].meaning))
            for node in nodes:
                if node.facts is not None:
                    facts = node.facts
                    value = {"cpu.cores": facts.cores, "memory.total": facts.memory}.get(
                        attribute, facts.disk
                    )
                    still.append(f"{name}{labels[node.name]} {value}\n")
        self._still = "".join(still)
        lines: dict[str, list[str]] = {}
        holders: dict[str, list[Mapping[str, float]]] = {}
        for node in nodes:
            label = labels[node.name]
            for metric in node.values:
                known = _FAMILIES.get(metric)
                line = f"{known}{label} %r\n" if known else f'{_OTHERS}{label[:-1]},name="{metric}"}} %r\n'
                lines.setdefault(metric, []).append(line)
                holders.setdefault(metric, []).append(node.values)
        ordered = sorted(lines, key=lambda metric: (metric not in _FAMILIES, metric))
        others = _head(_OTHERS, "a metric of the node that nobody foresaw, by name")
        self._metrics = []
        for metric in ordered:
            head = others
            if metric in _FAMILIES:
                head = _head(_FAMILIES[metric], ATTRIBUTES[metric].meaning)
            else:
                others = ""
            self._metrics.append((metric, head.replace("%", "%%") + "".join(lines[metric]), holders[metric]))

    def _workloads(self) -> Iterator[str]:
        head = _head("minicloud_workload_state", "1 for the state that the workload is in")
        for one in self._fleet.workloads():
            # Only the name of a workload is no token that the envelope has checked.
            yield (
                f'{head}minicloud_workload_state{{minicloud="{self._minicloud}",node="{place(one)}",'
                f"workload={json.dumps(one.workload, ensure_ascii=False)},"
                f'deployment="{one.deployment}",state="{one.state}"}} 1\n'
            )
            head = ""


def _head(name: str, meaning: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} gauge\n"
