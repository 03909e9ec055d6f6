"""The control plane: etcd, the API server, the controller manager and the scheduler, as command lines.

All addresses are those inside the cluster's space, where every port is free.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import kubeconfig
from tests.cluster.pki import Authority

#: The address of the control plane on the network that it shares with real nodes.
ADDRESS: Final = "10.77.0.1"
API_PORT: Final = 6443
SERVICES: Final = "10.96.0.0/16"
_FIRST_SERVICE: Final = "10.96.0.1"
_ETCD: Final = "http://127.0.0.1:2379"
_ETCD_PEER: Final = "http://127.0.0.1:2380"
_ISSUER: Final = "https://kubernetes.default.svc"
_SERVER: Final = f"https://127.0.0.1:{API_PORT}"
#: Controllers that wait for a cloud, or for machines that join by a token.
_LEFT_OUT: Final = (
    "bootstrap-signer-controller", "token-cleaner-controller", "node-ipam-controller",
    "node-route-controller", "service-lb-controller", "cloud-node-lifecycle-controller",
)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """How soon Kubernetes holds a silent node for lost, and its pods for gone.

    Attributes:
        lease_s: how long the lease of a KWOK node lasts; it is renewed every quarter.
        grace_s: silence after which a node is NotReady; Kubernetes' own is 50.
        toleration_s: how long pods stay bound to a node that is NotReady; Kubernetes' own is 300.
        hurried: pods leave a lost rack all at once; Kubernetes' own controller takes one node in 10 s.
    """

    lease_s: int = 6
    grace_s: int = 6
    toleration_s: int = 5
    hurried: bool = True


#: For hundreds of nodes on a small machine, where 6 s of silence are sometimes only load, and leases are load.
PATIENT: Final = Pace(lease_s=28, grace_s=20)
#: As Kubernetes does by itself.
STOCK: Final = Pace(lease_s=40, grace_s=50, toleration_s=300, hurried=False)


class ControlPlane:
    """Its certificates, configurations and commands.

    Args:
        folder: of the cluster.
        programs: the folder of Kubernetes' servers.
        etcd: the folder of etcd.
        pace: how soon nodes are held for lost.
        api_server_flags: more flags for the API server, or others: the last of a name counts.
    """

    def __init__(
        self, folder: Path, programs: Path, etcd: Path, pace: Pace, api_server_flags: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self._programs = programs
        self._etcd = etcd
        self._pace = pace
        self._api_server_flags = api_server_flags

    def kubeconfig(
        self, name: str, common_name: str, groups: tuple[str, ...] = (), server: str = _SERVER
    ) -> Path:
        """A kubeconfig for whoever holds a new client certificate."""
        certificate, key = self.authority.issue(name, common_name, groups)
        user = kubeconfig.by_certificate(certificate, key)
        path = self.folder / "kubeconfig" / f"{name}.yaml"
        return kubeconfig.write(path, server, self.authority.certificate.read_bytes(), user)

    def etcd(self) -> list[str | Path]:
        """Without fsync: what the kernel holds survives the kill of a process, and nobody cuts its power."""
        return [
            self._etcd / "etcd", "--data-dir", self.folder / "etcd", "--log-level", "warn", "--unsafe-no-fsync",
            "--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD,
            "--listen-peer-urls", _ETCD_PEER, "--initial-advertise-peer-urls", _ETCD_PEER,
            "--initial-cluster", f"default={_ETCD_PEER}",
        ]  # fmt: skip

    def api_server(self) -> list[str | Path]:
        """The API server; logs and exec reach kubelets by their addresses, since there is no DNS."""
        issue = self.authority.issue
        names = [f"IP:127.0.0.1,IP:{ADDRESS},IP:{_FIRST_SERVICE}", "DNS:localhost,DNS:kubernetes.default.svc"]
        certificate, key = issue("apiserver", "kube-apiserver", names=names)
        client, client_key = issue("apiserver-kubelet", "kube-apiserver", ["system:masters"])
        signing, verifying = self.authority.signing_keys()
        tolerated = self._pace.toleration_s
        return [
            self._programs / "kube-apiserver",
            f"--etcd-servers={_ETCD}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--cert-dir={self.folder / 'apiserver'}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_key}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={verifying}",
            f"--service-account-signing-key-file={signing}",
            f"--service-account-issuer={_ISSUER}",
            f"--api-audiences={_ISSUER}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}",
            f"--default-unreachable-toleration-seconds={tolerated}",
            f"--default-not-ready-toleration-seconds={tolerated}",
            "--enable-priority-and-fairness=false",
            *self._api_server_flags,
        ]

    def controller_manager(self) -> list[str | Path]:
        """Each controller with an account of its own, as clusters have it."""
        name = "system:kube-controller-manager"
        pace = (
            ["--node-eviction-rate=1000", "--secondary-node-eviction-rate=1000"] if self._pace.hurried else []
        )
        private, _ = self.authority.signing_keys()
        return [
            self._programs / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('controller-manager', name)}",
            f"--authentication-kubeconfig={self.folder / 'kubeconfig/controller-manager.yaml'}",
            f"--authorization-kubeconfig={self.folder / 'kubeconfig/controller-manager.yaml'}",
            "--authentication-skip-lookup",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder / 'controller-manager'}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={private}",
            f"--root-ca-file={self.authority.certificate}",
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={self._pace.grace_s}s",
            *pace,
            "--controllers=*," + ",".join(f"-{controller}" for controller in _LEFT_OUT),
        ]

    def scheduler(self) -> list[str | Path]:
        """The default scheduler, allowed to be as quick as it can."""
        configuration = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {
                "kubeconfig": str(self.kubeconfig("scheduler", "system:kube-scheduler")),
                "qps": 1000,
                "burst": 2000,
            },
        }
        path = self.folder / "scheduler.json"
        path.write_text(json.dumps(configuration))
        return [
            self._programs / "kube-scheduler",
            f"--config={path}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder / 'scheduler'}",
            "--authentication-skip-lookup",
        ]
