"""What ``make cluster`` does, and that a whole cluster leaves nothing on the machine, whoever is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.cluster import keeper
from tests.cluster.any_cluster import AnyCluster, until
from tests.cluster.fixtures import FAST, FULL
from tests.cluster.node import KERNEL
from tests.journey.test_ordinary_user import NOBODY, open_to_all, python_for_all
from tests.parts.kubernetes import KubernetesServers
from tests.parts.part import Part, cache

_CHECKOUT: Final = Path(__file__).parents[2]
#: Where Kubernetes, containerd and CNI put things by themselves.
_PLACES: Final = (
    "/etc/cni", "/etc/kubernetes", "/opt/cni", "/run/containerd", "/run/containerd.sock", "/run/flannel",
    "/usr/libexec/kubernetes", "/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers",
    "/var/log/pods", "/var/run/kubernetes",
)  # fmt: skip
#: An owner of a full cluster with a pod that runs, who tells so and waits to be killed.
_OWNER: Final = """
import sys, time
from tests.cluster.any_cluster import until
from tests.cluster.cluster import Cluster
cluster = Cluster.up(sys.argv[1])
cluster.add_tier_full(nodes=2)
pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": cluster.image}]}}
pod["spec"]["nodeName"] = "real-1"
cluster.core.create_namespaced_pod("default", pod)
until(lambda: cluster.core.read_namespaced_pod("a", "default").status.phase == "Running")
print("running", flush=True)
time.sleep(600)
"""


class Machine:
    """What a cluster might leave on the machine."""

    def __init__(self, cluster: str) -> None:
        self.folder = keeper.clusters() / cluster
        self.group = keeper.cgroup(cluster)
        self.kernel = self._kernel()
        self.places = self._places()
        self.interfaces = self._interfaces()

    def processes(self) -> list[psutil.Process]:
        """All of the running cluster, its keeper first."""
        first = psutil.Process(int((self.folder / "keeper.pid").read_text()))
        return [first, *first.children(recursive=True)]

    def traces(self, processes: list[psutil.Process]) -> list[str]:
        """What is left."""
        mounts = [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in line
        ]
        groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{self.group}*")]
        alive = [str(process) for process in processes if keeper.lives(process)]
        found = [*mounts, *groups, *alive, *(self._places() - self.places)]
        found += sorted((self._interfaces() - self.interfaces) & {"nodes", "pods", "real-1"})
        found += [f"{name} = {value}" for name, value in self._kernel().items() if value != self.kernel[name]]
        return [*found, *([str(self.folder)] if self.folder.exists() else [])]

    def _kernel(self) -> dict[str, str]:
        return {name: (Path("/proc/sys") / name).read_text() for name in KERNEL}

    def _places(self) -> set[str]:
        return {place for place in _PLACES if Path(place).exists()}

    def _interfaces(self) -> set[str]:
        return {name for _, name in socket.if_nameindex()}


@pytest.fixture
def name(part: Callable[[Part], Part]) -> Iterator[str]:
    for needed in FAST:
        part(needed)
    name = f"t{os.urandom(4).hex()}"
    yield name
    keeper.stop(keeper.clusters() / name)


def _python(*words: str, name: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(_CHECKOUT), "MINICLOUD_CLUSTER": name}
    return subprocess.Popen(
        [sys.executable, *words], cwd=_CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True
    )


def test_make_cluster_prints_its_kubeconfig_and_make_cluster_down_leaves_nothing(
    name: str, tmp_path: Path
) -> None:
    machine = Machine(name)
    up = _python("-m", "tests.cluster", "up", "fast", name=name)
    said, _ = up.communicate(timeout=150)
    assert up.returncode == 0
    kubeconfig = Path(said.removeprefix("export KUBECONFIG=").strip())
    assert len(AnyCluster(kubeconfig, tmp_path).ready_nodes()) == 40
    processes = machine.processes()
    assert machine.traces(processes)
    assert _python("-m", "tests.cluster", "down", name=name).wait(30) == 0
    assert machine.traces(processes) == []


def test_make_cluster_down_ends_what_a_killed_make_cluster_began(name: str) -> None:
    machine = Machine(name)
    up = _python("-m", "tests.cluster", "up", "fast", name=name)
    until((machine.folder / "log/apiserver.log").exists, "the API server's log")
    up.kill()
    up.communicate()
    processes = machine.processes()
    assert "kube-apiserver" in {process.name() for process in processes}
    assert _python("-m", "tests.cluster", "down", name=name).wait(30) == 0
    assert machine.traces(processes) == []


def test_a_whole_cluster_leaves_nothing_when_its_owner_is_killed(
    part: Callable[[Part], Part], name: str
) -> None:
    for needed in FULL:
        part(needed)
    machine = Machine(name)
    owner = _python("-c", _OWNER, name, name=name)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "running\n"
    processes = machine.processes()
    assert {"kubelet", "containerd", "kube-proxy", "sleep"} <= {process.name() for process in processes}
    assert len(machine.traces(processes)) > len(processes)
    owner.kill()
    owner.communicate()
    until(lambda: machine.traces(processes) == [], "the end")


def test_an_ordinary_user_gets_the_fast_tier_and_hears_why_not_the_full_one(
    name: str, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("whoever runs this is an ordinary user: all other tests of the fast tier say it")
    python, libraries = python_for_all()
    for needed in (Path(__file__), KubernetesServers().obtain()):
        if not open_to_all(needed):
            pytest.skip(f"an ordinary user may not read {needed}")
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "parts").symlink_to(cache())
        os.chown(home, NOBODY, NOBODY)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "MINICLOUD_PARTS": f"{home}/parts",
            "MINICLOUD_CLUSTER": name,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{_CHECKOUT}:{libraries}",
        }

        def cluster(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [python, "-m", "tests.cluster", *words], cwd=_CHECKOUT, env=environment, user=NOBODY, group=NOBODY,
                extra_groups=[], capture_output=True, text=True, timeout=150, check=False,
            )  # fmt: skip

        full = cluster("up", "full")
        assert full.returncode == 1
        assert "a real node needs root" in full.stderr
        up = cluster("up", "fast")
        try:
            assert up.returncode == 0, up.stderr
            kubeconfig = Path(up.stdout.removeprefix("export KUBECONFIG=").strip())
            assert len(AnyCluster(kubeconfig, tmp_path).ready_nodes()) == 40
        finally:
            cluster("down")
        assert [path.name for path in (Path(home) / "clusters").iterdir()] == [".lock"]
