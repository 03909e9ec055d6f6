"""Queries back to a Prometheus: PromQL in, labelled numbers out, by prometheus-api-client in a thread."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from schemas.errors import InvalidQuery, Unavailable

if TYPE_CHECKING:
    from prometheus_api_client import PrometheusConnect

#: Pods' own series: those of the pause container and of the pod's whole cgroup would count them twice.
_OF_CONTAINERS: Final = 'container!="",container!="POD"'
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TIMEOUT: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One number with its labels."""

    labels: dict[str, str]
    value: float

    @property
    def node(self) -> str:
        """Whose it is: the label of our own service discovery, else the address that was scraped."""
        return self.labels.get("node") or self.labels.get("instance", "")


class Prometheus:
    """A Prometheus.

    Args:
        url: of it.
        user: who we are there; empty for nobody.
        password: its secret.
        window: the range that rates are over, as PromQL writes it.
    """

    def __init__(self, url: str, user: str, password: str, window: str = "5m") -> None:
        self.url = url
        self._auth = (user, password) if user else None
        self._window = window
        self._client: PrometheusConnect | None = None
        self._one = asyncio.Lock()

    async def vector(self, query: str) -> list[Sample]:
        """What an instant query finds; numbers that are none are left out.

        Raises:
            Unavailable: it does not answer, or refuses.
        """
        async with self._one:  # its session is for one thread at a time
            try:
                found = await asyncio.to_thread(self._ask, query)
            except Exception as error:  # noqa: BLE001 - its own, those of requests, and of JSON
                raise Unavailable(
                    f"Prometheus at {self.url} does not answer: {error}", field="setting prometheus_url"
                ) from None
        samples = (Sample(one["metric"], float(one["value"][1])) for one in found)
        return [sample for sample in samples if math.isfinite(sample.value)]

    def _ask(self, query: str) -> list[dict[str, Any]]:
        if self._client is None:
            # Here, since a monitor without Prometheus need not hold its memory.
            from prometheus_api_client import PrometheusConnect  # noqa: PLC0415
            from urllib3.util import Retry  # noqa: PLC0415

            self._client = PrometheusConnect(
                self.url, auth=self._auth, timeout=_TIMEOUT, retry=Retry(total=1, backoff_factor=0.1)
            )
        return self._client.custom_query(query)  # type: ignore[no-any-return]

    # -- disks, by node_exporter ---------------------------------------------------------------------

    def disk_writing(self) -> str:
        """Per cent of the time that a device spent writing."""
        return self._disks("node_disk_write_time_seconds_total", 100)

    def disk_reading(self) -> str:
        """Per cent of the time that a device spent reading."""
        return self._disks("node_disk_read_time_seconds_total", 100)

    def disk_busy(self) -> str:
        """Seconds a second that a node's devices were busy."""
        return f"sum by (node, instance) (rate(node_disk_io_time_seconds_total[{self._window}]))"

    def _disks(self, series: str, factor: int) -> str:
        return f"{factor} * sum by (node, instance, device) (rate({series}[{self._window}])) > 0"

    # -- pods, by cAdvisor and kube-state-metrics ------------------------------------------------------

    def pod_cpu(self, namespace: str | None) -> str:
        """Cores that each pod takes."""
        series = f"container_cpu_usage_seconds_total{{{_selector(namespace, _OF_CONTAINERS)}}}"
        return f"sum by (namespace, pod, node, instance) (rate({series}[{self._window}]))"

    def pod_memory(self, namespace: str | None) -> str:
        """Bytes that each pod holds."""
        series = f"container_memory_working_set_bytes{{{_selector(namespace, _OF_CONTAINERS)}}}"
        return f"sum by (namespace, pod, node, instance) ({series})"

    def pod_info(self, namespace: str | None) -> str:
        """Which pods there are."""
        return f"kube_pod_info{{{_selector(namespace)}}}"

    def pod_phase(self, namespace: str | None) -> str:
        """The phase of each pod."""
        return f"kube_pod_status_phase{{{_selector(namespace)}}} == 1"

    def pod_restarts(self, namespace: str | None) -> str:
        """How often the containers of each pod were started again."""
        series = f"kube_pod_container_status_restarts_total{{{_selector(namespace)}}}"
        return f"sum by (namespace, pod) ({series})"


def checked_namespace(text: str) -> str:
    """``text`` if it may name a namespace.

    Raises:
        InvalidQuery: it may not.
    """
    if not _NAMESPACE.fullmatch(text):
        raise InvalidQuery(
            f"{text[:80]!r} cannot be a namespace", field="namespace", expected="letters, digits, - . and _"
        )
    return text


def _selector(namespace: str | None, *more: str) -> str:
    parts: Iterable[str] = more
    if namespace is not None:
        parts = (f'namespace="{checked_namespace(namespace)}"', *more)
    return ",".join(parts)
