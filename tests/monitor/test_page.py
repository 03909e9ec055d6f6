"""The page for Prometheus: what prometheus_client's own parser reads in it, and what it costs."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families as parsed

from schemas.attributes import METRICS
from schemas.event import event
from schemas.liveness import Thresholds
from schemas.node import Measurement
from services.monitor.fleet import Fleet
from services.monitor.page import Page, family
from services.monitor.windows import Windows
from tests.monitor.conftest import observed
from tests.rid import nodes


def _read(page: Page) -> dict[tuple[str, ...], float]:
    """Every line by its name and labels; a family may come once only, and no line twice."""
    found: dict[tuple[str, ...], float] = {}
    families = list(parsed(page.render().decode()))
    assert len({one.name for one in families}) == len(families)
    for one in families:
        assert one.documentation
        for sample in one.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


class Known:
    """A fleet of the test's own, with a clock that it sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.fleet = Fleet(Thresholds(15, 60), Windows(), clock=lambda: self.now)
        self.page = Page("home", self.fleet)

    def hears(self, *data: object) -> None:
        for one in data:
            self.fleet.take(event(one, "/tests"), live=True)  # type: ignore[type-var]

    def line(self, family: str, on: str, **labels: str) -> float | None:
        all_labels = sorted({"minicloud": "home", "node": on, **labels}.items())
        return _read(self.page).get((family, *(f"{key}={value}" for key, value in all_labels)))


def test_every_metric_has_a_line_with_its_unit_in_its_name() -> None:
    known = Known()
    known.hears(nodes.characterization("a"), nodes.characterization("b"))
    known.hears(
        nodes.measurement("a", cpu_used=12.5, queue_depth=3), nodes.measurement("b", memory_available=7)
    )
    assert known.line("minicloud_node_cpu_used_percent", "a") == 12.5
    assert known.line("minicloud_node_cpu_used_percent", "b") is None
    assert known.line("minicloud_node_memory_available_bytes", "b") == 7
    assert known.line("minicloud_node_value", "a", name="queue.depth") == 3
    assert known.line("minicloud_node_memory_total_bytes", "a") == 8 * nodes.GIB
    assert known.line("minicloud_node_up", "b") == 1
    assert len({family(metric) for metric in METRICS}) == len(METRICS)


def test_it_follows_what_comes_changes_and_goes() -> None:
    known = Known()
    known.hears(nodes.characterization("a"), nodes.measurement("a", load_1m=1))
    assert known.line("minicloud_node_load_1m", "a") == 1
    known.now += 1
    known.hears(nodes.measurement("a", load_1m=2))
    assert known.line("minicloud_node_load_1m", "a") == 2
    known.now += 1
    known.hears(nodes.measurement("a", load_5m=3))
    assert known.line("minicloud_node_load_1m", "a") is None
    assert known.line("minicloud_node_load_5m", "a") == 3
    known.hears(nodes.characterization("b"))
    assert known.line("minicloud_node_up", "b") == 1
    known.now += 61
    for _ in known.fleet.judging():
        pass
    assert known.line("minicloud_node_up", "a") == 0
    assert known.line("minicloud_node_load_5m", "a") is None
    known.hears(nodes.measurement("a", load_5m=4))
    assert known.line("minicloud_node_load_5m", "a") == 4
    assert known.line("minicloud_node_up", "a") == 1


def test_whatever_a_workload_or_metric_is_called_the_page_stays_readable() -> None:
    known = Known()
    strange_one = observed("a").model_copy(update={"workload": 'we"ird\n\\-0'})
    known.hears(nodes.characterization("a"), strange_one)
    strange = {"a/b": 1.0, "50%s": 2.0, "%r": 3.0, "x+y@z": 4.0}
    known.hears(Measurement(node="a", interval=5, values=strange))
    assert known.line("minicloud_node_value", "a", name="a/b") == 1
    assert known.line("minicloud_node_value", "a", name="x+y@z") == 4
    labels = {"workload": 'we"ird\n\\-0', "deployment": "hello", "state": "running"}
    assert known.line("minicloud_workload_state", "a", **labels) == 1


def test_ten_thousand_nodes_cost_no_more_than_a_scrape_may() -> None:
    known = Known()
    metrics = [*METRICS, *(f"m{at}" for at in range(8))]
    for at in range(10_000):
        known.hears(nodes.characterization(f"n{at}"))
        values = {metric: round(at * 1.37, 2) for metric in metrics}
        known.hears(Measurement(node=f"n{at}", interval=5, values=values))
    known.page.render()
    costs = []
    for _ in range(5):
        begun = time.process_time()
        page = known.page.render()
        costs.append(time.process_time() - begun)
    assert page.count(b"\n") > 200_000
    # Five times the goal of bench/monitor_scrape.py: a machine of others may be slow, a page made anew is slower.
    assert min(costs) < 0.5
