"""A real node: kubelet, containerd and kube-proxy in a space of its own below the cluster's, on which pods run.

It is a machine of its own as far as Kubernetes can tell: killing its space cuts its power, taking its link down
partitions it, and after either it comes back with what it had on disk. Nothing that it writes reaches the
machine that it runs on: its kernel settings are files of its own, its cgroups are removed by the keeper.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster import control_plane, keeper, space
from tests.cluster.any_cluster import until
from tests.cluster.control_plane import ControlPlane
from tests.cluster.images import PAUSE
from tests.cluster.space import Space, SpaceError

#: The node of the full tier.
FIRST: Final = "real-1"
PROGRAMS: Final = ("containerd", "kubelet", "kube-proxy")
_SOCKET: Final = "/run/containerd.sock"
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: What a kubelet wants of a unified hierarchy, where it is offered.
_CONTROLLERS: Final = {"cpu", "cpuset", "hugetlb", "memory", "pids"}
#: Settings of the one kernel that a kubelet writes; and what it wants there, so that it is content.
KERNEL: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Programs:
    """Where the programs of a node are.

    Attributes:
        kubernetes: the folder of kubelet and kube-proxy.
        containerd: the folder of containerd, its shim and ctr.
        cni: the folder of the CNI plugins.
        runc: the program.
        nft: the program.
    """

    kubernetes: Path
    containerd: Path
    cni: Path
    runc: Path
    nft: Path


class Node:
    """One real node.

    Args:
        cluster: the cluster's space.
        name: of the node.
        number: counts the cluster's nodes from 1; its addresses follow from it.
        programs: what runs on it.
        handlers: more runtime handlers for RuntimeClasses, each served by runc.
    """

    def __init__(
        self, cluster: Space, name: str, number: int, programs: Programs, handlers: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.address = f"10.77.0.{10 + number}"
        self.pods = f"10.88.{number}.0/24"
        self.folder = cluster.folder / "nodes" / name
        self.space = Space(self.folder)
        self._cluster = cluster
        self._programs = programs
        self._handlers = handlers

    def start(self, plane: ControlPlane, images: Sequence[Path]) -> None:
        """Power on. With images in its store the kubelet is started; it is Ready some time later."""
        (self.folder / "control.sock").unlink(missing_ok=True)
        pid = self._cluster.start(self.name, space.command(self.folder))
        until(self.space.started, f"the space of {self.name}", 10)
        self._plug_in(pid)
        self._own_what_it_writes()
        self._make_cgroups()
        self._start("containerd", self._programs.containerd / "containerd", "-c", self._containerd())
        self.space.wait_until(self._containerd_answers, f"containerd on {self.name}", 30, ["containerd"])
        for image in images:
            self.load(image)
        self._start("kubelet", self._programs.kubernetes / "kubelet", *self._kubelet(plane))
        self._start("kube-proxy", self._programs.kubernetes / "kube-proxy", "--config", self._proxy(plane))

    def load(self, image: Path) -> None:
        """Put the images of an OCI or Docker archive into the node's store."""
        self.ctr("images", "import", "--local", image)

    def ctr(self, *words: str | Path) -> str:
        """What ``ctr`` says about the containers that Kubernetes has there."""
        ctr = self._programs.containerd / "ctr"
        return self.space.run(ctr, "--address", _SOCKET, "--namespace", "k8s.io", *words)

    def cut_power(self) -> None:
        """Everything on the node ends at once, and nobody is told."""
        self._cluster.kill(self.name)

    def unplug(self) -> None:
        """Pull its network cable: pods run on, and nobody outside hears of it."""
        self._cluster.run("ip", "link", "set", self.name, "down")

    def plug(self) -> None:
        """Put it back."""
        self._cluster.run("ip", "link", "set", self.name, "up")
        self._route()

    def _start(self, name: str, *command: str | Path) -> None:
        path = os.pathsep.join(
            [str(self._programs.nft.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
        )
        self.space.start(name, ["env", f"PATH={path}", *command])

    def _plug_in(self, pid: int) -> None:
        """A cable from the control plane's bridge to the node, and ways to its pods and to services."""
        # One of before a power cut may still be on its way out.
        run = self._cluster.run
        if self.name in run("ip", "-brief", "link"):
            run("ip", "link", "delete", self.name)
        (inside,) = run("cat", f"/proc/{pid}/task/{pid}/children").split()
        cable = ["type", "veth", "peer", "name", "eth0", "netns", inside]
        run("ip", "link", "add", self.name, *cable)
        run("ip", "link", "set", self.name, "master", "nodes", "up")
        self.space.run("ip", "link", "set", "lo", "up")
        self.space.run("ip", "address", "add", f"{self.address}/16", "dev", "eth0")
        self.space.run("ip", "link", "set", "eth0", "up")
        self.space.run("ip", "route", "add", "default", "via", control_plane.ADDRESS)
        self.space.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._route()

    def _route(self) -> None:
        self._cluster.run("ip", "route", "replace", self.pods, "via", self.address)
        # Any node translates the addresses of services.
        self._cluster.run("ip", "route", "replace", control_plane.SERVICES, "via", self.address)

    def _own_what_it_writes(self) -> None:
        """Cover what lies outside of its folder and is written by it, so that the machine keeps its own."""
        run = self.space.run
        run("hostname", self.name)
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        for below in ("/var/lib", "/var/log"):
            upper, work = f"/run/over{below}", f"/run/work{below}"
            run("mkdir", "-p", upper, work)
            layers = f"lowerdir={below},upperdir={upper},workdir={work}"
            run("mount", "-t", "overlay", "-o", layers, "overlay", below)
        for setting, value in KERNEL.items():
            own = self.folder / "kernel" / setting
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(f"{value}\n")
            run("mount", "--bind", own, f"/proc/sys/{setting}")
        identity = Path("/etc/machine-id")
        if self.name != FIRST and identity.exists():
            # The first is this machine, as any agent on it says; two nodes are not one machine.
            own = self._write(
                "machine-id", f"{hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest()}\n"
            )
            run("mount", "--bind", own, identity)
        # Pods share mounts with each other below here, and with nothing outside.
        run("mount", "--make-rshared", "/")

    def _make_cgroups(self) -> None:
        group = self._cgroup()
        if (_CGROUPS / "cgroup.controllers").exists():
            (_CGROUPS / group).mkdir(parents=True, exist_ok=True)
            offered = (_CGROUPS / "cgroup.controllers").read_text().split()
            for parent in (_CGROUPS, (_CGROUPS / group).parent):
                switch = parent / "cgroup.subtree_control"
                for controller in _CONTROLLERS & set(offered) - set(switch.read_text().split()):
                    switch.write_text(f"+{controller}")
            return
        for hierarchy in _CGROUPS.iterdir():
            if hierarchy.is_symlink() or hierarchy.name == "unified" or not hierarchy.is_dir():
                continue
            (hierarchy / group).mkdir(parents=True, exist_ok=True)
        for parent in (_CGROUPS / "cpuset" / group).parent, _CGROUPS / "cpuset" / group:
            for what in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, which then takes no process
                (parent / what).write_text((parent.parent / what).read_text())

    def _cgroup(self) -> str:
        return f"{keeper.cgroup(self._cluster.folder.name)}/{self.name}"

    def _containerd_answers(self) -> bool:
        try:
            self.ctr("version")
        except SpaceError:
            return False
        return True

    def _containerd(self) -> Path:
        shim = self._programs.containerd / "containerd-shim-runc-v2"
        runtimes = "".join(
            f"""
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{handler}]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
options = {{ SystemdCgroup = false, BinaryName = "{self._programs.runc}", Root = "/run/{handler}" }}
"""
            for handler in ("runc", *self._handlers)
        )
        return self._write(
            "containerd.toml",
            f"""version = 3
root = "{self.folder / "containerd"}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{_SOCKET}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
pinned_images = {{ sandbox = "{PAUSE}" }}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true # without CAP_SYS_RESOURCE a better score than ours is refused
cni = {{ bin_dirs = ["{self._programs.cni}"], conf_dir = "{self._network()}" }}
{runtimes}""",
        )

    def _network(self) -> Path:
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        ports = {
            "type": "portmap",
            "capabilities": {"portMappings": True},
            "backend": "nftables",
            "snat": True,
        }
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}
        return self._write("cni/pods.conflist", json.dumps(network)).parent

    def _kubelet(self, plane: ControlPlane) -> list[str | Path]:
        groups, user = ("system:nodes",), f"system:node:{self.name}"
        names = [f"IP:{self.address}", f"DNS:{self.name}"]
        certificate, key = plane.authority.issue(f"{self.name}-server", user, groups, names)
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(plane.authority.certificate)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup()}",
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {},
            "resolvConf": "",
            "podLogsDir": str(self.folder / "pods-log"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "nodeLeaseDurationSeconds": 4,
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "10s",
            "syncFrequency": "10s",
            "maxPods": 100,
            "crashLoopBackOff": {"maxContainerRestartPeriod": "4s"},
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
        }
        server = f"https://{control_plane.ADDRESS}:{control_plane.API_PORT}"
        return [
            f"--config={self._write('kubelet.json', json.dumps(configuration))}",
            f"--kubeconfig={plane.kubeconfig(self.name, user, groups, server=server)}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-certificates'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            "--node-labels=minicloud.dev/real=yes",
        ]

    def _proxy(self, plane: ControlPlane) -> Path:
        server = f"https://{control_plane.ADDRESS}:{control_plane.API_PORT}"
        credentials = plane.kubeconfig(f"{self.name}-proxy", "system:kube-proxy", server=server)
        configuration: dict[str, Any] = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(credentials)},
            "mode": "nftables",
            "clusterCIDR": self.pods,
            "hostnameOverride": self.name,
            # The limits of connection tracking are the whole kernel's.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
        return self._write("kube-proxy.json", json.dumps(configuration))

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
