"""The one shape of a real part: a name, a version, and how it is obtained.

A part is obtained once a version and cached outside the checkout, so that tests, benchmarks and several
checkouts share it. What cannot be had here raises :class:`PartMissing` with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class PartMissing(Exception):
    """A part cannot be had on this machine; the message says why and what would help."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Where progress lines go; the test run points it past pytest's capture."""

    say: Callable[[str], None] = staticmethod(_to_stderr)


def cache() -> Path:
    """The folder of obtained parts: ``$MINICLOUD_PARTS``, else the user's cache.

    Root's is the system's: workloads of a root worker run as another user, who must be able to run what lies
    there, and no other user may look below root's home.
    """
    named = os.environ.get("MINICLOUD_PARTS")
    users = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return Path(named) if named else users / "minicloud" / "parts"


class Part(ABC):
    """A real program or library that tests run against.

    A subclass names itself and writes :meth:`build`; a part that may be on the machine already says so in
    :meth:`installed`.
    """

    name: str
    #: Counts the changes of what :meth:`build` makes of one version; part of the cache's key.
    recipe: int = 1

    @property
    @abstractmethod
    def version(self) -> str:
        """The version that is obtained; part of the cache's key."""

    @abstractmethod
    def build(self, into: Path) -> None:
        """Put the part into an empty folder, or raise :class:`PartMissing`."""

    def installed(self) -> Path | None:
        """Where the machine has the part already, or None."""
        return None

    def entry(self, folder: Path) -> Path:
        """What a user of the part needs, inside the folder that :meth:`build` filled."""
        return folder

    def obtain(self) -> Path:
        """The part, from the machine, from the cache, or made now.

        Raises:
            PartMissing: it cannot be had here.
        """
        found = self.installed()
        return found if found is not None else self.entry(self._cached())

    def available(self) -> str | None:
        """None if the part can be had, else the reason why not."""
        try:
            self.obtain()
        except PartMissing as missing:
            return str(missing)
        return None

    def say(self, line: str) -> None:
        """Tell whoever waits what is going on."""
        Progress.say(f"parts: {self.name}: {line}")

    def _cached(self) -> Path:
        key = self.version.replace("/", "_").replace(":", "_")
        if self.recipe > 1:
            key = f"{key}-{self.recipe}"
        folder = cache() / self.name / key
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / ".lock"):
            if folder.is_dir():  # another run made it while we waited
                return folder
            self.say(f"obtaining {self.version}")
            making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
            try:
                making.chmod(0o755)
                self.build(making)
                making.rename(folder)
            finally:
                shutil.rmtree(making, ignore_errors=True)
            self.say(f"ready in {folder}")
        return folder


def run_tool(command: Sequence[str | Path], *, cwd: Path | None = None, timeout: float = 900) -> str:
    """Run a tool that obtains something; its output, or :class:`PartMissing` with the end of it."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise PartMissing(f"no `{command[0]}` on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise PartMissing(f"`{command[0]}` did not end in {timeout:g} s") from error
    if done.returncode != 0:
        ending = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise PartMissing(f"`{' '.join(map(str, command[:3]))}` failed: {ending}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
