"""``python -m tests.cluster up [fast|full]`` and ``down``: the cluster of this checkout, for whoever develops."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from tests.cluster import keeper
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import PATIENT, Pace
from tests.parts.namespaces import Namespaces, NodeMachine
from tests.parts.part import PartMissing, Progress


def _name() -> str:
    """One cluster a checkout, unless the environment names it."""
    return (
        os.environ.get("MINICLOUD_CLUSTER")
        or f"dev-{hashlib.sha256(str(Path(__file__).parents[2]).encode()).hexdigest()[:8]}"
    )


def up(tier: str) -> None:
    """Bring it up and say how to reach it."""
    if tier not in ("fast", "full"):
        sys.exit(f"no tier {tier!r}: TIER is fast or full")
    started = time.monotonic()
    try:
        Namespaces().obtain()
        if tier == "full":
            NodeMachine().obtain()
        cluster = Cluster.up(_name(), pace=PATIENT if tier == "full" else Pace(), lifeline=False)
    except FileExistsError:
        sys.exit(f"it is up already: export KUBECONFIG={Cluster(keeper.clusters() / _name()).kubeconfig}")
    except PartMissing as missing:
        sys.exit(f"no {tier} cluster on this machine: {missing}")
    Progress.say(f"cluster: the control plane serves after {time.monotonic() - started:.1f} s; nodes come")
    try:
        cluster.add_tier_full() if tier == "full" else cluster.add_tier_fast()
    except BaseException:
        cluster.down()
        raise
    ready, took = len(cluster.ready_nodes()), time.monotonic() - started
    Progress.say(f"cluster: {ready} nodes Ready after {took:.1f} s; logs in {cluster.folder / 'log'}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def down() -> None:
    """End it, whatever of it still runs, and remove what is left of others that died."""
    keeper.sweep()
    keeper.stop(keeper.clusters() / _name())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up", tier]:
            up(tier)
        case ["down"]:
            down()
        case _:
            sys.exit(__doc__)
