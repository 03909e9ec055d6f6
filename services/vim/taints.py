"""Taints and tolerations: which nodes keep a request away, as in Kubernetes.

A node's taints come from its labels ``taint.<key>: [value:]effect`` and hold whoever would run there; those that
Kubernetes gives it (``cluster.taints``) hold what the cluster would run. Nothing that runs is moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from schemas.cluster import Taint
from schemas.deployment import DeploymentRequest, Toleration
from schemas.node import Driver

_AVOID = "PreferNoSchedule"


def standing(request: DeploymentRequest, node: Mapping[str, Any], driver: Driver) -> str | None:
    """The taints for which ``node`` takes no new replica of the request; None where there are none."""
    held = [text for text, taint in _taints(node, driver) if taint.effect != _AVOID]
    left = [text for text in held if not _tolerated(request.tolerations, _read(text))]
    return ", ".join(left) or None


def avoided(request: DeploymentRequest, node: Mapping[str, Any], driver: Driver) -> bool:
    """Whether some taint asks to prefer another node."""
    return any(
        taint.effect == _AVOID and not _tolerated(request.tolerations, taint)
        for _, taint in _taints(node, driver)
    )


def _taints(node: Mapping[str, Any], driver: Driver) -> Iterable[tuple[str, Taint]]:
    texts = list(node.get("taints") or ())
    if driver == "kubernetes":
        texts += [text for text in node.get("cluster.taints") or () if text not in texts]
    return [(text, _read(text)) for text in texts]


@lru_cache(maxsize=1024)
def _read(text: str) -> Taint:
    return Taint.read(text)


def _tolerated(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(
        one.key in (None, taint.key)
        and one.effect in (None, taint.effect)
        and (one.operator == "Exists" or one.value == taint.value)
        for one in tolerations
    )
