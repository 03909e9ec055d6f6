"""A workload's folder: what it must survive a kill between any two lines.

In come the desired record and the engine's own, out come both after a restart. Files are replaced
whole (written beside, renamed), and intent is written before it is acted on. Only what a power cut must
not undo is also synced: whatever was under way is over then, and the bus knows what is desired.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.vim.worker.shim import Lock
from services.vim.worker.workload import CannotRun, Workload


@dataclass(slots=True)
class Record:
    """What the engine remembers of a workload beside what is desired.

    ``run`` counts the starts and names the folder of the last one; ``running`` is the workload as it
    was when that run began, which is what a stop must know, whatever is desired by now. ``accounted``
    is the last run whose end was acted on; ``paused`` that the run may stand still.
    """

    run: int = 0
    accounted: int = 0
    running: dict[str, Any] | None = None
    ports: dict[str, int] = field(default_factory=dict)
    acceleration: str | None = None
    paused: bool = False
    emulated: int = 0  # the generation for which hardware acceleration failed
    log_start: int = 0
    restarts: int = 0
    backoff: int = 0
    started_at: str | None = None
    state: str = "creating"
    reason: str = "Accepted"
    message: str = ""
    exit: dict[str, Any] | None = None
    final: int = 0  # the generation that completed or failed for good


class Folder:
    """The files of one workload below ``<data>/workloads/<workload>``.

    Its working directory lies in ``work_root`` if one is given: a place that its user can reach.
    """

    def __init__(self, path: Path, work_root: Path | None = None) -> None:
        self.path = path
        self.lock = Lock(path / "lock")
        self.log = path / "output.log"
        self.machine = path / "machine"
        self.console = self.machine / "console.log"
        self.work = work_root / path.name if work_root else path / "work"
        self.bundle = path / "bundle"

    @property
    def name(self) -> str:
        """The workload."""
        return self.path.name

    def run(self, number: int) -> Path:
        """The folder of the run ``number``."""
        return self.path / f"run-{number}"

    def desired(self) -> Workload | None:
        """What should run; None if it was withdrawn or never written whole."""
        document = _load(self.path / "spec.json")
        if document is None or document.get("withdrawn"):
            return None
        try:
            return Workload.from_document(document)
        except CannotRun:
            return None

    def desire(self, workload: Workload) -> None:
        """Write what should run, making the folder if need be."""
        # Others may pass through, to reach their own files below, but not list.
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        _replace(self.path / "spec.json", workload.document(), synced=False)

    def withdraw(self) -> None:
        """Write that nothing should run here any more: a stop that was begun is finished after a restart."""
        _replace(self.path / "spec.json", {"withdrawn": True}, synced=True)

    def record(self) -> Record:
        """What the engine remembered; a fresh record if it remembered nothing."""
        document = _load(self.path / "state.json") or {}
        known = {item.name for item in dataclasses.fields(Record)}
        return Record(**{key: value for key, value in document.items() if key in known})

    def remember(self, record: Record) -> None:
        """Write the engine's record; that a job ended also survives a power cut."""
        # A sync takes 2 to 50 ms on the disks of such nodes: as long as all the rest of a start.
        _replace(self.path / "state.json", dataclasses.asdict(record), synced=record.final != 0)

    def prepare_run(self, number: int) -> Path:
        """An empty folder for the run ``number``; those of earlier runs go."""
        for old in self.path.glob("run-*"):
            shutil.rmtree(old, ignore_errors=True)
        run = self.run(number)
        run.mkdir(mode=0o711)
        return run

    def remove(self) -> None:
        """Remove the folder; the desire last, so that after a kill the next worker finishes it."""
        shutil.rmtree(self.work, ignore_errors=True)
        for entry in sorted(self.path.iterdir(), key=lambda item: item.name == "spec.json"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        self.path.rmdir()


def _load(file: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _replace(file: Path, document: dict[str, Any], *, synced: bool) -> None:
    beside = file.with_suffix(".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # the environment may hold secrets
    with os.fdopen(handle, "w") as output:
        json.dump(document, output)
        if synced:
            output.flush()
            os.fsync(output.fileno())
    beside.replace(file)
