"""What must run on this node, as plain frozen records, and the error that says why it cannot.

The engine works with these instead of pydantic models so that the worker stays light on small
nodes. They are read from and written to the JSON of a desired workload (contract, Names).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar

from schemas.errors import MinicloudError

Restart = Literal["always", "on-failure", "never"]

#: A workload is `<deployment>-<replica>`: a token of 64 and the number behind it.
_WORKLOAD: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH: Final = re.compile(r"/?[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
RUNTIMES: Final = ("process", "container", "vm", "unikernel")
MIB: Final = 1024 * 1024


class CannotRun(MinicloudError):
    """This node cannot start a workload as it was asked to.

    Attributes:
        reason: one CamelCase word, as it appears in the observed state (``PortInUse``, ``NeedsRoot``).
        lasting: True if trying again cannot help until the request or the node changes.
    """

    code: ClassVar[str] = "CannotRun"
    status: ClassVar[int] = 409

    def __init__(
        self, reason: str, message: str, *, lasting: bool = False, expected: str | None = None
    ) -> None:
        super().__init__(message, expected=expected)
        self.reason = reason
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a workload serves; ``host_port`` pins the node's side, else the worker chooses."""

    name: str
    port: int
    host_port: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file that the workload finds at start; ``path`` is inside its own file system."""

    path: str
    content: str
    mode: int = 0o644

    @property
    def relative(self) -> str:
        """The path below the workload's root, without a leading slash."""
        return self.path.lstrip("/")


@dataclass(frozen=True, slots=True)
class Health:
    """How to tell that a workload serves: an HTTP path that answers, or a text on its console.

    ``every`` and ``timeout`` in seconds; ``failures`` probes in a row make it degraded, as many again
    restart it.
    """

    http: str | None = None
    console: str | None = None
    port: str | None = None
    every: float = 5.0
    timeout: float = 1.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """One replica of a deployment: what to run, with which limits, and what to do when it ends.

    ``cpu`` in cores, ``memory`` and ``memory_overhead`` in bytes; ``image`` is the runtime's own
    document (contract, Deployment request).
    """

    workload: str
    deployment: str
    generation: int
    replica: int
    runtime: str
    image: dict[str, Any]
    cpu: float | None = None
    memory: int | None = None
    memory_overhead: int = 0
    ports: tuple[Port, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    restart: Restart = "always"
    health: Health | None = None
    user: str | None = None
    acceleration: str | None = None
    paused: bool = False

    def __post_init__(self) -> None:
        if not _WORKLOAD.fullmatch(self.workload):
            raise CannotRun(
                "InvalidWorkload",
                f"{self.workload[:80]!r} cannot be the name of a workload",
                lasting=True,
                expected="1 to 80 of a-z A-Z 0-9 _ -",
            )
        if self.runtime not in RUNTIMES:
            raise CannotRun(
                "UnknownRuntime",
                f"{self.runtime!r} is no runtime",
                lasting=True,
                expected=" | ".join(RUNTIMES),
            )
        for name, value in self.env.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise CannotRun(
                    "InvalidEnvironment", f"{name[:80]!r} cannot be an environment variable", lasting=True
                )
        for file in self.files:
            if not _PATH.fullmatch(file.path) or {"..", "."} & set(file.path.split("/")):
                raise CannotRun(
                    "InvalidFile", f"{file.path[:80]!r} leaves the workload's files", lasting=True
                )

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Workload:
        """The record of a desired workload's JSON; fields that the engine does not know are ignored.

        Raises:
            CannotRun: if a field is missing or impossible.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        values = {key: value for key, value in document.items() if key in known}
        if "state" in document:  # a level as it travels; our own record says it in a field
            values["paused"] = document["state"] == "paused"
        try:
            values["ports"] = tuple(_pick(Port, item) for item in values.get("ports") or ())
            values["files"] = tuple(_pick(File, item) for item in values.get("files") or ())
            values["health"] = _pick(Health, values["health"]) if values.get("health") else None
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise CannotRun(
                "InvalidWorkload", f"the desired workload is incomplete: {error}", lasting=True
            ) from error

    def like(self, other: Workload) -> bool:
        """Whether both are one run: which generation says so, and whether it stands still, makes no other."""
        return dataclasses.replace(self, generation=other.generation, paused=other.paused) == other

    def document(self) -> dict[str, Any]:
        """The record as JSON; :meth:`from_document` reads it back."""
        return dataclasses.asdict(self)


_Record = TypeVar("_Record", Port, File, Health)


def _pick(kind: type[_Record], document: dict[str, Any]) -> _Record:
    known = {item.name for item in dataclasses.fields(kind)}
    if "hostPort" in document:  # people write camelCase; nodes write snake_case
        document = {**document, "host_port": document["hostPort"]}
    return kind(**{key: value for key, value in document.items() if key in known})


@dataclass(frozen=True, slots=True)
class Exit:
    """How a workload ended: its exit code, the signal that ended it, and whether memory ran out."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    reason: str | None = None
    message: str | None = None

    @property
    def clean(self) -> bool:
        """True if it ended by itself and well."""
        return self.code == 0 and not self.oom

    def document(self) -> dict[str, Any]:
        """What is published: ``{code, signal, oom}``."""
        return {"code": self.code, "signal": self.signal, "oom": self.oom}
