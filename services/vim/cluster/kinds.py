"""The kinds of workload that a cluster's worker runs."""

from __future__ import annotations

from services.vim.cluster.containers import Containers
from services.vim.cluster.kind import Around, Kind
from services.vim.cluster.unikernels import Unikernels
from services.vim.cluster.virtual_machines import VirtualMachines


def kinds_of(around: Around) -> list[Kind]:
    """One of each, in the order in which a node's offers are told."""
    return [Containers(around), Unikernels(around), VirtualMachines(around)]
