"""KWOK: nodes that exist in the Kubernetes API only, with pods that run as Stages say."""

from __future__ import annotations

from tests.parts.go import GoPart


class Kwok(GoPart):
    """The ``kwok`` program."""

    def __init__(self) -> None:
        super().__init__("kwok", "kwok", ["sigs.k8s.io/kwok/cmd/kwok"], "1 to 2 minutes")
