"""A deployment request: what people write, and the wish that it ends.

The request is one document for every runtime (YAML or JSON for people, JSON on the bus). Each
field that constrains something is enforced by something named in the decision, or the request is
rejected with the field, the reason and what would be accepted.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from schemas.errors import BrokenRule
from schemas.event import Document, EventData
from schemas.names import Token
from schemas.node import RuntimeName
from schemas.quantities import Bytes, Cores, Seconds

Restart = Literal["always", "on-failure", "never"]
TaintEffect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
Preempt = Literal["never", "lower"]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,126}$")]
LabelValue = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
#: The name of an object in Kubernetes.
ObjectName = Annotated[str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
#: Fields that came after the first requests were kept; at their default they are no part of the identity.
_YOUNGER: Final = frozenset({"paused", "labels", "apart", "together", "tolerations", "preempt"})
_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ProcessImage(Document):
    """A program that the node already has.

    Attributes:
        command: the program and its arguments.
        directory: where it starts; a folder of its own unless given.
    """

    command: list[_Text] = Field(min_length=1)
    directory: _Text | None = None


class ContainerImage(Document):
    """A container from an OCI registry, an OCI layout on disk or a root filesystem: exactly one of them.

    Attributes:
        image: a reference in an OCI registry.
        layout: the folder of an OCI layout.
        rootfs: the folder of a root filesystem.
        command: in place of the image's own; a root filesystem has none of its own.
    """

    image: _Text | None = None
    layout: _Text | None = None
    rootfs: _Text | None = None
    command: list[_Text] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "image", "layout", "rootfs")
        return self


class Folder(Document):
    """A folder of the node that a unikernel mounts, where the node's owner offers it.

    Attributes:
        folder: the folder on the node.
        mount: where the unikernel finds it.
        read_only: false to write to it, where the node's owner lets it.
    """

    folder: _Text
    mount: Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)+$", max_length=256)]
    read_only: bool = Field(default=True, alias="readOnly")


class KernelImage(Document):
    """A kernel that boots by itself: a file, an OCI layout or an image as Unikraft's tools make them.

    Attributes:
        kernel: the file of a kernel.
        initrd: its initial RAM disk.
        layout: the folder of an OCI layout.
        image: a reference in an OCI registry.
        disk: the file of a disk image, for a VM.
        folders: folders of the node, for a unikernel.
        arguments: the application's in a unikernel, the kernel's own in front of a `--`; the kernel's in a VM.
    """

    kernel: _Text | None = None
    initrd: _Text | None = None
    layout: _Text | None = None
    image: _Text | None = None
    disk: _Text | None = None
    folders: list[Folder] = Field(default=[], max_length=8)
    arguments: list[_Text] = []

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "kernel", "layout", "image")
        return self


class CloudInit(Document):
    """What a guest's cloud-init finds at its first boot (NoCloud).

    Attributes:
        user_data: a script or a `#cloud-config`.
        network_data: its network, version 1 or 2.
    """

    user_data: str | None = Field(default=None, min_length=1, max_length=256 * 1024, alias="userData")
    network_data: str | None = Field(default=None, min_length=1, max_length=64 * 1024, alias="networkData")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.user_data is None and self.network_data is None:
            raise BrokenRule("it is empty", expected="userData, networkData or both")
        return self


class MachineImage(Document):
    """What a virtual machine boots from: a kernel as it is, or a disk that brings its own.

    Nodes boot kernels by their own QEMU; disks are booted by KubeVirt, where a cluster has it.

    Attributes:
        kernel: the file of a kernel.
        initrd: its initial RAM disk.
        layout: the folder of an OCI layout with a kernel inside.
        image: a reference in an OCI registry, with a kernel inside.
        disk: the file of a disk image, beside a kernel.
        arguments: the kernel's command line.
        container_disk: a reference in an OCI registry, with a bootable disk inside; what is written is lost at its end.
        data_volume: a DataVolume of the cluster's site.
        claim: a PersistentVolumeClaim of the cluster's site.
        cloud_init: what the guest of a disk is told at its first boot.
    """

    kernel: _Text | None = None
    initrd: _Text | None = None
    layout: _Text | None = None
    image: _Text | None = None
    disk: _Text | None = None
    arguments: list[_Text] = []
    container_disk: _Text | None = Field(default=None, alias="containerDisk")
    data_volume: ObjectName | None = Field(default=None, alias="dataVolume")
    claim: ObjectName | None = None
    cloud_init: CloudInit | None = Field(default=None, alias="cloudInit")

    @property
    def boots_a_disk(self) -> bool:
        """Whether the kernel is on the disk, so that nobody outside gives it arguments."""
        return bool(self.container_disk or self.data_volume or self.claim)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "kernel", "layout", "image", "container_disk", "data_volume", "claim")
        wrong = [name for name in ("initrd", "disk", "arguments") if getattr(self, name)]
        if self.boots_a_disk and wrong:
            raise BrokenRule(
                f"{', '.join(wrong)} cannot be given to a disk that brings its own kernel",
                expected="a kernel, layout or image to boot, or none of these",
            )
        if self.cloud_init and not self.boots_a_disk:
            raise BrokenRule(
                "cloudInit needs a disk to boot", expected="containerDisk, dataVolume or claim beside it"
            )
        return self


def _exactly_one(document: BaseModel, *fields: str) -> None:
    names = {field: type(document).model_fields[field].alias or field for field in fields}
    given = [name for field, name in names.items() if getattr(document, field) is not None]
    if len(given) != 1:
        raise BrokenRule(
            f"exactly one of {', '.join(names.values())} is needed, got {', '.join(given) or 'none'}",
            expected=f"one of {', '.join(names.values())}",
        )


class Images(Document):
    """One image for each runtime that the request allows.

    Attributes:
        process: a program that the node has.
        container: a container.
        unikernel: an application that is its own kernel.
        vm: a kernel with an operating system around it, or a disk that holds both.
    """

    process: ProcessImage | None = None
    container: ContainerImage | None = None
    unikernel: KernelImage | None = None
    vm: MachineImage | None = None


class Resources(Document):
    """Limits that the kernel enforces; vim adds the runtime's own overhead to what it reserves.

    Attributes:
        cpu: cores; without it, no limit and no reservation.
        memory: bytes, at least 1MiB; without it, no limit and no reservation.
    """

    cpu: Cores | None = Field(default=None, gt=0, le=1024)
    memory: Bytes | None = Field(default=None, ge=1024 * 1024)


class Port(Document):
    """A port that the workload serves; ``host_port`` pins the node's side, else a free one is taken.

    Attributes:
        name: what others call it.
        port: where the workload listens.
        host_port: where the node listens; a free port unless given.
    """

    name: Token
    port: int = Field(ge=1, le=65535)
    host_port: int | None = Field(default=None, ge=1, le=65535, alias="hostPort")


class File(Document):
    """A file that the workload finds at start, given in the request itself.

    Attributes:
        path: below the workload's folder, without `..`.
        content: text, at most 256 KiB.
        mode: permission bits as a number; 420 is 0644.
        secret: whether a cluster keeps it as a Secret.
    """

    path: Annotated[str, StringConstraints(pattern=r"^/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=512)]
    content: str = Field(max_length=256 * 1024)
    mode: int = Field(default=0o644, ge=0, le=0o777)
    secret: bool = False

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if ".." in path.split("/"):
            raise BrokenRule(
                "'..' is not allowed in the path of a file", expected="a path inside the workload"
            )
        return path


class Health(Document):
    """How to tell that the workload serves: an HTTP path that answers, or a line on its console.

    Attributes:
        http: the path that must answer with a status from 200 to 399.
        console: the text that must appear on the console.
        port: the port by its name; the first unless given.
        every: between two probes.
        timeout: of one probe.
        failures: how many in a row make it unhealthy.
    """

    http: Annotated[str, StringConstraints(pattern=r"^/[^\s]*$", max_length=1024)] | None = None
    console: _Text | None = None
    port: Token | None = None
    every: Seconds = Field(default=5.0, ge=0.1, le=3600)
    timeout: Seconds = Field(default=1.0, ge=0.05, le=60)
    failures: int = Field(default=3, ge=1, le=100)

    @model_validator(mode="after")
    def _one_probe(self) -> Self:
        _exactly_one(self, "http", "console")
        return self


class Spread(Document):
    """Put replicas on different values of an attribute, such as ``name`` or ``rack``.

    Attributes:
        over: the attribute.
    """

    over: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Neighbour(Document):
    """Replicas to keep away from, or to be beside of: of a deployment, of all with some labels, or its own.

    Attributes:
        deployment: one by its id.
        labels: all that carry these labels, whatever else they carry.
        itself: the replicas of this deployment.
        over: the attribute that tells how far: on another `name`, another `rack`, another `region.city`.
    """

    deployment: Token | None = None
    labels: dict[LabelName, LabelValue] | None = Field(default=None, min_length=1, max_length=16)
    itself: Literal[True] | None = None
    over: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "name"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _exactly_one(self, "deployment", "labels", "itself")
        return self

    def __str__(self) -> str:
        if self.itself:
            return "another replica"
        if self.deployment:
            return f"deployment {self.deployment}"
        return f"what is labelled {','.join(f'{key}={value}' for key, value in sorted((self.labels or {}).items()))}"


class Toleration(Document):
    """Taints that do not keep this deployment away, as Kubernetes has them.

    Attributes:
        key: of the taint; without it every taint, which needs the operator `Exists`.
        operator: `Equal` compares the value, `Exists` takes any.
        value: of the taint.
        effect: of the taint; any unless given.
    """

    key: Annotated[str, StringConstraints(min_length=1, max_length=317)] | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: Annotated[str, StringConstraints(max_length=63)] = ""
    effect: TaintEffect | None = None

    @model_validator(mode="after")
    def _can_match(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise BrokenRule("Exists compares no value", field="value", expected="no value, or Equal")
        if self.key is None and self.operator == "Equal":
            raise BrokenRule(
                "without a key there is nothing to equal", field="key", expected="a key, or operator: Exists"
            )
        return self

    def written(self) -> dict[str, str]:
        """As Kubernetes writes it."""
        return self.model_dump(exclude_defaults=True)


class OnLoss(Document):
    """What to do when a replica's node is lost.

    Attributes:
        replace_after: how long a lost node is waited for.
        singleton: whether two of it must never run at once, even if that means none.
    """

    replace_after: Seconds = Field(default=30.0, ge=1, le=86400, alias="replaceAfter")
    singleton: bool = False


class DataUse(Document):
    """A bucket that the workload uses.

    Attributes:
        bucket: its name.
        access: what the workload does with it.
        mount: where it finds it.
    """

    bucket: Token
    access: Literal["read", "write", "read-write"] = "read"
    mount: str | None = None


class DeploymentRequest(EventData):
    """What somebody wants to run (contract, Deployment request).

    Attributes:
        id: the deployment's id, in the subject too; the name unless given.
        name: what people call it.
        labels: what others call it by when they want to be apart from it or together.
        runtimes: in order of preference; the first that fits somewhere wins.
        images: one image for each runtime named.
        resources: limits of one replica.
        ports: what it serves.
        env: its environment.
        files: files that it finds at start.
        replicas: how many of it run.
        where: conditions of the query language that every node must meet.
        prefer: what ranks the nodes that meet them, the first before the second.
        spread: an attribute over whose values replicas are spread.
        pack: whether the fullest node that fits is preferred.
        apart: what no replica may run beside; it holds for whoever comes later, too.
        together: what each replica must run beside.
        tolerations: taints of nodes that do not keep it away.
        data: buckets that it uses.
        health: how to tell that it serves.
        restart: when it ended: always again, only after a failure, or never, as a job.
        on_loss: what happens when its node is lost.
        user: `root` where the workload must be root and the node allows it; else an ordinary user.
        priority: who is placed first when not all fit at once; higher is sooner.
        preempt: `lower` stops replicas of lower priority where there is no room otherwise.
        paused: whether it stands still where it is, with its memory and its place kept.
    """

    model_config = Document.model_config
    event_type: ClassVar[str] = "minicloud.deployment.requested.v1"

    id: Token | None = None
    name: Token | None = None
    labels: dict[LabelName, LabelValue] = Field(default={}, max_length=64)
    runtimes: list[RuntimeName] = Field(min_length=1, max_length=4)
    images: Images
    resources: Resources = Resources()
    ports: list[Port] = Field(default=[], max_length=32)
    env: dict[EnvironmentName, Annotated[str, StringConstraints(max_length=32768)]] = {}
    files: list[File] = Field(default=[], max_length=64)
    replicas: int = Field(default=1, ge=0, le=1000)
    where: dict[str, Any] = {}
    prefer: list[dict[str, Any]] = []
    spread: Spread | None = None
    pack: bool = False
    apart: list[Neighbour] = Field(default=[], max_length=16)
    together: list[Neighbour] = Field(default=[], max_length=16)
    tolerations: list[Toleration] = Field(default=[], max_length=64)
    data: list[DataUse] = []
    health: Health | None = None
    restart: Restart = "always"
    on_loss: OnLoss = Field(default=OnLoss(), alias="onLoss")
    user: Literal["root"] | None = None
    priority: int = Field(default=0, ge=-1000, le=1000)
    preempt: Preempt = "never"
    paused: bool = False

    @property
    def deployment(self) -> str | None:
        """The deployment's id: the name unless an id is given."""
        return self.id or self.name

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.runtimes)) != len(self.runtimes):
            raise BrokenRule("a runtime is named twice", field="runtimes", expected="each runtime once")
        missing = [name for name in self.runtimes if getattr(self.images, name) is None]
        if missing:
            raise BrokenRule(
                f"no image for runtime {', '.join(missing)}",
                field="images",
                expected="an image for each of the runtimes",
            )
        names = [port.name for port in self.ports]
        if len(set(names)) != len(names):
            raise BrokenRule(
                "a name is used twice", field="ports", expected="each port with a name of its own"
            )
        if self.health:
            self._probe_can_be_made(self.health, names)
        if self.spread and self.pack:
            raise BrokenRule(
                "it excludes pack: replicas lie apart or together", field="spread", expected="one of them"
            )
        if any(one.itself for one in self.together):
            raise BrokenRule(
                "its own replicas are packed, not beside themselves", field="together", expected="pack: true"
            )
        return self

    def _probe_can_be_made(self, health: Health, ports: list[str]) -> None:
        if health.http and self.restart == "never":
            raise BrokenRule(
                "a job (restart: never) has its exit code",
                field="health.http",
                expected="no http probe, or another restart",
            )
        if health.http and not ports:
            raise BrokenRule("an http probe needs a port", field="health.http", expected="a port in ports")
        if health.port and health.port not in ports:
            raise BrokenRule(
                f"no port is named {health.port}",
                field="health.port",
                expected=f"one of {', '.join(ports)}" if ports else "a name of one of the ports",
            )

    def spec_hash(self) -> str:
        """The identity of the content: the same request again is a repeat, another is an update."""
        # A field that is younger than a request that runs must not make another request of it.
        younger = {name for name in _YOUNGER if getattr(self, name) == type(self).model_fields[name].default}
        content = self.model_dump_json(by_alias=True, exclude=younger)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


class Cancellation(EventData):
    """The wish that a deployment ends.

    Attributes:
        reason: why, for whoever reads the status.
    """

    model_config = Document.model_config
    event_type: ClassVar[str] = "minicloud.deployment.cancelled.v1"

    reason: str = Field(default="", max_length=4096)


class Migration(EventData):
    """The wish that replicas of a deployment run elsewhere; answered by its next decision.

    Attributes:
        replica: which one; all of them unless given.
        origin: only what is there by now, so that the same wish twice moves nothing twice; wherever it is
            unless given.
        to: the node to which; any other that fits unless given.
        reason: why, for whoever reads it.
    """

    model_config = Document.model_config
    event_type: ClassVar[str] = "minicloud.deployment.migration.v1"

    replica: int | None = Field(default=None, ge=0)
    origin: Token | None = Field(default=None, alias="from")
    to: Token | None = None
    reason: str = Field(default="", max_length=4096)

    @model_validator(mode="after")
    def _another_node(self) -> Self:
        if self.to is not None and self.to == self.origin:
            raise BrokenRule("it is the node that is to be left", field="to", expected="another node")
        return self
