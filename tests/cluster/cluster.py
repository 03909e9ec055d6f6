"""A cluster of a test's own: up, broken in every way that a test needs, and down without a trace.

All of it runs in a space of its own (``space.py``), below a keeper (``keeper.py``) that clears up. The API server
is reached at a port on loopback that stays the same over restarts of the server.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml
from urllib3.exceptions import HTTPError

from tests.cluster import control_plane, images, keeper, racks
from tests.cluster.any_cluster import AnyCluster, until
from tests.cluster.control_plane import ControlPlane, Pace
from tests.cluster.node import FIRST, PROGRAMS, Node, Programs
from tests.cluster.pki import Authority
from tests.cluster.space import Space, SpaceError
from tests.parts.cni import CniPlugins
from tests.parts.containerd import Containerd
from tests.parts.etcd import Etcd
from tests.parts.kubernetes import KubernetesNode, KubernetesServers
from tests.parts.kwok import Kwok
from tests.parts.nftables import Nftables
from tests.parts.runc import Runc

#: Definitions and Stages of the kinds that KubeVirt serves on a site that has it.
_KUBEVIRT: Final = Path(__file__).with_name("kubevirt")


class Cluster(AnyCluster):
    """A running cluster; a context manager that ends it.

    ``Cluster.up()`` makes one, ``Cluster(folder)`` is one that runs already, whoever started it.

    Attributes:
        folder: everything that it keeps on disk.
        space: where its control plane and its KWOKs run.
        nodes: its real nodes, by name; known to who added them.
    """

    image = images.BUSYBOX

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "kubeconfig/admin.yaml", folder / "clients")
        self.folder = folder
        self.space = Space(folder)
        self.nodes: dict[str, Node] = {}
        self._doors: dict[tuple[str, int], int] = {}
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def up(
        cls,
        name: str | None = None,
        *,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        lifeline: bool = True,
        api_server_flags: tuple[str, ...] = (),
    ) -> Self:
        """A new cluster without nodes.

        Args:
            name: its name on this machine; else one that nobody has.
            pace: how soon its nodes are held for lost.
            lifeline: it goes down by itself when this process dies, however it dies.
            api_server_flags: more flags for its API server.

        Raises:
            PartMissing: it cannot be had on this machine.
            FileExistsError: a cluster of that name is up.
        """
        programs, etcd = KubernetesServers().obtain(), Etcd().obtain()
        folder, kept = keeper.start(name or f"t{secrets.token_hex(4)}", lifeline=lifeline)
        try:
            cluster = cls(folder)
            cluster._keeper = kept
            plane = ControlPlane(folder, programs, etcd, pace, api_server_flags)
            (folder / "pace.json").write_text(json.dumps(asdict(pace)))
            cluster._start(plane)
        except BaseException:
            keeper.stop(folder)
            kept.wait()
            raise
        return cluster

    @property
    def url(self) -> str:
        """Where its API server is reached from the machine."""
        server: str = self._server()["server"]
        return server

    @property
    def name(self) -> str:
        """Its name on this machine."""
        return self.folder.name

    def down(self) -> None:
        """End it: no process, mount, interface, cgroup or file of it is left."""
        keeper.stop(self.folder)
        if self._keeper is not None:
            self._keeper.wait()
            if self._keeper.stdin is not None:
                self._keeper.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # What runs, and how it is broken.

    def kill(self, program: str) -> None:
        """SIGKILL to a program.

        ``etcd``, ``apiserver``, ``controller-manager``, ``scheduler``, the ``kwok-`` of a rack, or on the only real
        node (others are named before a slash, ``real-2/kubelet``) ``kubelet``, ``containerd``, ``kube-proxy``.
        """
        space, name = self._find(program)
        space.kill(name)

    def start_again(self, program: str) -> None:
        """Start what was killed, as it was; the API server serves again when this returns."""
        space, name = self._find(program)
        space.start_again(name)
        if program in ("apiserver", "etcd"):
            self.wait_for_api()

    def pause(self, program: str) -> None:
        """Freeze a program: it answers nobody, and its connections stay open."""
        space, name = self._find(program)
        space.signal(name, signal.SIGSTOP)

    def resume(self, program: str) -> None:
        """Let a paused program go on."""
        space, name = self._find(program)
        space.signal(name, signal.SIGCONT)

    def forget_history(self) -> None:
        """Make the API server answer 410 to whoever wants to watch from a version of before."""
        self.kill("apiserver")
        self.start_again("apiserver")

    def log(self, program: str) -> str:
        """What a program wrote."""
        space, name = self._find(program)
        return space.log(name).read_text(errors="replace")

    # Who may do what.

    def user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate for a user in some groups."""
        return self._plane.kubeconfig(f"user-{name}", name, tuple(groups), server=self.url)

    # Nodes, and kinds of objects.

    def add_tier_fast(self) -> None:
        """Two racks of 20 nodes, and KubeVirt's kinds."""
        for rack in ("rack-1", "rack-2"):
            self.add_rack(rack)
        if _KUBEVIRT.is_dir():
            self.add_kinds(_KUBEVIRT)

    def add_tier_full(self, nodes: int = 500) -> None:
        """A real node that has the busybox image, two racks with that many nodes in all, and KubeVirt's kinds."""
        self.add_node()
        self.nodes[FIRST].load(images.busybox(self.folder / "busybox.tar"))
        for rack in ("rack-1", "rack-2") if nodes else ():
            self.add_rack(rack, nodes // 2)
        if _KUBEVIRT.is_dir():
            self.add_kinds(_KUBEVIRT)

    def add_rack(self, rack: str, nodes: int = 20) -> list[str]:
        """Nodes that exist in the API only, kept alive by ``kwok-<rack>``; their names, once they are Ready."""
        index = len(
            {
                node.metadata.labels[racks.RACK]
                for node in self.core.list_node(label_selector=racks.RACK).items
            }
        )
        made = [racks.node(rack, number) for number in range(nodes)]
        with ThreadPoolExecutor(8) as several:
            list(several.map(self.core.create_node, made))
        kwok = f"kwok-{rack}"
        admin = self.folder / "kubeconfig/inside.yaml"
        self.space.start(kwok, racks.command(Kwok().obtain(), admin, rack, index, self._pace))
        names = [node["metadata"]["name"] for node in made]
        self.space.wait_until(
            lambda: self.ready_nodes(f"{racks.RACK}={rack}").issuperset(names), f"{rack} Ready", 180, [kwok]
        )
        return names

    def add_node(self, name: str = FIRST, handlers: Sequence[str] = ()) -> Node:
        """A real node, Ready for pods.

        Args:
            name: of the node.
            handlers: more runtime handlers for RuntimeClasses, each served by runc.
        """
        programs = Programs(
            KubernetesNode().obtain(),
            Containerd().obtain(),
            CniPlugins().obtain(),
            Runc().obtain(),
            Nftables().obtain(),
        )
        node = Node(self.space, name, 1 + len(self.nodes), programs, handlers)
        self.nodes[name] = node
        self.power_on(node)
        return node

    def power_on(self, node: Node) -> None:
        """Start a real node for the first time, or after its power was cut; it is Ready when this returns."""
        node.start(self._plane, [images.pause(self.folder / "pause.tar")])
        node.space.wait_until(
            lambda: node.name in self.ready_nodes(), f"{node.name} Ready", 180, ["containerd", "kubelet"]
        )

    def add_kinds(self, folder: Path) -> None:
        """Serve the custom resources that a folder's ``*.yaml`` define, and let its Stages live, by one KWOK more.

        A ``subresources.py`` beside them is a server of its own for what custom resources cannot have.
        """
        documents = [
            document
            for path in sorted(folder.glob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text())
            if document
        ]
        self.establish([made for made in documents if made["kind"] == "CustomResourceDefinition"])
        stages = [made for made in documents if made["kind"] == "Stage"]
        if stages:
            path = self.folder / f"stages-{folder.name}.yaml"
            path.write_text(yaml.safe_dump_all(stages))
            admin = self.folder / "kubeconfig/inside.yaml"
            self.space.start(f"kwok-{folder.name}", racks.kinds_command(Kwok().obtain(), admin, path))
        if (folder / "subresources.py").exists():
            certificate, key = Authority(self.folder / "pki").issue(
                f"api-{folder.name}", folder.name, names=["DNS:localhost"]
            )
            module = f"tests.cluster.{folder.name}.subresources"
            inside = self.folder / "kubeconfig/inside.yaml"
            self.space.start(f"api-{folder.name}", [sys.executable, "-m", module, inside, certificate, key])
        others = [made for made in documents if made["kind"] not in ("CustomResourceDefinition", "Stage")]
        if others:
            self.apply(*others)

    # Ways in.

    def reach(self, address: str, port: int) -> str:
        """``host:port`` on loopback that leads to an address inside; the same for the same."""
        if (address, port) not in self._doors:
            self._doors[address, port] = self.space.let_in(address, port)
        return f"127.0.0.1:{self._doors[address, port]}"

    def wait_for_api(self, timeout: float = 120) -> None:
        """Wait until the API server says that it is ready."""
        self.space.wait_until(self._api_is_ready, "the API server", timeout, ["etcd", "apiserver"])

    def _find(self, program: str) -> tuple[Space, str]:
        """Where a program runs, and its name there."""
        node, slash, name = program.rpartition("/")
        if slash:
            return self.nodes[node].space, name
        if program in PROGRAMS:
            (only,) = self.nodes.values()
            return only.space, program
        return self.space, program

    @property
    def _plane(self) -> ControlPlane:
        return ControlPlane(self.folder, KubernetesServers().obtain(), Etcd().obtain(), self._pace)

    @property
    def _pace(self) -> Pace:
        return Pace(**json.loads((self.folder / "pace.json").read_text()))

    def _start(self, plane: ControlPlane) -> None:
        until(lambda: self.space.started() or not self._is_kept(), "the space", 20)
        if not self._is_kept():
            log = self.folder / "keeper.log"
            raise SpaceError(
                f"no space: {log.read_text(errors='replace')[-2000:] if log.exists() else 'it ended'}"
            )
        run = self.space.run
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "nodes", "type", "bridge")
        run("ip", "address", "add", f"{control_plane.ADDRESS}/16", "dev", "nodes")
        run("ip", "link", "set", "nodes", "up")
        run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.space.start("etcd", plane.etcd())
        self.space.start("apiserver", plane.api_server())
        port = self.space.let_in("127.0.0.1", control_plane.API_PORT)
        plane.kubeconfig("inside", "admin", ("system:masters",))
        plane.kubeconfig("admin", "admin", ("system:masters",), server=f"https://127.0.0.1:{port}")
        self.wait_for_api()
        self.space.start("controller-manager", plane.controller_manager())
        self.space.start("scheduler", plane.scheduler())
        self.wait_for_service_account("default")

    def _is_kept(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def _api_is_ready(self) -> bool:
        try:
            said = self.api.call_api("GET", f"{self.api.configuration.host}/readyz", _request_timeout=2)
        except (HTTPError, OSError):
            return False
        return bool(said.status == 200)
