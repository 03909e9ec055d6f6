"""What the owner of a cluster decides about workloads on it; every value has a safe default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from bus.settings import Settings
from schemas.names import Token

_DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class ClusterSettings(Settings):
    """The settings of a cluster's worker beside those of every service."""

    cluster: Token = Field(default="cluster", description="the cluster's name in this minicloud")
    kubeconfig: Path | None = Field(default=None, description="how to reach it; none: from a pod inside it")
    context: str | None = Field(default=None, description="of the kubeconfig; its current one unless given")
    namespace: _DnsLabel = Field(default="minicloud", description="where workloads lie")
    allow_root: bool = Field(default=False, description="whether workloads that ask to be root are")
    allow_privileged: bool = Field(
        default=False, description="whether engines that need a privileged pod may have it"
    )
    uid: int = Field(default=65534, ge=1, description="the user that containers run as")
    gid: int = Field(default=65534, ge=1)
    pull_secrets: str = Field(default="", description="names of image pull secrets, separated by commas")
    expose: Literal["node-port", "cluster-ip"] = Field(
        default="node-port", description="whether ports are reached on the nodes, or inside the cluster only"
    )
    unikernel_engines: str = Field(
        default="urunc,qemu-pod",
        pattern=r"^(urunc|qemu-pod|kernel-boot)( *, *(urunc|qemu-pod|kernel-boot))*$",
        description="what may boot unikernels; kernel-boot, by KubeVirt, where its emulatedMachines list pc*",
    )
    urunc_class: str = Field(default="urunc", description="the RuntimeClass of urunc")
    kvm_resource: str = Field(
        default="devices.kubevirt.io/kvm", description="the resource by which nodes offer their KVM device"
    )
    stop_grace: int = Field(default=10, ge=0, le=600, description="seconds between asking to end and killing")
    start_timeout: int = Field(
        default=60, ge=1, description="seconds within which a health probe must succeed for the first time"
    )
    migration_target_timeout: float = Field(
        default=120.0,
        gt=0,
        description="seconds until a live migration must have a target, since a stuck one tells none",
    )
    migration_timeout: float = Field(
        default=900.0, gt=0, description="seconds until a live migration must be done"
    )
    resync: float = Field(
        default=600.0, gt=0, description="seconds after which all objects are listed anew, whatever was heard"
    )
    beat: float = Field(
        default=5.0, gt=0, description="seconds between signs of life of nodes without an agent, at least"
    )

    @property
    def pull_secret_names(self) -> list[str]:
        """The image pull secrets, one by one."""
        return [name for name in (part.strip() for part in self.pull_secrets.split(",")) if name]
